"""Outages, slopes, misses and scripts are what they are defined to be."""

import math
import os
from itertools import product

import pytest

from tests.faults.deadline import is_miss, is_unflagged
from tests.faults.kill import worst_of
from tests.faults.outage import Heard, Kill, outages_ms, percentile
from tests.faults.replays import Verdict
from tests.faults.resources import held_by, slope
from tests.faults.rough_run import OTHERS, POLICIES, VOLUMES, Script
from tests.faults.soak import Watched, grown

MS = 1_000_000


def heard(acquired_ms, latency_ms):
    return Heard(acquired_ms * MS, (acquired_ms + latency_ms) * MS)


def steady(*extra):
    by_time = dict.fromkeys(range(0, 4000, 20), 2) | dict(extra)
    return [heard(at, latency) for at, latency in by_time.items()]


def test_an_outage_is_the_longest_extra_latency_of_the_second_after_the_kill():
    volumes = steady((1000, 92), (1020, 72), (2500, 300))
    kills = [Kill(1010 * MS, "active worker", True)]

    assert outages_ms(kills, volumes) == {"active worker": [90]}


@pytest.mark.parametrize("late_at_ms", [20, 2020])
def test_what_was_over_before_or_came_later_is_not_felt(late_at_ms):
    volumes = steady((late_at_ms, 500))

    assert outages_ms([Kill(1010 * MS, "ingress", True)], volumes) == {"ingress": [0]}


def test_kills_that_are_not_measured_have_no_outage():
    assert outages_ms([Kill(1010 * MS, "sender", False)], steady((1020, 400))) == {}
    assert outages_ms([Kill(0, "ingress", True)], []) == {}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([3, 1, 2], 50, 2),
        ([3, 1, 2], 99, 3),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 102)), 99, 100),
        ([5], 0, 5),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert percentile(values, percent) == expected


def test_a_percentile_of_nothing_holds_no_bound():
    assert math.isnan(percentile([], 99))


def test_fewer_than_a_hundred_have_no_99th_percentile():
    assert worst_of("x", [*range(99)]) == {"x_max_ms": 98}
    assert worst_of("x", [*range(100)]) == {"x_max_ms": 99, "x_p99_ms": 98}
    assert math.isnan(worst_of("x", [])["x_max_ms"])


def test_a_slope_is_that_of_the_line_through_the_points():
    assert slope([0, 1, 2, 3], [5, 7, 9, 11]) == pytest.approx(2)
    # Of 1 in each third step, wherever the steps are; of a single step, none.
    assert slope(range(300), [n // 3 for n in range(300)]) == pytest.approx(1 / 3, 0.01)
    assert slope(range(300), [0] * 200 + [9] * 100) == 0
    assert slope([1], [1]) == slope([], []) == slope([2, 2], [1, 3]) == 0


def test_a_step_has_no_slope_and_is_growth_all_the_same():
    kib = [50.0] * 100 + [150.0] * 400

    assert slope(range(500), kib) == 0
    assert grown(kib) == 100
    # What a process holds at times is no growth, and hides none.
    assert grown([0.0, 150.0] * 50) == 0
    assert grown([0.0, 150.0] * 50 + [0.0, 160.0] * 50) == 10
    assert grown([]) == grown([7.0]) == 0


def test_a_file_that_is_opened_is_a_descriptor_more(tmp_path):
    before = held_by(os.getpid())
    with (tmp_path / "file").open("w"):
        after = held_by(os.getpid())

    assert after.descriptors == before.descriptors + 1
    assert after.threads == before.threads
    assert after.rss_kib > 1000


def test_what_grows_is_the_least_of_the_last_quarter_beyond_the_third():
    watched, now = Watched(), held_by(os.getpid())
    for volumes in range(0, 1000, 50):
        watched.volumes.append(volumes)
        n = 5 + (volumes >= 750) + (volumes % 100 == 0) * 7
        watched.held.append(type(now)(0.0, 100.0 + volumes, n, 3))

    assert watched.grown("descriptors", 1000) == 1
    assert watched.grown("threads", 1000) == 0
    assert slope(*watched.second_half(1000)) == pytest.approx(1000)


@pytest.mark.parametrize(
    ("said", "decided_ns", "unflagged", "miss"),
    [
        ({"timing": "LIVE", "input": "OK"}, 5, False, False),
        ({"timing": "LIVE", "input": "OK"}, 15, True, False),
        ({"timing": "LATE", "input": "OK"}, 15, False, True),
        ({"timing": "LATE", "input": "OK"}, 5, True, True),
        ({"timing": "LATE", "input": "MISSING"}, 15, False, True),
        ({"timing": "LIVE", "input": "MISSING"}, 15, True, True),
    ],
)
def test_a_miss_must_say_so(said, decided_ns, unflagged, miss):
    line = {**said, "deadline_ns": 10, "decided_ns": decided_ns}

    assert is_unflagged(line) is unflagged
    assert is_miss(line) is miss


def test_a_script_follows_from_its_seed_and_number():
    scripts = [Script.drawn(1, number) for number in range(40)]

    assert scripts == [Script.drawn(1, number) for number in range(40)]
    assert scripts != [Script.drawn(2, number) for number in range(40)]


def test_scripts_leave_no_kind_of_recording_to_chance():
    scripts = [Script.drawn(0, number) for number in range(100)]
    whats = {(s.input_kind, what) for s in scripts for _, what in s.acts}
    kinds = ("beta", "volume")

    assert {(s.input_kind, s.late) for s in scripts} == {*product(kinds, POLICIES)}
    assert {(s.input_kind, s.pace) for s in scripts} == {
        *product(kinds, ("live", "catchup"))
    }
    assert whats == {*product(kinds, (*OTHERS, "server", "end"))}
    assert all(script.acts[0][1] == "active worker" for script in scripts)
    assert all(0 < at < VOLUMES for script in scripts for at, _ in script.acts)


@pytest.mark.parametrize(
    ("flaw", "is_identical"),
    [
        ({}, True),
        ({"differences": 1}, False),
        ({"left_out": 1}, False),
        ({"recorded": 10}, False),
        ({"compared": 0, "recorded": 0}, False),
        ({"troubles": ["RecordingError: torn"]}, False),
    ],
)
def test_a_replay_is_identical_only_if_all_on_record_was_compared(flaw, is_identical):
    verdict = Verdict(**({"compared": 9, "recorded": 9} | flaw))

    assert verdict.is_identical is is_identical
