"""The small system behind a trial's estimate, beside numpy's solvers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.preprocess.design import estimate_column, solver_from_design


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 40))
def test_a_coefficient_and_its_error_are_those_of_least_squares(seed, columns, voxels):
    rng = np.random.default_rng(seed)
    rows = columns + 12
    X, Y = rng.standard_normal((rows, columns)), rng.standard_normal((rows, voxels))
    solver = solver_from_design(X, np.ones(rows, dtype=np.bool_))

    beta, error = found = np.empty((2, voxels))
    work, squares = np.empty(columns * voxels), (Y * Y).sum(axis=0)
    estimate_column(solver, 1, list(X.T @ Y), squares, out=found, work=work)

    wanted, residual, *_ = np.linalg.lstsq(X, Y, rcond=None)
    variance = residual / (rows - columns) * np.linalg.inv(X.T @ X)[1, 1]
    # The seminormal equations square the condition, here at most about a thousand.
    np.testing.assert_allclose(beta, wanted[1], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(error, np.sqrt(variance), rtol=1e-8)
