"""The outbox knows how many acquisitions of the newest run are answered."""

from bci_bridge.outbox import Outbox
from bci_bridge.outcomes import RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.wire import encode

COMMON = {"decided_ns": 0, "published_ns": 0}


def volume(index, place, run="run-1"):
    return encode(
        VolumeOutcome(
            run=run, outcome_index=place, volume_index=index, input="OK",
            timing="LIVE", **COMMON,
        )
    )  # fmt: skip


def trial(place, run="run-1"):
    return encode(
        TrialOutcome(
            run=run, outcome_index=place, trial_id=f"t{place}", decision="ANSWER",
            onset_s=0.0, delay_s=4.0, first_volume=0, last_volume=1, volumes_used=2,
            timing="LIVE", after_volume=1, **COMMON,
        )
    )  # fmt: skip


def test_acquisitions_are_counted_and_trials_are_not():
    outbox, found = Outbox(), []
    for one in (
        volume(0, 0),
        volume(1, 1),
        trial(2),
        trial(3),
        volume(2, 4),
        encode(
            RunEnded(run="run-1", outcome_index=5, count=3, aborted=False, **COMMON)
        ),
    ):
        outbox.keep(one)
        found.append(outbox.answered)

    assert found == [1, 2, 2, 2, 3, 3]


def test_another_run_begins_at_nothing():
    outbox = Outbox()
    before = outbox.answered
    outbox.keep(volume(0, 0))
    outbox.start_run("run-2")

    assert (before, outbox.answered) == (0, 0)
