"""Voxels of any kind as a dtype of the wire, exactly; and what is odd about them.

Pure: arrays in, arrays and words out.
"""

from typing import Final

import numpy as np

from runtime.arrays import Shaped
from runtime.errors import ScanError

_EXACT: Final[dict[str, str]] = {
    "b1": "i2",
    "i1": "i2",
    "u1": "u2",
    "i2": "i2",
    "u2": "u2",
    "i4": "i4",
    "f2": "f4",
    "f4": "f4",
}
"""A dtype of the wire that holds every value of another, by numpy's codes."""


def to_wire(voxels: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "x y z"]:
    """Give the same values as int16, uint16, int32 or float32, native and in C order.

    The dtype follows from the dtype that is given, so that all volumes of a run have
    the same. Wider integers become int32 where every value fits. float64 is rounded to
    the nearest float32.

    Raises:
        ScanError: An integer lies outside int32, a finite number outside float32, or
            the voxels are no real numbers.
    """
    code = voxels.dtype.str[1:]
    wanted = _EXACT.get(code)
    if wanted is not None:
        return np.ascontiguousarray(voxels, dtype=f"={wanted}")
    if voxels.dtype.kind in "iu":
        limits = np.iinfo(np.int32)
        low, high = int(voxels.min()), int(voxels.max())
        if low < limits.min or high > limits.max:
            raise ScanError(
                f"voxels: expected integers that int32 holds, found {low} to {high}"
            )
        return np.ascontiguousarray(voxels, dtype=np.int32)
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.ascontiguousarray(voxels, dtype=np.float32)
        if np.isfinite(voxels).sum() != np.isfinite(rounded).sum():
            raise ScanError(
                "voxels: expected numbers that float32 holds, found some beyond it"
            )
        return rounded
    raise ScanError(f"voxels: expected real numbers, found {voxels.dtype}")


def oddity(voxels: Shaped[np.ndarray, "x y z"]) -> str:
    """Say in words what is wrong with a volume that can be sent; empty if nothing.

    The server decides what comes of it: a volume that is not finite is INVALID there.
    """
    if voxels.dtype.kind == "f":
        n_bad = voxels.size - int(np.isfinite(voxels).sum())
        if n_bad:
            return f"{n_bad} voxels are not finite"
    first = voxels.flat[0]
    if (voxels == first).all():
        return f"all voxels are {first:g}"
    return ""
