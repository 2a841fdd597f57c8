"""Cosine and Pearson correlation of rows, in float64.

A row without variation has no direction. It counts as correlation 0 here, where numpy's
`corrcoef` gives "not a number" and spoils the mean of all other rows.
"""

import numpy as np
from jaxtyping import Float64, Shaped

from runtime.errors import TensorMismatchError

Rows = Shaped[np.ndarray, "rows columns"]
PerRow = Float64[np.ndarray, " rows"]

_ROUNDING = 1e-12
"""Spread relative to the largest value below which a row counts as constant."""


def flat_rows(array: Shaped[np.ndarray, "rows *rest"]) -> Float64[np.ndarray, "rows k"]:
    """Flatten everything but the first axis and widen to float64."""
    return np.asarray(array.reshape(len(array), -1), dtype=np.float64)


def check_paired(name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Refuse two arrays that are not row by row about the same things.

    Raises:
        TensorMismatchError: Other shapes, or not one row.
    """
    if a.shape != b.shape or not len(a):
        raise TensorMismatchError(
            name, expected=f"two arrays of one shape, {a.shape}", found=str(b.shape)
        )


def unit_rows(rows: Rows) -> Float64[np.ndarray, "rows columns"]:
    """Scale each row to length 1; a zero row stays zero."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(norms > 0, norms, 1.0))


def standard_rows(rows: Rows) -> Float64[np.ndarray, "rows columns"]:
    """Subtract each row's mean and scale it to length 1; a constant row becomes zero.

    The dot product of two such rows is their Pearson correlation.
    """
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wide = wide - wide.mean(axis=1, keepdims=True)
    wide[np.abs(wide).max(axis=1, initial=0.0) <= _ROUNDING * largest[:, 0]] = 0.0
    return unit_rows(wide)


def row_cosines(a: Rows, b: Rows) -> PerRow:
    """Return the cosine of each row of `a` with the same row of `b`.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("rows", a, b)
    return np.asarray((unit_rows(a) * unit_rows(b)).sum(axis=1))


def row_correlations(a: Rows, b: Rows) -> PerRow:
    """Return Pearson's correlation of each row of `a` with the same row of `b`.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("rows", a, b)
    return np.asarray((standard_rows(a) * standard_rows(b)).sum(axis=1))
