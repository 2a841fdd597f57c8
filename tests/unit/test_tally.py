"""What is counted is every outcome once, whoever counts it and whenever he dies."""

from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.outcomes import RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.tally import Tally

HASHES = {"decided_ns": 0}


def volume(index, run="run-1", **changes):
    fields = {
        "input": "OK", "timing": "LIVE", "published_ns": 30_000_000,
        "acquired_ns": 0, "received_ns": 25_000_000,
    }  # fmt: skip
    return VolumeOutcome(
        run=run, outcome_index=index, volume_index=index, **HASHES, **fields | changes
    )


def trial(index, run="run-1", decision="ANSWER"):
    return TrialOutcome(
        run=run, outcome_index=index, trial_id="t", decision=decision, onset_s=0.0,
        delay_s=4.0, first_volume=0, last_volume=1, volumes_used=2, timing="LIVE",
        after_volume=1, published_ns=0, **HASHES,
    )  # fmt: skip


def ended(index, run="run-1"):
    return RunEnded(
        run=run, outcome_index=index, count=index, aborted=False, published_ns=0,
        **HASHES,
    )  # fmt: skip


def test_outcomes_are_counted_by_kind_input_or_decision_and_timing():
    tally = Tally()
    for one in (
        volume(0),
        volume(1, input="MISSING", timing="LATE", reason="DEADLINE"),
        volume(2, timing="LATE", degraded=("RECORDING_DEGRADED",)),
        trial(3, decision="ABSTAIN"),
        ended(4),
    ):
        tally.add(one)

    counts = tally.counts
    assert counts.outcomes == {
        "VolumeOutcome OK LIVE": 1, "VolumeOutcome MISSING LATE": 1,
        "VolumeOutcome OK LATE": 1, "TrialOutcome ABSTAIN LIVE": 1, "RunEnded": 1,
    }  # fmt: skip
    assert counts.by_kind() == {"VolumeOutcome": 3, "TrialOutcome": 1, "RunEnded": 1}
    assert (counts.late, counts.degraded, counts.gaps) == (2, 1, {"DEADLINE": 1})
    assert counts.unused() == {"MISSING": 1}


def test_acquisitions_of_which_nothing_was_used_are_counted_by_why():
    tally = Tally()
    for index, said in enumerate(("OK", "INVALID", "MISSING", "INVALID")):
        tally.add(volume(index, input=said, timing=("LIVE", "LATE")[index % 2]))

    assert tally.counts.unused() == {"INVALID": 2, "MISSING": 1}


def test_latency_is_of_volumes_in_time_on_clocks_that_can_be_compared():
    tally = Tally()
    tally.add(volume(0))
    tally.add(volume(1, timing="CATCHUP"))
    tally.add(volume(2, input="INVALID"))
    tally.add(volume(3, clock_offset_ns=7))
    tally.add(volume(4, acquired_ns=31_000_000))
    tally.add(volume(5, degraded=("TIME_ANOMALY",)))
    tally.add(volume(6, clock_offset_ns=-7, clock_uncertainty_ns=7))  # the same clock
    tally.add(volume(7, clock_offset_ns=-8, clock_uncertainty_ns=7))

    acquired, received = tally.counts.from_acquired, tally.counts.from_received
    assert (acquired.count, acquired.sum_ns) == (2, 60_000_000)
    assert (received.count, received.sum_ns) == (6, 30_000_000)


def log(lengths):
    """Runs one after the other, each with so many volumes and its end."""
    for number, length in enumerate(lengths):
        run = f"run-{number}"
        yield from (volume(index, run) for index in range(length))
        yield ended(length, run)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=4),
    st.integers(0, 30),
)
def test_whenever_publishers_die_each_outcome_is_counted_once(lengths, deaths, old):
    outcomes = list(log(lengths))
    old = min(old, len(outcomes))
    tally, done, written = Tally(), old, None
    for one in outcomes[:old]:
        tally.know(one)
    written = tally.counts
    for at, unwritten in deaths:
        at = max(min(at, len(outcomes)), done)
        for place in range(done, at):
            tally.add(outcomes[place])
            # Its account is written now and then: the last few are not in it.
            if place < at - unwritten:
                written = tally.counts
        done = at
        tally = Tally(written)
        # It reads again at least the last two runs, and maybe more.
        for one in outcomes[:done]:
            tally.know(one)
        written = tally.counts
    for one in outcomes[done:]:
        tally.add(one)

    kinds = tally.counts.by_kind()
    assert sum(kinds.values()) == len(outcomes) - old
