"""What `serve` says at its start, and at its end of acquisitions nobody answered."""

import pytest
from msgspec import structs

import neuroflow
from bci_bridge.settings import ServeReport
from runtime.estimator import BetaEstimator
from runtime.manifest import MANIFEST, decode_manifest
from tests.integration.served_model import write_model
from verbs.inspect import _lines

pytestmark = pytest.mark.slow

OWED = (
    "neuroflow: serve: expected an outcome for every acquisition of the last run, "
    "found "
)
ENDLESS = (
    "neuroflow: serve: expected the end of the last run among its outcomes, found "
    "none, and maybe trials without theirs; they are "
)
KEPT = "on record in {log}: serve on it again\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    write_model(out)
    return out


@pytest.mark.parametrize(
    ("left", "is_logged", "status", "said"),
    [
        ({}, True, 0, "log ON\n"),
        ({"unanswered": 3}, True, 1, f"{OWED}3 without; they are {KEPT}"),
        ({"unanswered": 3}, False, 1, f"{OWED}3 without; they are lost\n"),
        ({"lacks_end": True}, True, 1, f"{ENDLESS}{KEPT}"),
        ({"lacks_end": True}, False, 1, f"{ENDLESS}lost\n"),
    ],
)
def test_a_server_that_leaves_acquisitions_unanswered_fails(
    model, tmp_path, monkeypatch, capsys, left, is_logged, status, said
):
    report = ServeReport(runs=1, outcomes={}, rejected={}, recording="ON", **left)
    monkeypatch.setattr("verbs.serve.serve_supervised", lambda *_, **__: report)
    log, folders = tmp_path / "log", [model / "bundle", model / "gallery"]
    line = ["neuroflow", "serve", "--bundle", folders[0], "--gallery", folders[1]]
    line += ["--log", log] if is_logged else []
    monkeypatch.setattr("sys.argv", [str(word) for word in line])

    assert neuroflow.main() == status

    assert capsys.readouterr().err.endswith(said.format(log=log))


def test_what_a_bundle_asks_for_is_said_first_and_what_was_not_used_last(
    model, monkeypatch, capsys
):
    report = ServeReport(
        runs=1, outcomes={"VolumeOutcome": 9, "RunEnded": 1}, rejected={},
        recording="OFF", unused={"MISSING": 2, "INVALID": 7},
    )  # fmt: skip
    asking = BetaEstimator(confounds=("resp", "cardiac"))
    monkeypatch.setattr("verbs.serve.require_live", lambda _: asking)
    monkeypatch.setattr("verbs.serve.serve_supervised", lambda *_, **__: report)
    line = ["serve", "--bundle", model / "bundle", "--gallery", model / "gallery"]
    monkeypatch.setattr("sys.argv", ["neuroflow", *map(str, line)])

    assert neuroflow.main() == 0

    lines = capsys.readouterr().err.splitlines()
    assert (
        f"neuroflow: {model / 'bundle'}: asks for confounds with every volume: resp, "
        "cardiac. play --confounds tells them; send tells none, and its runs are "
        "refused"
    ) in lines
    assert lines[-1] == (
        "neuroflow: 1 runs, 1 RunEnded, 9 VolumeOutcome (7 INVALID, 2 MISSING), "
        "0 messages refused, log OFF"
    )


def test_a_copy_of_a_segment_is_refused_before_anything_is_opened(
    tmp_path, monkeypatch, capsys
):
    log = tmp_path / "log"
    (log / "inputs").mkdir(parents=True)
    for name in ("000000.mcap", "000000 (copy).mcap"):
        (log / "inputs" / name).write_bytes(b"x")
    line = ["neuroflow", "serve", "--bundle", "x", "--gallery", "x", "--log", log]
    monkeypatch.setattr("sys.argv", [str(word) for word in line])

    assert neuroflow.main() == 2

    assert capsys.readouterr().err == (
        f"neuroflow: recording {log}: inputs: 000000 (copy).mcap: expected segments "
        "alone, named like 000000.mcap, found another file. Move it out of the "
        "recording.\n"
    )


def test_what_a_bundle_asks_for_is_inspected(model):
    manifest = decode_manifest((model / "bundle" / MANIFEST).read_bytes())
    asking = BetaEstimator(confounds=("resp", "cardiac"), decision_delay_s=8.0)

    lines = dict(_lines(structs.replace(manifest, estimator=asking)))
    assert lines["input"] == (
        "beta, 8 s after the onset, with resp, cardiac told with every volume"
    )
