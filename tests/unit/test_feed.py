"""What becomes of what a scanner's software delivers, good and bad."""

import numpy as np
import pytest
from msgspec import UNSET

from bci_bridge.sources.feed import Feed
from bci_bridge.sources.past import Past
from bci_bridge.sources.plan import Plan
from bci_bridge.sources.source import Exhausted, Reading, Refused, SeriesEnded
from bci_bridge.sources.speech import Begin, SayVolume
from bci_bridge.sources.volume import Geometry
from runtime.errors import UsageError
from tests.scanned import SHAPE, Told, plan, scanned

END = ("end", 5)


def told(**changes):
    return Told(Feed(plan(**changes)))


def test_a_run_begins_with_its_first_volume_and_ends_with_the_announced_last():
    run = told()
    for number in range(5):
        run.take(scanned(number), 1.0)

    assert run.said == [
        ("begin", "rest"),
        *(("volume", index) for index in range(5)),
        ("end", 5),
    ]
    assert run.feed.is_done
    assert run.lines[0] == ("run rest: begins, 3 x 4 x 2 voxels, TR 1 s, 5 volumes")
    assert run.lines[-1] == "run rest: complete, 5 of 5 volumes"


def test_a_run_is_announced_as_its_first_volume_and_the_operator_say():
    affine = np.array([[0, -2.0, 0, 7], [2.0, 0, 0, 8], [0, 0, 3.0, 9], [0, 0, 0, 1]])
    options = {"budget_s": 0.5, "late": "drop", "updates": True}
    feed = Feed(plan(subject="sub-1", session="ses", task="look", **options))
    begin = feed.take(scanned(0, affine=affine, tr_s=1.25), 0)[0]

    assert isinstance(begin, Begin)
    assert begin.start.affine == tuple(affine.ravel())
    assert (begin.start.shape, begin.start.tr_s) == (SHAPE, 1.25)
    assert (begin.start.expected_volumes, begin.start.budget_s) == (5, 0.5)
    assert (begin.start.subject, begin.start.session) == ("sub-1", "ses")
    assert (begin.start.task, begin.start.pace) == ("look", "live")
    assert (begin.start.late, begin.start.updates) == ("drop", True)


def test_a_long_run_tells_how_far_it_is_at_each_tenth():
    run = told(volumes=40)
    for number in range(40):
        run.take(scanned(number), 1.0)

    assert run.lines[1:-1] == [f"run rest: {n} of 40 volumes" for n in range(4, 40, 4)]


def test_the_budget_is_a_tr_and_the_tr_can_be_overruled():
    start = Feed(plan(tr_s=0.72)).take(scanned(0, tr_s=720.0), 0)[0].start

    assert (start.tr_s, start.budget_s) == (0.72, 0.72)


def test_an_acquisition_carries_the_instant_at_which_it_arrived():
    feed = Feed(plan())
    first = feed.take(scanned(1), 5_000_000)
    second = feed.take(scanned(0), 9_000_000)
    said = [action for action in first + second if isinstance(action, SayVolume)]

    assert [(one.index, one.acquired_ns) for one in said] == [
        (0, 9_000_000),
        (1, 5_000_000),
    ]


def test_discarded_acquisitions_begin_the_run_and_are_not_sent():
    run = told(discard=2, volumes=3)
    for number in range(2):
        run.take(scanned(number), 1.0)
    assert run.said == [("begin", "rest")]
    for number in range(2, 5):
        run.take(scanned(number), 1.0)

    assert run.said[1:] == [("volume", 0), ("volume", 1), ("volume", 2), ("end", 3)]


def test_volumes_out_of_order_are_put_in_order():
    run = told()
    for number in (1, 0, 3, 2, 4):
        run.take(scanned(number), 0.01)

    assert [what for what in run.said if what[0] == "volume"] == [
        ("volume", index) for index in range(5)
    ]


def test_a_gap_is_missing_after_half_a_tr_and_its_volume_is_late_data_after_that():
    run = told()
    run.take(scanned(0))
    run.take(scanned(2), 1.0)
    run.wait(0.49)
    assert run.said[-1] == ("volume", 0)
    run.wait(0.02)
    assert run.said[-2:] == [("missing", 1), ("volume", 2)]
    run.take(scanned(1), 0.1)
    run.take(scanned(1), 0.1)
    run.take(scanned(3), 0.2)
    run.take(scanned(4), 1.0)

    assert run.said[4:] == [("volume", 1), ("volume", 3), ("volume", 4), ("end", 5)]
    assert run.lines[-1] == (
        "run rest: complete, 5 of 5 volumes (1 missing, 1 late, 1 twice)"
    )


def test_a_small_budget_shortens_the_wait_for_a_lost_volume():
    run = told(budget_s=0.2)
    run.take(scanned(0))
    run.take(scanned(2), 1.0)
    run.wait(0.11)

    assert run.said[-2:] == [("missing", 1), ("volume", 2)]


def test_more_held_volumes_than_the_window_takes_end_the_wait():
    run = told(volumes=9, reorder=2)
    run.take(scanned(0))
    for number in (2, 3):
        run.take(scanned(number))
    assert run.said[-1] == ("volume", 0)
    run.take(scanned(4))

    assert run.said[-4:] == [("missing", 1), *(("volume", n) for n in (2, 3, 4))]


def test_a_window_of_none_holds_nothing():
    run = told(reorder=0)
    run.take(scanned(1))

    assert run.said[-2:] == [("missing", 0), ("volume", 1)]


def test_duplicates_are_ignored_counted_and_said_once():
    run = told()
    for number in (0, 0, 1, 1, 1, 2):
        run.take(scanned(number), 1.0)
    run.take(SeriesEnded("s-1"))

    assert run.said[1:] == [("volume", 0), ("volume", 1), ("volume", 2), ("aborted", 3)]
    assert [line for line in run.lines if "again" in line] == [
        "volume 0 came again; the first one counts"
    ]
    assert run.lines[-1] == (
        "run rest: aborted, 3 of 5 volumes (3 twice): its series ended"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"shape": (4, 3, 2)},
            "volume 2, shape: expected [3, 4, 2], found [4, 3, 2]",
        ),
        ({"tr_s": 1.01}, "volume 2, TR: expected 1 s, found 1.01 s"),
        (
            {"affine": np.diag([2.0, 2.0, 3.01, 1.0])},
            "volume 2, affine: expected that of the run's first volume, found corners "
            "0.01 mm away",
        ),
    ],
)
def test_another_geometry_ends_the_run_and_loses_nothing(changes, line):
    run = told()
    run.take(scanned(0))
    run.take(scanned(1), 1.0)
    run.take(scanned(2, **changes), 1.0)
    run.take(scanned(3), 1.0)

    assert run.said == [
        ("begin", "rest"),
        ("volume", 0),
        ("volume", 1),
        ("aborted", 2),
    ]
    assert run.lines[1] == f"run rest: aborted, 2 of 5 volumes: {line}"
    assert run.lines[2] == "volumes of a series that is over came; they are ignored"


def test_rounding_of_tr_and_affine_is_no_other_geometry():
    run = told()
    run.take(scanned(0, tr_s=0.72, affine=np.diag([2.0, 2.0, 3.0, 1.0])))
    run.take(scanned(1, tr_s=0.7204, affine=np.diag([2.0, 2.0, 3.0001, 1.0])))

    assert run.said[-1] == ("volume", 1)


def test_a_run_that_is_started_again_gets_a_name_of_its_own():
    run = told(runs=2)
    for number in range(2):
        run.take(scanned(number, "s-1"), 1.0)
    for number in range(5):
        run.take(scanned(number, "s-2"), 1.0)
    run.take(scanned(2, "s-1"), 1.0)
    for number in range(5):
        run.take(scanned(number, "s-3"), 1.0)

    assert [what for what in run.said if what[0] != "volume"] == [
        ("begin", "rest"),
        ("aborted", 2),
        ("begin", "rest-2"),
        ("end", 5),
        ("begin", "rest-3"),
        ("end", 5),
    ]
    assert run.feed.is_done


def test_nothing_begins_once_all_runs_are_complete():
    run = told(volumes=1)
    run.take(scanned(0, "s-1"))
    run.take(scanned(0, "s-2"))

    assert run.said == [("begin", "rest"), ("volume", 0), ("end", 1)]


def test_a_series_unlike_the_one_under_way_is_left_alone():
    run = told()
    run.take(scanned(0))
    run.take(scanned(0, "localiser", shape=(4, 4, 4)))
    run.take(scanned(0, "fast", tr_s=0.5))
    run.take(scanned(1), 1.0)

    assert run.said == [("begin", "rest"), ("volume", 0), ("volume", 1)]
    assert run.lines[-1] == "another series came, of another shape or TR; " + (
        "it is left alone"
    )


def test_silence_ends_a_run_as_aborted_with_its_count():
    run = told(quiet_s=3.0)
    for number in range(3):
        run.take(scanned(number), 1.0)
    run.wait(2.9)
    assert run.said[-1] == ("volume", 2)
    run.wait(0.2)

    assert run.said[-1] == ("aborted", 3)
    assert run.lines[-1].endswith("nothing came for 3 s")
    assert not run.feed.is_done


def test_while_files_are_still_to_be_read_a_run_is_not_silent():
    run = told(quiet_s=3.0)
    run.take(Reading())
    run.take(scanned(0))
    for _ in range(10):
        run.take(Reading(), 2.0)
        run.wait(0.0)
    run.take(scanned(1))
    run.wait(3.1)

    assert run.said == [("begin", "rest"), ("volume", 0), ("volume", 1), ("aborted", 2)]


def test_what_was_held_is_said_before_a_run_is_stopped():
    run = told()
    run.take(scanned(0))
    run.take(scanned(2))
    run.add(run.feed.stop("stopped", run.now_ns))

    assert run.said[-3:] == [("missing", 1), ("volume", 2), ("aborted", 3)]


def test_a_series_broken_off_at_the_scanner_is_aborted_and_another_one_is_nothing():
    run = told()
    run.take(scanned(0))
    run.take(SeriesEnded("another"))
    assert run.said[-1] == ("volume", 0)
    run.take(SeriesEnded("s-1", is_aborted=True))

    assert run.said[-1] == ("aborted", 1)


def test_a_recording_that_is_over_ends_its_run():
    run = told()
    run.take(scanned(0))
    run.take(Exhausted())

    assert run.said[-1] == ("aborted", 1)
    assert run.feed.is_exhausted
    assert not run.feed.is_done


def test_more_volumes_than_announced_are_counted():
    run = told(volumes=2)
    run.take(scanned(0))
    run.take(scanned(7))
    run.take(scanned(1))

    assert run.said[1:] == [("volume", 0), ("volume", 1), ("end", 2)]
    assert run.lines[-1].endswith("(1 beyond the announced number)")


def test_what_a_source_refuses_is_said_once_for_each_reason():
    run = told()
    run.take(scanned(0))
    for name in ("a.dcm", "b.dcm"):
        run.take(Refused(name, "expected a volume, found a report"))
    run.take(Refused("c.dcm", "expected a whole file, found half of one"))
    run.take(SeriesEnded("s-1"))

    assert run.lines[1:3] == [
        "a.dcm: expected a volume, found a report",
        "c.dcm: expected a whole file, found half of one",
    ]
    assert "3 refused" in run.lines[3]


def test_whoever_makes_trouble_of_ever_new_kinds_is_only_counted():
    run = told()
    run.take(scanned(0))
    for number in range(100):
        run.take(Refused("x", f"reason {number}"))

    assert len(run.lines) == 1 + 20 + 1
    assert run.lines[-1].startswith("there is more trouble")


@pytest.mark.parametrize(
    ("voxels", "line"),
    [
        (np.zeros(SHAPE, np.int16), "volume 1: all voxels are 0"),
        (
            np.where(np.arange(24).reshape(SHAPE) < 2, np.nan, 1.0).astype("f4"),
            "volume 1: 2 voxels are not finite",
        ),
    ],
)
def test_odd_volumes_are_sent_and_said(voxels, line):
    run = told()
    run.take(scanned(0))
    run.take(scanned(1, voxels=voxels))

    assert run.said[-1] == ("volume", 1)
    assert run.lines[-1] == line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tr_s": float("nan")}, "TR: expected seconds, found none told. Give --tr-s"),
        ({"tr_s": 720.0}, "TR: expected up to 60 s, found 720 s. Give --tr-s"),
        (
            {"affine": np.full((4, 4), np.nan)},
            "affine: expected finite numbers, found others",
        ),
    ],
)
def test_a_series_that_can_be_no_run_is_left_out(changes, line):
    run = told()
    run.take(scanned(0, "bad", **changes))
    run.take(scanned(1, "bad", **changes))
    run.take(scanned(0, "good"))

    assert run.said == [("begin", "rest"), ("volume", 0)]
    assert run.lines[0] == f"this series is left out: {line}"


def test_a_run_that_the_server_does_not_take_leaves_its_name_free():
    run = told(volumes=1)
    run.feed.take(scanned(0, "localiser"), 0)
    run.add(run.feed.refuse("BAD_GEOMETRY: shape"))
    run.take(scanned(1, "localiser"))
    run.take(scanned(0, "bold"))

    assert run.said == [("begin", "rest"), ("volume", 0), ("end", 1)]
    assert run.lines[0] == "this series is left out: BAD_GEOMETRY: shape"


def test_a_successor_goes_on_where_its_predecessor_was():
    first = Told(Feed(plan(volumes=6)))
    for number in range(3):
        first.take(scanned(number), 1.0)
    feed = Feed(plan(volumes=6), first.feed.past)
    second = Told(feed)
    feed.resume(plan(volumes=6).start("rest", scanned(0).geometry), "s-1", 3, 0)
    for number in range(6):
        second.take(scanned(number), 0.1)

    assert second.said == [("volume", 3), ("volume", 4), ("volume", 5), ("end", 6)]
    assert feed.past.over == ("s-1",)


def test_a_successor_notices_that_the_scanner_was_started_again_meanwhile():
    feed = Feed(plan(), Past(run="rest", begun=1, series="s-1"))
    run = Told(feed)
    feed.resume(plan().start("rest", scanned(0).geometry), "s-1", 3, 0)
    run.take(scanned(0, "s-2"))

    assert run.said == [("aborted", 3), ("begin", "rest-2"), ("volume", 0)]


def test_a_source_that_joins_in_the_middle_goes_on_with_the_run_under_way():
    feed = Feed(plan(), Past(run="rest", begun=1, series="s-1"))
    run = Told(feed)
    feed.resume(plan().start("rest", scanned(0).geometry), "s-1", 3, 0)
    run.take(scanned(3, ""))
    run.take(scanned(4, ""))

    assert run.said == [("volume", 3), ("volume", 4), ("end", 5)]
    assert feed.past.over == ("s-1",)


def test_a_successor_knows_where_a_series_begins():
    first = told()
    first.take(scanned(0, first=1))
    first.take(scanned(1, first=1), 1.0)
    past = first.feed.past
    second = Feed(plan(), past)
    second.resume(plan().start("rest", scanned(0).geometry), "s-1", 2, 0)
    first.add(first.feed.stop("why", first.now_ns))

    assert (past.series, past.first) == ("s-1", 1)
    assert second.past == past
    assert (first.feed.past.series, first.feed.past.first) == (None, None)


def test_a_source_that_tells_no_series_is_followed_by_one_that_does():
    feed = Feed(plan(), Past(run="rest", begun=1))
    run = Told(feed)
    feed.resume(plan().start("rest", scanned(0).geometry), "", 3, 0)
    run.take(scanned(3, "s-1", first=1))

    assert (feed.past.series, feed.past.first) == ("s-1", 1)


def test_a_successor_takes_no_series_that_was_left_alone_beside_a_complete_run():
    run = told(runs=2)
    run.take(scanned(0))
    for number in range(1, 5):
        run.take(scanned(number, "other", tr_s=2.0))
        run.take(scanned(number))
    second = Told(Feed(plan(runs=2), run.feed.past))
    second.take(scanned(0, "other", tr_s=2.0))
    second.take(scanned(0, "s-2"))

    assert run.feed.past.over == ("other", "s-1")
    assert second.said == [("begin", "rest-2"), ("volume", 0)]


def test_beside_a_run_that_was_not_complete_the_next_may_have_begun():
    run = told(runs=2, quiet_s=3.0)
    run.take(scanned(0))
    run.take(scanned(0, "s-2", tr_s=2.0))
    run.wait(4.0)

    assert run.feed.past.over == ("s-1",)


@pytest.mark.parametrize(
    ("speed", "budget_s", "expected"),
    [(1.0, None, 1.0), (8.0, None, 1.0), (0.4, None, 2.5), (0.4, 0.5, 2.0)],
)
def test_a_volume_that_is_sent_late_from_a_file_is_not_late(speed, budget_s, expected):
    start = plan(speed=speed, budget_s=budget_s).start("rest", scanned(0).geometry)

    assert (start.tr_s, start.budget_s) == (1.0, pytest.approx(expected))


def test_a_file_that_is_played_slowly_is_not_silent():
    run = told(quiet_s=3.0, speed=0.1)
    run.take(scanned(0))
    run.wait(19.9)
    assert run.said[-1] == ("volume", 0)
    run.wait(0.2)

    assert run.lines[-1].endswith("nothing came for 20 s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": 0}, "--volumes: expected 1 to 100000, found 0"),
        ({"discard": -1}, "--discard: expected 0 to 1000, found -1"),
        ({"tr_s": 0.0}, "--tr-s: expected 0.001 to 60.0, found 0.0"),
        ({"quiet_s": 0.0}, "--quiet-s: expected 0.1 to 3600, found 0.0"),
        (
            {"run": "a/b"},
            "--run: expected a letter or digit, then up to 127 letters, digits and "
            "._+-, found 'a/b'. Put - in the place of others",
        ),
        (
            {"task": "a b"},
            "--task: expected up to 128 letters, digits and ._+-, found 'a b'. "
            "Put - in the place of others",
        ),
    ],
)
def test_an_impossible_plan_is_refused(changes, message):
    with pytest.raises(UsageError) as refused:
        Plan(**{"run": "rest", "volumes": 5, **changes})

    assert str(refused.value) == message


def test_a_successor_learns_of_the_last_thousand_series():
    feed = Feed(plan())
    for number in range(1005):
        feed.take(scanned(0, f"s-{number}", tr_s=float("nan")), 0)

    assert feed.past.over == tuple(f"s-{number}" for number in range(5, 1005))


@pytest.mark.parametrize(
    ("times_s", "wanted"),
    [
        ((0.0, 0.5), (0, 500_000)),
        ((0.0, 1.5), UNSET),
        ((0.0, -0.5), UNSET),
        ((0.0, 1e9), UNSET),
    ],
)
def test_slice_times_outside_a_tr_are_left_untold(times_s, wanted):
    geometry = Geometry(SHAPE, np.eye(4), 1.0, times_s)

    assert plan().start("rest", geometry).slice_times_us == wanted


def test_a_number_below_the_first_is_ignored_and_said():
    run = told(discard=2)
    run.take(scanned(0))
    run.take(scanned(-1))

    assert run.lines[-1] == "volume -1: expected 0 or more; it is ignored"


def test_a_name_that_leaves_no_room_for_its_repetitions_is_refused():
    assert len(plan(run="r" * 120).name(9_999_999)) == 128
    with pytest.raises(
        UsageError, match=r"--run: expected up to 120 characters, .* 121"
    ):
        plan(run="r" * 121)
