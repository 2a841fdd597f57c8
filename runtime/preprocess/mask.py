"""Which voxels of a volume are decoded, and in which order.

Pure: the mask arrives as an array, whoever reads it from a file.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Bool, Float32, Int64, Shaped
from runtime.errors import TensorMismatchError

VOLUME_DTYPES: Final = ("int16", "uint16", "int32", "float32")
_TYPE_CODES: Final = frozenset(np.dtype(name).str[1:] for name in VOLUME_DTYPES)
"""The same, of either byte order, for every volume: to tell its `name`, numpy makes a
string that CPython's cache of attributes keeps."""

"""What a scanner sends and `VoxelMask.select` reads, in native byte order."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class VoxelMask:
    """The decoded voxels of a volume, in C order of ``(x, y, z)``.

    Two masks are interchangeable exactly where their `sha256` are equal.
    """

    shape: tuple[int, int, int]
    """Voxels along x, y and z of the volumes that the mask applies to."""
    indices: Int64[np.ndarray, " voxels"] = field(repr=False)
    """Positions in the volume flattened in C order, increasing; read-only."""
    sha256: str
    """Hash of shape and indices, so of the voxels and of their order."""

    @classmethod
    def from_volume(cls, volume: Bool[np.ndarray, "x y z"]) -> "VoxelMask":
        """Build the mask that selects the true voxels of a volume.

        Raises:
            TensorMismatchError: Not one voxel is true.
        """
        indices = np.flatnonzero(np.ascontiguousarray(volume)).astype(np.int64)
        if indices.size == 0:
            raise TensorMismatchError(
                "mask", expected="at least one true voxel", found="none"
            )
        indices.flags.writeable = False
        x, y, z = (int(size) for size in volume.shape)
        digest = hashlib.sha256(np.asarray((x, y, z), dtype="<i8").tobytes())
        digest.update(indices.astype("<i8").tobytes())
        return cls((x, y, z), indices, digest.hexdigest())

    @property
    def voxels(self) -> int:
        """Number of selected voxels."""
        return int(self.indices.size)

    def volume(self) -> Bool[np.ndarray, "x y z"]:
        """Return the volume that `from_volume` took: true where a voxel is decoded."""
        volume = np.zeros(self.shape, dtype=np.bool_)
        volume.reshape(-1)[self.indices] = True
        return volume

    def select(
        self,
        volume: Shaped[np.ndarray, "..."],
        out: Float32[np.ndarray, " voxels"] | None = None,
    ) -> Float32[np.ndarray, " voxels"]:
        """Return the masked voxels of one volume, unscaled.

        Args:
            volume: Indexed ``[x, y, z]``; one of `VOLUME_DTYPES`. int32 beyond 2^24
                rounds to float32.
            out: Written and returned, so that a live run need not allocate the answer.

        Raises:
            TensorMismatchError: Another shape or dtype, or an `out` that does not fit.
        """
        require_volume(volume, self.shape)
        # A Fortran-ordered volume, as nibabel gives it, is copied here once.
        chosen = volume.reshape(-1).take(self.indices)
        if out is None:
            return chosen.astype(np.float32)
        require_voxels("out", out, self.voxels)
        out[:] = chosen
        return out

    def scatter(
        self, voxels: Float32[np.ndarray, " voxels"]
    ) -> Float32[np.ndarray, "x y z"]:
        """Return a volume that holds the voxels where the mask is true, else zero."""
        require_voxels("voxels", voxels, self.voxels)
        volume = np.zeros(self.shape, dtype=np.float32)
        volume.reshape(-1)[self.indices] = voxels
        return volume


def require_volume(
    volume: Shaped[np.ndarray, "..."], shape: tuple[int, int, int]
) -> None:
    """Refuse an array that no scanner sends for these volumes.

    Raises:
        TensorMismatchError: Another shape, or none of `VOLUME_DTYPES`.
    """
    if (
        not isinstance(volume, np.ndarray)
        or volume.shape != shape
        or volume.dtype.str[1:] not in _TYPE_CODES
    ):
        raise TensorMismatchError(
            "volume",
            expected=f"{' or '.join(VOLUME_DTYPES)} {list(shape)}",
            found=_described(volume),
        )


def require_voxels(name: str, array: Shaped[np.ndarray, "..."], voxels: int) -> None:
    """Refuse an array that is not float32 with one value a voxel.

    Raises:
        TensorMismatchError: Another shape or dtype.
    """
    if array.shape != (voxels,) or array.dtype != np.float32:
        raise TensorMismatchError(
            name, expected=f"float32 [{voxels}]", found=_described(array)
        )


def require_rows(name: str, array: Shaped[np.ndarray, "..."], voxels: int) -> None:
    """Refuse an array that is not float32 with the voxels along its last axis.

    Raises:
        TensorMismatchError: Another shape or dtype.
    """
    is_array = isinstance(array, np.ndarray)
    if not is_array or array.shape[-1:] != (voxels,) or array.dtype != np.float32:
        raise TensorMismatchError(
            name, expected=f"float32 [..., {voxels}]", found=_described(array)
        )


def _described(array: object) -> str:
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    return f"{array.dtype.name} {list(array.shape)}"


def require_finite(name: str, array: Shaped[np.ndarray, "..."]) -> None:
    """Refuse an array with infinities or NaN, which would stay in running sums.

    Raises:
        TensorMismatchError: A value is not finite.
    """
    is_finite = np.isfinite(array)
    if not is_finite.all():
        bad = int(array.size - is_finite.sum())
        raise TensorMismatchError(
            name, expected="finite values", found=f"{bad} that are not"
        )
