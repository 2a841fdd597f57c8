"""What was late, withheld, degraded or broken off is seen by who watches."""

import json

import numpy as np
import pytest
from msgspec import structs
from neuroflow_client import (
    GapError,
    ScoredStimulus,
    TrialOutcome,
    Update,
    VolumeOutcome,
)

from bci_bridge.player import run_start_from
from bci_bridge.sender import Sender
from runtime.errors import BackendError
from tests.integration.tiny import SHAPE, PlayedRun
from verbs.watch import line_of, watch_server

VOLUME = VolumeOutcome(
    run="run-1",
    outcome_index=5,
    volume_index=5,
    input="OK",
    timing="LIVE",
    decision="ANSWER",
    label="10",
)
TRIAL = TrialOutcome(
    run="run-1",
    outcome_index=6,
    trial_id="t-1",
    decision="ANSWER",
    label="cat",
    confidence=0.75,
    candidates=(ScoredStimulus(stimulus_id="cat.png"),),
    delay_s=6.0,
)
UPDATE = Update(
    run="run-1",
    outcome_index=4,
    trial_id="t-1",
    decision="ANSWER",
    label="cat",
    candidates=TRIAL.candidates,
    delay_s=4.0,
)
TOO_LATE = {
    "timing": "LATE",
    "decision": "ABSTAIN",
    "label": None,
    "abstention": "too late",
    "degraded": ("LATE_DROPPED",),
}


@pytest.mark.parametrize(
    ("outcome", "changes", "line"),
    [
        (VOLUME, {}, "volume     5  OK LIVE  10"),
        (VOLUME, {"decision": None}, "volume     5  OK LIVE"),
        (VOLUME, {"timing": "LATE"}, "volume     5  OK LATE  10"),
        (
            VOLUME,
            {"timing": "LATE", "degraded": ("LATE_HELD_LAST",)},
            "volume     5  OK LATE  10  (LATE_HELD_LAST)",
        ),
        (VOLUME, TOO_LATE, "volume     5  OK LATE    (too late, LATE_DROPPED)"),
        (
            VOLUME,
            {"input": "MISSING", "decision": None, "reason": "DEADLINE"},
            "volume     5  MISSING LIVE  (DEADLINE)",
        ),
        (
            VOLUME,
            {"degraded": ("RECORDING_DEGRADED",)},
            "volume     5  OK LIVE  10  (RECORDING_DEGRADED)",
        ),
        (
            TRIAL,
            {},
            "trial    t-1  ANSWER cat cat.png  75% sure  6 s after the onset",
        ),
        (
            TRIAL,
            {"timing": "LATE"},
            "trial    t-1  ANSWER cat cat.png  75% sure  6 s after the onset  (LATE)",
        ),
        (
            TRIAL,
            {**TOO_LATE, "confidence": None, "candidates": ()},
            "trial    t-1  ABSTAIN    6 s after the onset  "
            "(too late, LATE, LATE_DROPPED)",
        ),
        (
            TRIAL,
            {"decision": "ABSTAIN", "abstention": "confidence below 0.8"},
            "trial    t-1  ABSTAIN cat cat.png  75% sure  6 s after the onset  "
            "(confidence below 0.8)",
        ),
        (UPDATE, {}, "trial    t-1  so far cat cat.png  4 s after the onset"),
        (
            UPDATE,
            {"degraded": ("RECORDING_DEGRADED",)},
            "trial    t-1  so far cat cat.png  4 s after the onset  "
            "(RECORDING_DEGRADED)",
        ),
    ],
)
def test_a_line_ends_with_what_is_to_be_said_of_its_outcome(outcome, changes, line):
    assert line_of(structs.replace(outcome, **changes)) == line


def sent(address, run, *, is_aborted):
    """Send a run of two volumes to its end."""
    start = run_start_from(PlayedRun(run, 2), speed=None)
    with Sender(address, start) as sender:
        for index in range(2):
            sender.volume(index, np.full(SHAPE, index, np.int16), 0)
        sender.close(2, aborted=is_aborted)


@pytest.mark.parametrize("as_json", [False, True])
def test_who_watches_a_run_that_is_aborted_is_told_so_and_fails(
    running, capsys, as_json
):
    server = running()
    for run in ("run-1", "run-2"):
        sent(server.address, run, is_aborted=run == "run-2")

    watch_server(server.address, run="run-1", follow=False, as_json=as_json)
    whole = capsys.readouterr().out.splitlines()
    with pytest.raises(BackendError) as caught:
        watch_server(server.address, run="run-2", follow=False, as_json=as_json)
    broken = capsys.readouterr().out.splitlines()

    assert str(caught.value) == (
        "run run-2: expected its end, found it aborted after 2 acquisitions"
    )
    assert len(whole) == len(broken) == 2
    if as_json:
        assert [json.loads(line)["kind"] for line in broken] == ["VolumeOutcome"] * 2


def test_who_follows_is_told_of_the_aborted_run_before_the_next_one(
    running, capsys, monkeypatch
):
    server = running()
    sent(server.address, "run-1", is_aborted=True)
    sent(server.address, "run-2", is_aborted=False)
    shown = []

    def show(line, **_):
        shown.append(str(line))
        if len(shown) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", show)
    with pytest.raises(KeyboardInterrupt):
        watch_server(server.address, run="run-1", follow=True, as_json=False)

    assert shown[2] == (
        "neuroflow: run run-1: expected its end, found it aborted after 2 acquisitions"
    )
    assert [line.split()[1] for line in (*shown[:2], *shown[3:])] == ["0", "1"] * 2


class Lossy:
    """A client that is told what to give out, a gap where an error is."""

    def __init__(self, *steps):
        self.steps, self.next_index = list(steps), 0

    def __call__(self, *_, **__):
        return self

    def __iter__(self):
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            yield step


GONE = GapError("run-x", 0, None)
GONE_LINE = (
    "run run-x: expected outcomes from 0 on, found that the server does not have them"
)


def test_that_a_run_is_not_there_is_said_once(capsys, monkeypatch):
    monkeypatch.setattr("verbs.watch.Client", Lossy(GONE))

    with pytest.raises(BackendError) as caught:
        watch_server("tcp://x", run="run-x", follow=False, as_json=False)

    assert str(caught.value) == GONE_LINE
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("follow", [False, True])
def test_that_a_run_is_gone_is_said_before_what_comes_after_it(
    capsys, monkeypatch, follow
):
    shown = []
    monkeypatch.setattr("verbs.watch.Client", Lossy(GONE, GONE, VOLUME))
    monkeypatch.setattr("builtins.print", lambda line, **_: shown.append(str(line)))

    with pytest.raises(BackendError, match="run run-x: expected outcomes from 0 on"):
        watch_server("tcp://x", follow=follow, as_json=False)

    assert shown == [f"neuroflow: {GONE_LINE}"] * 2 + [line_of(VOLUME)]


def test_who_follows_is_told_at_once_that_a_run_is_gone(capsys, monkeypatch):
    monkeypatch.setattr("verbs.watch.Client", Lossy(GONE, KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        watch_server("tcp://x", follow=True, as_json=False)

    assert capsys.readouterr().err == f"neuroflow: {GONE_LINE}\n"
