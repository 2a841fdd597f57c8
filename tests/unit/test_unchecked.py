"""Calls are held against their annotations, but in tests that are marked to be free."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from runtime.preprocess.mask import require_finite


def test_a_call_with_another_type_than_its_annotation_fails():
    with pytest.raises(TypeCheckError):
        require_finite("voxels", [1.0, 2.0])
    with pytest.raises(TypeCheckError):
        require_finite(7, np.ones(3))


@pytest.mark.unchecked
def test_a_marked_tests_calls_are_those_of_users():
    require_finite(7, np.ones(3))
