"""A run goes on under what it began with, or not at all."""

import pytest
from msgspec import structs

from bci_bridge.answering import Answering
from bci_bridge.part import part_of
from bci_bridge.segment import Logged
from bci_bridge.settings import ServeConfig
from bci_bridge.setup import Failure, Setup, path_of, read_if_there
from bci_bridge.wire import encode
from runtime.errors import BackendError, FrozenRunError
from tests.integration.replaying import RIG
from tests.integration.tiny import MeanDecoder
from tests.unit.test_answering import said_in_run


class Other(MeanDecoder):
    gallery_sha256 = "e" * 64


def answering(decoder=None, **changes):
    return Answering(
        decoder or MeanDecoder(), lambda: 0, structs.replace(RIG, **changes)
    )


def written(inputs):
    """What a worker that died has left in the log of outcomes."""
    worker, left = answering(), []
    for logged in inputs:
        worker.take(logged)
        left += worker.emit()
    return left


def goes_on(worker, left, inputs):
    for envelope in left:
        worker.know(Logged(0, 0, "out", envelope))
    for logged in inputs:
        worker.take(logged)
    return [type(one.record).__name__ for one in worker.emit()]


@pytest.mark.parametrize(
    ("decoder", "changes", "differing"),
    [
        (Other(), {}, "gallery_sha256"),
        (None, {"abstain_below": 0.9}, "abstain_below"),
        (None, {"abstain_below": 0.9, "threads": 7}, "threads, abstain_below"),
    ],
)
def test_a_run_under_way_is_refused_by_whoever_would_answer_otherwise(
    decoder, changes, differing
):
    inputs = list(said_in_run("run-1"))
    left = written(inputs[:2])

    with pytest.raises(FrozenRunError) as raised:
        goes_on(answering(decoder, **changes), left, inputs)

    assert str(raised.value) == (
        "run run-1, which is under way in the log: expected the configuration it began "
        f"with, found another {differing}. Serve with what it began with, or on "
        "another log"
    )


def test_whoever_has_the_same_goes_on():
    inputs = list(said_in_run("run-1"))

    kinds = goes_on(answering(), written(inputs[:2]), inputs)

    assert kinds == ["VolumeOutcome", "VolumeOutcome", "RunEnded"]


def test_a_run_that_is_over_binds_nobody():
    inputs = list(said_in_run("run-1"))
    worker = answering(Other())

    assert goes_on(worker, written(inputs), inputs) == []
    assert "VolumeOutcome" in goes_on(worker, [], said_in_run("run-2"))


def test_a_run_without_any_outcome_is_held_to_what_its_start_demands():
    start, *_ = said_in_run("run-1")
    named = structs.replace(start.envelope.record, bundle_sha256="d" * 64)
    logged = Logged(0, 0, "in/scanner", encode(named))

    with pytest.raises(FrozenRunError) as raised:
        goes_on(answering(), [], [logged])

    assert str(raised.value) == (
        f"run run-1, which is under way in the log: bundle: expected {'d' * 64}, "
        f"found {'b' * 64}. Serve with what it began with, or on another log"
    )


@pytest.mark.parametrize(
    ("error", "is_final"), [(FrozenRunError("run"), True), (BackendError("b"), False)]
)
def test_no_other_worker_is_tried_where_a_run_is_frozen(
    tmp_path, monkeypatch, error, is_final
):
    monkeypatch.setattr("bci_bridge.part._die_with", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    setup = Setup(
        config=ServeConfig(), recording=None, moment=str(tmp_path), supervisor=0
    )

    with pytest.raises(type(error)), part_of(setup, "worker-a"):
        raise error

    left = read_if_there(path_of(tmp_path, "worker-a", "failure"), Failure)
    assert left is not None
    assert left.is_final is is_final
