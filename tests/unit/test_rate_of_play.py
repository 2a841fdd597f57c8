"""Deadlines of a recording that is played slower than it was recorded."""

import pytest

from bci_bridge.player import run_start_from
from tests.integration.tiny import PlayedRun


@pytest.mark.parametrize(
    ("speed", "budget_s", "expected"),
    [
        (None, None, 2.0),
        (1.0, None, 2.0),
        (8.0, None, 2.0),
        (1.0, 0.5, 0.5),
        # The next volume comes 5 s after this one, not 2.
        (0.4, None, 5.0),
        (0.4, 0.5, 3.5),
    ],
)
def test_a_volume_that_is_played_late_is_not_late(speed, budget_s, expected):
    run = PlayedRun("run-1", 3, tr_s=2.0)

    start = run_start_from(run, speed=speed, budget_s=budget_s)

    assert start.budget_s == pytest.approx(expected)
    assert start.tr_s == 2.0
