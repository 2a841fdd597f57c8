"""The outbox: what is answered of the newest run, and what it has to hand out again."""

from bci_bridge.messages import ReplayRequest
from bci_bridge.outbox import KEPT_RUNS, Outbox
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


def test_the_end_of_a_replay_names_the_run_before_also_one_that_is_gone():
    outbox = Outbox(run_before="run-0")
    names = [f"run-{1 + number}" for number in range(KEPT_RUNS + 1)]
    told = []
    for name in names:
        outbox.start_run(name)
        done = outbox.replay(ReplayRequest(run=name))[-1].record
        told.append(done.run_before)

    gone, *kept = [outbox.replay(ReplayRequest(run=name))[-1].record for name in names]

    assert told == ["run-0", *names[:-1]]
    assert (gone.is_known, gone.run_before) == (False, "")
    assert [(one.is_known, one.run_before) for one in kept] == [
        (True, before) for before in names[:-1]
    ]


def test_what_is_left_of_a_run_did_not_come_before_itself():
    outbox = Outbox(run_before="run-1")
    outbox.start_run("run-1")

    assert outbox.replay(ReplayRequest())[-1].record.run_before == ""


def handed_out(outbox, from_index=0, limit=256):
    """Indices that one answer holds, and where to ask next."""
    asked = ReplayRequest(run="run-1", from_index=from_index, limit=limit)
    *found, done = outbox.replay(asked)
    assert done.record.outcome_count == outbox.count
    return [one.record.outcome_index for one in found], done.record.next_index


def test_what_the_log_has_lost_is_a_gap_and_the_rest_is_handed_out():
    outbox = Outbox()
    kept = [outbox.keep(volume(n, n)) for n in (0, 1, 4, 5, 9)]

    assert kept == [True] * 5
    assert (outbox.count, outbox.answered) == (10, 10)
    assert handed_out(outbox) == ([0, 1], 2)
    assert handed_out(outbox, 1) == ([1], 2)
    # From within a gap nothing comes, and where it ends is said.
    assert handed_out(outbox, 2) == ([], 4)
    assert handed_out(outbox, 3) == ([], 4)
    assert handed_out(outbox, 4) == ([4, 5], 6)
    assert handed_out(outbox, 4, limit=1) == ([4], 5)
    assert handed_out(outbox, 6) == ([], 9)
    assert handed_out(outbox, 9) == ([9], 10)
    assert handed_out(outbox, 10) == handed_out(outbox, 99) == ([], 10)


def test_an_outcome_that_is_there_stays_and_one_that_fills_a_gap_is_kept():
    outbox = Outbox()
    for one in (volume(0, 0), volume(2, 2)):
        outbox.keep(one)

    assert not outbox.keep(volume(7, 2))
    assert outbox.keep(volume(1, 1))
    assert not outbox.keep(volume(1, 1))
    assert handed_out(outbox) == ([0, 1, 2], 3)
    assert outbox.answered == 3


def test_a_run_of_which_only_the_end_is_left_says_where_that_begins():
    outbox = Outbox()
    outbox.keep(volume(40, 60))

    assert handed_out(outbox) == ([], 60)
    assert handed_out(outbox, 60) == ([60], 61)
