"""The distribution function of the gamma density, in numpy alone.

scipy has it too, behind half a second of imports that a worker which takes another's
place would spend before its first answer.
"""

import math

import numpy as np

from runtime.arrays import Float64

_NEGLIGIBLE = float(np.finfo(np.float64).eps) / 4
_TERMS = 8

Values = Float64[np.ndarray, " values"]


def gamma_distribution(values: Values, shape: float) -> Values:
    """Return the share of a gamma density of unit scale that lies below each value.

    The regularised lower incomplete gamma function P(shape, value), by its series of
    positive terms (DLMF 8.7.1), which loses no digits to cancellation.

    Args:
        values: Zero or more.
        shape: Of the density, positive.
    """
    # Nothing of a double's precision lies beyond; the series stays short.
    x = np.minimum(values, shape + 12.0 * math.sqrt(shape) + 80.0)
    with np.errstate(divide="ignore"):
        logarithm = shape * np.log(x) - x - math.lgamma(shape + 1.0)
    term, total, order = np.ones_like(x), np.ones_like(x), shape
    while (term > _NEGLIGIBLE * total).any():
        # To ask takes as long as a term. One too many changes no bit: less than a
        # quarter of the last place is lost in the sum, and terms only fall from there.
        for _ in range(_TERMS):
            order += 1.0
            term *= x
            term /= order
            total += term
    share: Values = np.minimum(np.exp(logarithm) * total, 1.0)
    return share
