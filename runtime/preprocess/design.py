"""The design of a growing run: regressors, rows seen, and the small LSS system.

Knows nothing of voxels. Pure.
"""

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from runtime.arrays import Bool, Float64, Int64
from runtime.products import ONE_THREAD

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
    weights: Float64[np.ndarray, "kept columns"]
    """R^-T, zero for columns that are not kept: ``Q' = weights X'``."""
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
    # Columns as rows, each less what those kept before explain of it (modified
    # Gram-Schmidt; Higham, 2002, ch. 19), and beside it how it is made of the columns.
    volumes, columns = design.shape
    left = np.zeros((columns, volumes + columns))
    np.multiply(design.T, is_seen, out=left[:, :volumes])
    np.fill_diagonal(left[:, volumes:], 1.0)
    rows = int(np.count_nonzero(is_seen))
    norms2 = np.square(left[:, :volumes]).sum(axis=1).tolist()
    kept: list[int] = []
    for column, norm2 in enumerate(norms2):
        if len(kept) + 1 >= rows:
            break
        x, following = left[column, :volumes], left[column + 1 :]
        left2 = float(x.dot(x))
        if norm2 > 0.0 and left2 > PIVOT_TOLERANCE * norm2:
            left[column] /= math.sqrt(left2)
            shares = following[:, :volumes].dot(x)
            following -= np.multiply.outer(shares, left[column])
            kept.append(column)
    chosen = np.array(kept, dtype=np.int64)
    return Solver(chosen, left[chosen, volumes:], rows)


def estimate_column(
    solver: Solver,
    column: int,
    cross_products: Float64[np.ndarray, "columns voxels"],
    squares: Float64[np.ndarray, " voxels"],
    *,
    row_of: Int64[np.ndarray, " columns"],
    out: Float64[np.ndarray, "2 voxels"],
) -> None:
    """Write a column's least-squares coefficient and its standard error.

    By the seminormal equations: with ``w = R^-T X'y`` the coefficients are ``R^-1 w``
    and the residual sum of squares is ``y'y - w'w``.

    Args:
        solver: From `solver_from_design`.
        column: Position in the design.
        cross_products: ``X'y`` of all columns over the rows seen, in any order.
        squares: ``y'y`` over the rows seen.
        row_of: Where each column of the design lies in `cross_products`.
        out: Coefficient and standard error; zero and infinite where the column was not
            kept.
    """
    beta, error = out
    if column not in solver.kept:
        beta[:], error[:] = 0.0, np.inf
        return
    kept, columns = solver.weights.shape
    # The column's row of R^-1; its squared norm is the diagonal of (X'X)^-1.
    own = solver.weights[:, column]
    weights = np.empty((kept + 1, columns))
    weights[:kept, row_of] = solver.weights
    weights[kept, row_of] = own @ solver.weights
    # In blocks that stay on this thread and in its cache.
    step = max(1, ONE_THREAD // weights.size)
    work = np.empty((kept + 1) * min(step, squares.size))
    for start in range(0, squares.size, step):
        block = slice(start, start + step)
        products = cross_products[:, block]
        w = work[: (kept + 1) * products.shape[1]].reshape(kept + 1, -1)
        np.matmul(weights, products, out=w)
        beta[block] = w[kept]
        np.einsum("kv,kv->v", w[:kept], w[:kept], out=error[block])
    np.subtract(squares, error, out=error)
    error *= (own @ own) / (solver.rows - kept)
    if error.min() < 0.0:
        np.maximum(error, 0.0, out=error)
    np.sqrt(error, out=error)
