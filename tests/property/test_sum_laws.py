"""What a step graph is told to multiply by is what its solver does, on any grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.solver import SOLVERS
from runtime.stepped import sum_weights

inner = st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=20)
numbers = st.floats(-4, 4)


@pytest.mark.parametrize("solver", [SOLVERS["euler"], SOLVERS["rotation"]])
@given(inner, st.booleans(), numbers, numbers)
def test_the_sum_by_its_weights_is_the_solvers_step(solver, times, is_back, z, found):
    grid = tuple(sorted({0.0, 1.0, *times}, reverse=is_back))

    weights = sum_weights(solver, grid)

    assert weights.dtype == np.float32
    assert weights.shape == (len(grid) - 1, 2)
    assert weights.flags.c_contiguous
    for (by_z, by_velocity), t, t_next in zip(weights, grid, grid[1:], strict=False):
        wanted = solver.step(lambda _z, _t: found, z, t, t_next)
        # Numbers of up to four, each weight rounded to float32.
        assert abs(float(by_z) * z + float(by_velocity) * found - wanted) < 1e-6


@given(inner, st.booleans())
def test_of_a_step_of_several_evaluations_each_is_asked_for_itself(times, is_back):
    grid = tuple(sorted({0.0, 1.0, *times}, reverse=is_back))

    weights = sum_weights(SOLVERS["heun"], grid)

    assert weights.dtype == np.float32
    assert weights.tolist() == [[0.0, 1.0]] * 2 * (len(grid) - 1)
