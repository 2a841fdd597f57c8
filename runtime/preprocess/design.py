"""The design of a growing run: regressors, rows seen, and the small LSS system.

Knows nothing of voxels. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from runtime.arrays import Bool, Float64, Int64

PIVOT_TOLERANCE: Final = 1e-4
"""Least squared share of a column that earlier columns must leave unexplained."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Solver:
    """A full-rank least-squares problem, solved up to the data.

    With ``X`` the kept columns over the rows seen, and ``X = QR``.
    """

    kept: Int64[np.ndarray, " kept"]
    """Positions of the kept columns, in the order of their priority."""
    triangle: Float64[np.ndarray, "kept kept"]
    """R, upper triangular."""
    rows: int
    """Rows seen."""


def solver_from_design(
    design: Float64[np.ndarray, "volumes columns"],
    is_seen: Bool[np.ndarray, " volumes"],
) -> Solver:
    """Choose the columns that the rows seen can tell apart, in their order.

    Going from left to right, a column is kept where (1) at least `PIVOT_TOLERANCE` of
    its squared norm over the rows seen is orthogonal to the columns kept before, and
    (2) one row more than columns remains, so that the noise can be estimated. Early in
    a run this drops the faster cosines; a dropped column comes back as soon as the
    rows tell it apart. The rule looks at the design alone, so a batch solver applies
    it to the same rows with the same result.

    Args:
        design: Columns by falling priority.
        is_seen: Volumes that have arrived; other rows do not exist.
    """
    X = design * is_seen[:, None]
    rows = int(np.count_nonzero(is_seen))
    Q = np.zeros_like(X)
    kept: list[int] = []
    for column in range(X.shape[1]):
        if len(kept) + 1 >= rows:
            break
        x = X[:, column]
        norm2 = float(x.dot(x))
        rest = x.copy()
        if kept:
            basis = Q[:, : len(kept)]
            rest -= basis @ (basis.T @ x)
            rest -= basis @ (basis.T @ rest)  # twice is enough (Giraud et al. 2005)
        rest2 = float(rest.dot(rest))
        if norm2 > 0.0 and rest2 > PIVOT_TOLERANCE * norm2:
            np.divide(rest, math.sqrt(rest2), out=Q[:, len(kept)])
            kept.append(column)
    chosen = np.asarray(kept, dtype=np.int64)
    triangle = np.triu(Q[:, : len(kept)].T @ X[:, chosen])
    return Solver(chosen, triangle, rows)


def estimate_column(
    solver: Solver,
    column: int,
    cross_products: Sequence[Float64[np.ndarray, " voxels"]],
    squares: Float64[np.ndarray, " voxels"],
    *,
    out: Float64[np.ndarray, "2 voxels"],
    work: Float64[np.ndarray, " numbers"],
) -> None:
    """Write a column's least-squares coefficient and its standard error.

    By the seminormal equations: with ``w = R^-T X'y`` the coefficients are ``R^-1 w``
    and the residual sum of squares is ``y'y - w'w``.

    Args:
        solver: From `solver_from_design`.
        column: Position in the design.
        cross_products: ``X'y`` of each column over the rows seen.
        squares: ``y'y`` over the rows seen.
        out: Coefficient and standard error; zero and infinite where the column was not
            kept.
        work: Written over; a number at least for each column and voxel.
    """
    beta, error = out
    places = np.flatnonzero(solver.kept == column)
    if places.size == 0:
        beta[:], error[:] = 0.0, np.inf
        return
    kept, lower = solver.kept.tolist(), solver.triangle.T
    w = work[: len(kept) * squares.size].reshape(len(kept), squares.size)
    _forward(lower, [cross_products[place] for place in kept], w)
    unit = np.zeros(len(kept))
    unit[places[0]] = 1.0
    # The column's row of R^-1; its squared norm is the diagonal of (X'X)^-1.
    row = np.linalg.solve(lower, unit)
    np.matmul(row, w, out=beta)
    np.einsum("kv,kv->v", w, w, out=error)
    np.subtract(squares, error, out=error)
    if error.min() < 0.0:
        np.maximum(error, 0.0, out=error)
    error /= solver.rows - len(kept)
    error *= row @ row
    np.sqrt(error, out=error)


def _forward(
    lower: Float64[np.ndarray, "kept kept"],
    right: Sequence[Float64[np.ndarray, " voxels"]],
    w: Float64[np.ndarray, "kept voxels"],
) -> None:
    """Solve a lower triangular system for every voxel, by rows (Higham, 2002, ch. 8).

    A general solver would copy all voxels the other way round, twice, and factorise
    what is a factor already: four times as long.
    """
    np.divide(right[0], lower[0, 0], out=w[0])
    for k in range(1, len(right)):
        if k == 1:  # for which numpy has no fast product
            np.multiply(w[0], lower[1, 0], out=w[1])
        else:
            np.matmul(lower[k, :k], w[:k], out=w[k])
        np.subtract(right[k], w[k], out=w[k])
        w[k] /= lower[k, k]
