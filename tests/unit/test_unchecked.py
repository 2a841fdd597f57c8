"""Calls of fast tests are held against their annotations, of slow ones are not."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from runtime.preprocess.mask import require_finite


def test_a_call_with_another_type_than_its_annotation_fails():
    with pytest.raises(TypeCheckError):
        require_finite("voxels", [1.0, 2.0])
    with pytest.raises(TypeCheckError):
        require_finite(7, np.ones(3))


@pytest.mark.slow
def test_a_slow_tests_calls_are_those_of_users():
    require_finite(7, np.ones(3))


@pytest.mark.slow
@pytest.mark.checked
def test_a_slow_tests_calls_can_be_checked_all_the_same():
    with pytest.raises(TypeCheckError):
        require_finite(7, np.ones(3))


@pytest.mark.unchecked
def test_a_marked_tests_calls_are_those_of_users():
    require_finite(7, np.ones(3))
