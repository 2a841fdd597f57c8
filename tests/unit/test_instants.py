"""Which instants of a scanner are believed, and what one that jumps costs."""

import pytest

from bci_bridge import actions as do
from bci_bridge.acquisitions import Acquisitions, AcquisitionsState
from bci_bridge.messages import Missing, RunStart, Volume
from bci_bridge.wire import encode

S = 1_000_000_000
NOW = 10_000 * S
SHAPE = (1, 1, 2)
ANOMALY = ("TIME_ANOMALY",)


class Run:
    """A run's acquisitions, with a TR of 1 s."""

    def __init__(self, pace="live", budget_s=1.0, began_ns=None):
        self.start = RunStart(
            run="run-1",
            shape=SHAPE,
            tr_s=1.0,
            expected_volumes=300,
            budget_s=budget_s,
            pace=pace,
        )
        self.acquisitions = Acquisitions(self.start, began_ns)

    def take(self, record, now_ns, payload=b""):
        return self.acquisitions.take(b"s", encode(record, payload), now_ns)

    def volume(self, index, acquired_ns, now_ns):
        record = Volume(
            run="run-1",
            volume_index=index,
            acquired_ns=acquired_ns,
            dtype="i2",
            shape=SHAPE,
        )
        return self.take(record, now_ns, bytes(4))

    def used(self, index, acquired_ns, now_ns):
        """What is odd about a volume that is used, and its deadline."""
        (add,) = self.volume(index, acquired_ns, now_ns)
        assert isinstance(add, do.AddVolume)
        return add.degraded, add.deadline_ns

    def punctual(self, count):
        for index in range(count):
            now_ns = NOW + index * S
            budget_ns = round(self.start.budget_s * S)
            assert self.used(index, now_ns, now_ns) == ((), now_ns + budget_ns)
            assert self.acquisitions.tick(now_ns) == []
        return self


def test_an_instant_that_jumps_back_costs_no_volume():
    run = Run().punctual(5)
    now_ns = NOW + 5 * S

    assert run.used(5, now_ns - 250 * S, now_ns) == (ANOMALY, now_ns + S)
    assert run.acquisitions.tick(now_ns + S) == []
    assert run.used(6, now_ns + S, now_ns + S) == ((), now_ns + 2 * S)


def test_a_clock_that_stays_behind_costs_no_volume():
    run = Run().punctual(5)

    for index in range(5, 100):
        now_ns = NOW + index * S
        found = run.used(index, now_ns - 250 * S, now_ns)
        assert found == (ANOMALY, now_ns + S)
        assert run.acquisitions.tick(now_ns + S) == []


def test_what_was_held_back_by_an_outage_has_the_instants_that_it_says():
    run = Run().punctual(5)
    now_ns = NOW + 3605 * S

    for index in range(5, 60):
        acquired_ns = NOW + index * S
        assert run.used(index, acquired_ns, now_ns) == ((), acquired_ns + S)


@pytest.mark.parametrize(("age_s", "is_odd"), [(12, False), (12.001, True)])
def test_a_first_volume_is_ten_seconds_beyond_its_budget_at_most(age_s, is_odd):
    acquired_ns = NOW - round(age_s * S)

    found = Run(budget_s=2.0).used(0, acquired_ns, NOW)

    expected = (ANOMALY, NOW + 2 * S) if is_odd else ((), acquired_ns + 2 * S)
    assert found == expected


def test_a_clock_that_stays_behind_a_little_costs_no_volume_either():
    run = Run(budget_s=2.0).punctual(5)

    for index in range(5, 60):
        now_ns = NOW + index * S
        found = run.used(index, now_ns - 8 * S, now_ns)
        assert found == (ANOMALY, now_ns + 2 * S)
        assert run.acquisitions.tick(now_ns + S) == []


def test_a_gap_in_a_burst_does_not_make_an_outage_s_instants_impossible():
    # The console paused at 5 and gave 5 and 7 together, 6 was lost; then the line.
    run = Run().punctual(5)
    now_ns = NOW + 60 * S

    assert run.used(5, NOW + 8 * S, now_ns) == ((), NOW + 9 * S)
    run.take(Missing(run="run-1", volume_index=6), now_ns)
    assert run.used(7, NOW + 8 * S + 1, now_ns) == ((), NOW + 9 * S + 1)
    for index in range(8, 50):
        acquired_ns = NOW + index * S
        assert run.used(index, acquired_ns, now_ns) == ((), acquired_ns + S)


def test_what_was_held_back_from_the_beginning_has_the_instants_that_it_says():
    run = Run(began_ns=NOW)
    now_ns = NOW + 600 * S

    for index in range(60):
        acquired_ns = NOW + (index + 1) * S
        assert run.used(index, acquired_ns, now_ns) == ((), acquired_ns + S)


def test_a_burst_after_a_pause_is_of_its_instants_though_one_is_lost_in_it():
    run = Run(budget_s=2.0).punctual(5)
    now_ns = NOW + 8 * S

    assert run.used(5, now_ns, now_ns)[0] == ()
    run.take(Missing(run="run-1", volume_index=6), now_ns)
    assert run.used(7, now_ns + 1, now_ns + 1)[0] == ()


def test_a_recording_that_lacks_volumes_may_be_played_faster():
    run = Run()

    for index in range(0, 40, 3):
        now_ns = NOW + index * S // 8
        for lost in (index - 2, index - 1):
            if lost > 0:
                run.take(Missing(run="run-1", volume_index=lost), now_ns)
        assert run.used(index, now_ns, now_ns) == ((), now_ns + S)


def test_a_recording_may_be_played_faster():
    run = Run()

    for index in range(40):
        now_ns = NOW + index * S // 8
        assert run.used(index, now_ns, now_ns) == ((), now_ns + S)


@pytest.mark.parametrize(("earlier_s", "is_odd"), [(0.5, False), (0.501, True)])
def test_volumes_that_were_put_in_order_are_half_a_tr_earlier_at_most(
    earlier_s, is_odd
):
    run = Run().punctual(5)

    degraded, _ = run.used(5, NOW + 4 * S - round(earlier_s * S), NOW + 5 * S)

    assert degraded == (ANOMALY if is_odd else ())


def test_an_instant_that_leaves_no_time_for_what_the_source_missed_is_not_used():
    run = Run().punctual(5)
    for index in range(5, 25):
        run.take(Missing(run="run-1", volume_index=index), NOW + index * S)
    now_ns = NOW + 25 * S

    found = run.used(25, NOW + 5 * S, now_ns)

    assert found == (ANOMALY, now_ns + S)
    assert run.acquisitions.tick(now_ns + S) == []


def test_a_volume_that_is_not_used_moves_the_deadlines_by_an_instant_that_can_be():
    run = Run().punctual(5)
    now_ns = NOW + 8 * S
    run.acquisitions.tick(now_ns)

    (note,) = run.volume(5, NOW - 250 * S, now_ns)

    assert note.record.what == "LATE_VOLUME_NOT_USED"
    assert run.acquisitions.state().anchor == (5, now_ns)


@pytest.mark.parametrize("age_s", [0, 250])
def test_who_goes_on_from_what_is_known_decides_the_same(age_s):
    run = Run().punctual(5)
    run.volume(5, NOW + (5 - age_s) * S, NOW + 5 * S)
    known = run.acquisitions.state()

    run.acquisitions = Acquisitions.from_state(run.start, known)

    assert run.acquisitions.state() == known
    assert run.used(6, NOW + 2 * S, NOW + 6 * S)[0] == ANOMALY


def test_what_was_known_before_the_schedule_was_kept_has_that_of_its_volume():
    known = AcquisitionsState(
        next_index=4, anchor=(3, NOW + 3 * S), came=4, missed=[], trials=[]
    )
    run = Run()

    run.acquisitions = Acquisitions.from_state(run.start, known)

    assert run.acquisitions.due_ns() == NOW + 5 * S
    assert run.acquisitions.state().schedule_ns == NOW
    assert run.used(4, NOW - 250 * S, NOW + 4 * S)[0] == ANOMALY


def test_whoever_catches_up_may_say_any_instant():
    run = Run(pace="catchup")

    for index, acquired_ns in enumerate((NOW, 0, NOW + 10**15, -5)):
        assert run.used(index, acquired_ns, NOW) == ((), None)
