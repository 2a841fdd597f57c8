"""The small system behind a trial's estimate, beside exact arithmetic and numpy."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.preprocess.design import estimate_column, solver_from_design
from runtime.preprocess.drift import cosine_drift
from runtime.products import ONE_THREAD
from tests.lss import kept_columns


def estimated(X, Y, column=1, row_of=None):
    columns = X.shape[1]
    row_of = np.arange(columns) if row_of is None else row_of
    solver = solver_from_design(X, np.ones(len(X), dtype=np.bool_))
    products, squares = (X.T @ Y)[np.argsort(row_of)], (Y * Y).sum(axis=0)
    found = np.empty((2, Y.shape[1]))
    estimate_column(solver, column, products, squares, row_of=row_of, out=found)
    return found


def solved(matrix, right):
    """Return the exact solution of a system of whole numbers, by elimination."""
    rows = [
        [Fraction(int(x)) for x in (*row, b)]
        for row, b in zip(matrix, right, strict=True)
    ]
    for k, pivot in enumerate(rows):
        rows[k] = pivot = [x / pivot[k] for x in pivot]
        for i, row in enumerate(rows):
            if i != k:
                rows[i] = [x - row[k] * p for x, p in zip(row, pivot, strict=True)]
    return [row[-1] for row in rows]


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 40))
def test_a_coefficient_and_its_error_are_those_of_least_squares(seed, columns, voxels):
    rng = np.random.default_rng(seed)
    rows = columns + 12
    X, Y = rng.standard_normal((rows, columns)), rng.standard_normal((rows, voxels))

    beta, error = estimated(X, Y, row_of=rng.permutation(columns))

    wanted, residual, *_ = np.linalg.lstsq(X, Y, rcond=None)
    variance = residual / (rows - columns) * np.linalg.inv(X.T @ X)[1, 1]
    # The seminormal equations square the condition, here at most about a thousand.
    np.testing.assert_allclose(beta, wanted[1], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(error, np.sqrt(variance), rtol=1e-8)


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_they_are_those_of_exact_arithmetic_but_for_rounding(seed, columns):
    rng = np.random.default_rng(seed)
    X = rng.integers(-4, 5, (20, columns)) + 20 * np.eye(20, columns, dtype=np.int64)
    y = rng.integers(-99, 100, 20)
    y[0] += 500
    gram, products, unit = X.T @ X, X.T @ y, np.eye(columns, dtype=np.int64)[1]

    beta, error = estimated(X.astype(np.float64), y[:, None].astype(np.float64))

    exact = solved(gram, products)
    rest = int(y @ y) - sum(b * int(p) for b, p in zip(exact, products, strict=True))
    variance = rest / (20 - columns) * solved(gram, unit)[1]
    assert error[0] == pytest.approx(float(variance) ** 0.5, rel=1e-12)
    assert beta[0] == pytest.approx(float(exact[1]), rel=1e-12, abs=1e-12 * error[0])


@given(st.integers(0, 10**6), st.integers(3, 90))
def test_kept_columns_are_those_of_the_rule_and_q_is_that_of_qr(seed, rows):
    rng = np.random.default_rng(seed)
    drift = cosine_drift(90, 2.0, 40.0)
    noise = np.cumsum(rng.standard_normal((90, 3)), axis=0)
    X = np.column_stack((drift[:, 0], rng.random(90), drift[:, 1:], noise, noise[:, 0]))
    is_seen = np.arange(90) < rows

    solver = solver_from_design(X, is_seen)

    assert solver.kept.tolist() == kept_columns(X[is_seen])
    assert solver.rows == rows
    Q, R = np.linalg.qr(X[is_seen][:, solver.kept])
    Q *= np.sign(np.diagonal(R))
    # Rounding over the least share that a kept column has of its own.
    np.testing.assert_allclose(solver.weights @ X[is_seen].T, Q.T, atol=1e-9)
    dropped = np.setdiff1d(np.arange(X.shape[1]), solver.kept)
    assert not solver.weights[:, dropped].any()


def test_many_voxels_are_those_of_few():
    rng = np.random.default_rng(0)
    voxels = ONE_THREAD // 12 + 1000  # of which one block does not hold all
    X, Y = rng.standard_normal((12, 3)), rng.standard_normal((12, voxels))

    found = estimated(X, Y)

    some = np.r_[0:50, voxels - 50 : voxels]
    np.testing.assert_allclose(found[:, some], estimated(X, Y[:, some]), rtol=1e-12)
    assert np.isfinite(found).all()
