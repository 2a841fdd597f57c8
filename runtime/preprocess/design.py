"""The design of a growing run: regressors, rows seen, and the small LSS system.

Knows nothing of voxels. Pure.
"""

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
        norm2 = float(x @ x)
        basis = Q[:, : len(kept)]
        rest = x - basis @ (basis.T @ x)
        rest -= basis @ (basis.T @ rest)  # twice is enough (Giraud et al. 2005)
        rest2 = float(rest @ rest)
        if norm2 > 0.0 and rest2 > PIVOT_TOLERANCE * norm2:
            Q[:, len(kept)] = rest / np.sqrt(rest2)
            kept.append(column)
    chosen = np.asarray(kept, dtype=np.int64)
    triangle = np.triu(Q[:, : len(kept)].T @ X[:, chosen])
    return Solver(chosen, triangle, rows)


def estimate_column(
    solver: Solver,
    column: int,
    cross_products: Float64[np.ndarray, "columns voxels"],
    squares: Float64[np.ndarray, " voxels"],
) -> tuple[Float64[np.ndarray, " voxels"], Float64[np.ndarray, " voxels"]]:
    """Return a column's least-squares coefficient and standard error.

    By the seminormal equations: with ``w = R^-T X'y`` the coefficients are ``R^-1 w``
    and the residual sum of squares is ``y'y - w'w``.

    Args:
        solver: From `solver_from_design`.
        column: Position in the design.
        cross_products: ``X'y`` of all columns over the rows seen.
        squares: ``y'y`` over the rows seen.

    Returns:
        Zero with an infinite standard error where the column was not kept.
    """
    voxels = squares.shape[0]
    places = np.flatnonzero(solver.kept == column)
    if places.size == 0:
        return np.zeros(voxels), np.full(voxels, np.inf)
    w = _forward(solver.triangle.T, cross_products[solver.kept])
    unit = np.zeros(solver.kept.size)
    unit[places[0]] = 1.0
    # The column's row of R^-1; its squared norm is the diagonal of (X'X)^-1.
    row = np.linalg.solve(solver.triangle.T, unit)
    residual = np.maximum(squares - np.einsum("kv,kv->v", w, w), 0.0)
    variance = residual / (solver.rows - solver.kept.size) * (row @ row)
    return row @ w, np.sqrt(variance)


def _forward(
    lower: Float64[np.ndarray, "kept kept"],
    right: Float64[np.ndarray, "kept voxels"],
) -> Float64[np.ndarray, "kept voxels"]:
    """Solve a lower triangular system for every voxel, by rows (Higham, 2002, ch. 8).

    A general solver would copy all voxels the other way round, twice, and factorise
    what is a factor already: four times as long.
    """
    w = np.empty_like(right)
    for k in range(len(right)):
        np.matmul(lower[k, :k], w[:k], out=w[k])
        np.subtract(right[k], w[k], out=w[k])
        w[k] /= lower[k, k]
    return w
