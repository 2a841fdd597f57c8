"""An earlier estimate is begun where it makes no volume wait, and nowhere else."""

from bci_bridge.messages import RunStart
from bci_bridge.updates import MARGIN, Updates

MS = 1_000_000
TR_S = 1.0
TR_NS = round(TR_S * 1e9)


def begun(*, pace="live", updates=True, cost_ns=50 * MS):
    found = Updates()
    if cost_ns is not None:
        found.took(cost_ns)
    found.start(
        RunStart(
            shape=(1, 1, 1),
            tr_s=TR_S,
            expected_volumes=9,
            budget_s=1.0,
            pace=pace,
            updates=updates,
        )
    )
    return found


def after_two_volumes(found, apart_ns=TR_NS):
    found.renew(0, ["early"])
    found.renew(apart_ns, ["t-1", "t-2"])
    return apart_ns


def test_each_trial_that_waits_has_its_turn_once_an_acquisition():
    found = begun()
    now_ns = after_two_volumes(found)

    assert [found.next(now_ns) for _ in range(3)] == ["t-1", "t-2", None]


def test_none_is_begun_with_less_than_its_margin_before_the_next_volume():
    for left_ns, expected in ((MARGIN * 50 * MS, "t-1"), (MARGIN * 50 * MS - 1, None)):
        found = begun()
        now_ns = after_two_volumes(found)
        assert found.next(now_ns + TR_NS - left_ns) == expected


def test_a_recording_that_is_played_faster_leaves_less_time():
    found = begun(cost_ns=60 * MS)
    now_ns = after_two_volumes(found, apart_ns=100 * MS)

    assert found.next(now_ns) is None


def test_after_a_pause_the_next_volume_is_expected_a_tr_later():
    found = begun(cost_ns=400 * MS)
    now_ns = after_two_volumes(found, apart_ns=10 * TR_NS)

    assert found.next(now_ns + TR_NS // 2) is None


def test_before_the_first_answer_was_timed_none_is_begun():
    found = begun(cost_ns=None)
    now_ns = after_two_volumes(found)

    assert found.next(now_ns) is None
    found.took(50 * MS)
    assert found.next(now_ns) == "t-1"


def test_before_two_volumes_nobody_knows_when_the_next_one_comes():
    found = begun()
    found.renew(0, ["t-1"])

    assert found.next(0) is None


def test_where_nobody_asked_or_nobody_waits_for_answers_none_is_begun():
    for found in (begun(updates=False), begun(pace="catchup")):
        assert found.next(after_two_volumes(found)) is None


def test_after_a_runs_end_none_is_begun():
    found = begun()
    now_ns = after_two_volumes(found)

    found.stop()

    assert found.next(now_ns) is None
    found.renew(now_ns + TR_NS, ["t-1"])
    assert found.next(now_ns + TR_NS) is None


def test_another_run_begins_with_what_is_known_of_the_costs_and_without_its_trials():
    found = begun(cost_ns=400 * MS)
    after_two_volumes(found)
    start = RunStart(
        shape=(1, 1, 1), tr_s=TR_S, expected_volumes=9, budget_s=1.0, updates=True
    )

    found.start(start)

    assert found.next(TR_NS) is None
    now_ns = after_two_volumes(found)
    assert found.next(now_ns + TR_NS // 2) is None  # 400 ms twice are too long
    found.renew(2 * TR_NS, ["t-1"])
    assert found.next(2 * TR_NS) == "t-1"
