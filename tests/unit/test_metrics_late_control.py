"""The control of trials that are read one too late, by hand."""

import numpy as np
import pytest

from training.metrics.controls import shift_control
from training.metrics.result import Absent

SHOWN = np.array([0, 1, 1, 2])


def late(cosines, shown=SHOWN):
    return shift_control(np.array(cosines, float), shown, np.random.default_rng(0))


def test_the_share_of_images_that_are_farther_than_the_next_by_hand():
    # Trial 0 with image 1 against 2 and 3, trial 2 with image 2 against 0 and 3; the
    # two between show one image.
    found = late([[9, 2, 1, 3], [0, 0, 0, 0], [5, 9, 5, 1], [0, 0, 0, 0]]).value

    assert found.mean == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert (found.chance, found.n) == (0.5, 2)


def test_a_decoder_of_the_trial_itself_is_at_a_half_and_one_that_is_late_is_not():
    rng = np.random.default_rng(1)
    shown = rng.integers(0, 50, 2000)
    noise = rng.standard_normal((2000, 50))
    own, late_by_one = np.eye(50)[shown], np.eye(50)[np.roll(shown, -1)]

    assert late(noise + 9 * own, shown).value.mean == pytest.approx(0.5, abs=0.02)
    assert late(noise + 9 * late_by_one, shown).value.mean > 0.95


def test_two_images_have_no_rival():
    assert isinstance(late(np.zeros((4, 2)), np.array([0, 1, 0, 1])).value, Absent)
