"""Products of long rows on the calling thread alone. Pure.

OpenBLAS shares a large product among threads that wait for each other without sleeping.
Where an engine's threads or other programs hold the processor, they wait for long: the
fits of a calibration took 107 s of the processors in place of 4 on two cores at a load
of 7. In blocks below its threshold it stays on one thread.
"""

from typing import Final

import numpy as np

from runtime.arrays import Float64, Shaped

ONE_THREAD: Final = 2**18
"""Multiplications; OpenBLAS keeps to one thread up to here."""


def inner(
    a: Shaped[np.ndarray, "m size"], b: Shaped[np.ndarray, "n size"]
) -> Float64[np.ndarray, "m n"]:
    """Return ``a b'``, summed over blocks in float64."""
    step = max(1, ONE_THREAD // max(1, len(a) * len(b)))
    total = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], step):
        block = slice(start, start + step)
        total += a[:, block] @ b[:, block].T
    return total


def combined(
    weights: Float64[np.ndarray, "m n"], rows: Float64[np.ndarray, "n size"]
) -> Float64[np.ndarray, "m size"]:
    """Return ``weights rows``."""
    step = max(1, ONE_THREAD // max(1, weights.size))
    out = np.empty((len(weights), rows.shape[1]))
    for start in range(0, rows.shape[1], step):
        block = slice(start, start + step)
        out[:, block] = weights @ rows[:, block]
    return out
