"""One session's betas of the Natural Scenes Dataset, read a slab at a time.

Both layouts hold ``[x, y, z, trial]`` with x running fastest: a NIfTI file by its
standard, an HDF5 file because MATLAB wrote it, so that h5py sees ``[trial, z, y, x]``.
"""

import filecmp
import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from runtime.errors import BackendError, RecordingError
from runtime.preprocess.mask import VoxelMask
from training.data.files import sampled_sha256
from training.measured import STILL_SHARE
from training.trials import check_finite

INT16_SCALE: Final = 300.0
"""Percent signal change is stored as int16 times this."""
SLAB_BYTES: Final = 2**26
SIDES_RTOL: Final = 0.01
"""Headers round the sides of voxels; another resolution is farther off."""

Betas = Shaped[np.ndarray, "trials voxels"]


def stored_scale(betas: Betas) -> float:
    """Return what stored numbers are divided by: floats are percent already."""
    return INT16_SCALE if betas.dtype == np.int16 else 1.0


def read_session(file: Path, mask: VoxelMask, mask_file: Path, trials: int) -> Betas:
    """Read the masked voxels of all trials of a session.

    Args:
        file: ``betas_sessionNN.nii.gz``, ``.nii`` or ``.hdf5``.
        mask: The voxels wanted, in its own order.
        mask_file: Where it came from, for the message.
        trials: How many the experiment had in this session.

    Returns:
        int16 as stored, or float32; see `stored_scale`.

    Raises:
        RecordingError: The file is missing, cut, of another shape than mask or
            experiment say, holds values that are not finite, or the same in all
            trials for more than half of the mask.
        BackendError: A library is missing.
    """
    if not file.is_file():
        raise RecordingError(f"{file}: expected a session's betas, found no file")
    if file.suffix == ".hdf5":
        betas = _read_hdf5(file, mask, mask_file, trials)
    else:
        betas = _read_nifti(file, mask, mask_file, trials)
    if betas.dtype.kind == "f":
        check_finite(f"{file}: betas [trial, voxel]", betas)
    still = int((betas == betas[0]).all(axis=0).sum())
    if len(betas) > 1 and still > STILL_SHARE * mask.voxels:
        raise RecordingError(
            f"{file}: betas: expected voxels that vary from trial to trial, found "
            f"{still:,} of {mask.voxels:,} in the mask that never do. It has a hole, "
            "or is not all there; copy it again"
        )
    return betas


def require_distinct(files: Sequence[Path]) -> None:
    """Refuse a session that is a copy of another, byte for byte.

    Of files as long as another a sample is hashed; only where that is the same, all of
    both is read.

    Raises:
        RecordingError: One is, naming both; or one cannot be read.
    """
    try:
        copy = _first_copy(files)
    except OSError as error:
        raise RecordingError(
            f"{error.filename}: expected a session's betas, found: {error.strerror}"
        ) from error
    if copy is not None:
        file, first = copy
        raise RecordingError(
            f"{file}: expected betas of a session of its own, found a copy of "
            f"{first.name}. Copy the right file"
        )


def _first_copy(files: Sequence[Path]) -> tuple[Path, Path] | None:
    alike: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        alike[file.stat().st_size].append(file)
    for some in alike.values():
        seen: dict[str, Path] = {}
        for file in some if len(some) > 1 else ():
            first = seen.setdefault(sampled_sha256(file), file)
            if first != file and filecmp.cmp(first, file, shallow=False):
                return file, first
    return None


def x_fastest(mask: VoxelMask) -> Int64[np.ndarray, " voxels"]:
    """Return where the mask's voxels stand in a volume in which x runs fastest."""
    x, y, z = np.unravel_index(mask.indices, mask.shape)
    return np.ravel_multi_index((z, y, x), mask.shape[::-1]).astype(np.int64)


def require_same_grid(
    file: Path, mask: VoxelMask, mask_file: Path, affine: Float64[np.ndarray, "4 4"]
) -> None:
    """Refuse a mask that is not of a session's voxels, before anything else is read.

    HDF5 says their number alone, NIfTI also their size.

    Raises:
        RecordingError: It is of other voxels, or the session is damaged.
        BackendError: A library is missing.
    """
    if file.suffix == ".hdf5":
        with _hdf5(file) as data:
            _check_shape(file, mask, mask_file, tuple(data.shape[::-1]))
        return
    image = _nifti(file)
    _check_shape(file, mask, mask_file, tuple(image.shape))
    found = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    wanted = np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0))
    if not np.allclose(found, wanted, rtol=SIDES_RTOL):
        raise RecordingError(
            f"{mask_file}: affine: expected voxels of {_sides(wanted)} mm as in "
            f"{file.name}, found {_sides(found)}"
        )


def _sides(mm: Float64[np.ndarray, " axes"]) -> str:
    return " x ".join(f"{side:.3g}" for side in mm)


def _check_shape(
    file: Path, mask: VoxelMask, mask_file: Path, shape: tuple[int, ...]
) -> None:
    if shape[:3] != mask.shape:
        raise RecordingError(
            f"{mask_file}: shape: expected {shape[:3]} as in {file.name}, "
            f"found {mask.shape}"
        )


def _check(
    file: Path,
    mask: VoxelMask,
    mask_file: Path,
    trials: int,
    shape: tuple[int, ...],
    dtype: Any,
) -> None:
    _check_shape(file, mask, mask_file, shape)
    if shape[3:] != (trials,):
        raise RecordingError(
            f"{file}: trials: expected {trials} as in the experiment's design, "
            f"found {shape[3:]}"
        )
    if np.dtype(dtype).newbyteorder("=") not in (np.int16, np.float32):
        raise RecordingError(
            f"{file}: dtype: expected int16 or float32, found {np.dtype(dtype)}"
        )


def _nifti(file: Path) -> Any:
    try:
        import nibabel as nib
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise _missing("nibabel") from error
    try:
        return nib.load(file)
    except (ImageFileError, OSError, EOFError, zlib.error) as error:
        raise RecordingError(
            f"{file}: header: expected a NIfTI image, found it cut or damaged ({error})"
        ) from error


def _read_nifti(file: Path, mask: VoxelMask, mask_file: Path, trials: int) -> Betas:
    proxy = _nifti(file).dataobj
    _check(file, mask, mask_file, trials, tuple(proxy.shape), proxy.dtype)
    if (proxy.slope, proxy.inter) != (1.0, 0.0):
        # The published files scale by convention; a header would scale once more.
        raise RecordingError(
            f"{file}: scl_slope: expected none, found {proxy.slope} and {proxy.inter}"
        )
    wanted, size = x_fastest(mask), int(np.prod(mask.shape))
    betas = np.empty((trials, mask.voxels), dtype=proxy.dtype.newbyteorder("="))
    step = max(SLAB_BYTES // (size * proxy.dtype.itemsize), 1)
    opener: Any = gzip.open if file.suffix == ".gz" else open
    with cast(IO[bytes], opener(file, "rb")) as stream:
        _bytes(stream, int(proxy.offset), file, "header")
        for first in range(0, trials, step):
            count = min(step, trials - first)
            raw = _bytes(stream, count * size * proxy.dtype.itemsize, file, "betas")
            slab = np.frombuffer(raw, dtype=proxy.dtype).reshape(count, size)
            betas[first : first + count] = slab[:, wanted]
        # What is left are at most a few bytes, and gzip's own check of all the others.
        _bytes(stream, 0, file, "betas", is_last=True)
    return betas


def _bytes(
    stream: IO[bytes], count: int, file: Path, field: str, *, is_last: bool = False
) -> bytes:
    try:
        found = stream.read(2**16 if is_last else count)
    except (EOFError, OSError, zlib.error) as error:
        raise RecordingError(
            f"{file}: {field}: expected a whole file, found it cut or damaged "
            f"({error}). Copy it again"
        ) from error
    if len(found) < count:
        raise RecordingError(
            f"{file}: {field}: expected {count:,} more bytes, found {len(found):,}. "
            "The file is cut; copy it again"
        )
    return found


def _read_hdf5(file: Path, mask: VoxelMask, mask_file: Path, trials: int) -> Betas:
    with _hdf5(file) as data:
        _check(file, mask, mask_file, trials, tuple(data.shape[::-1]), data.dtype)
        betas = np.empty((trials, mask.voxels), dtype=data.dtype.newbyteorder("="))
        for columns, slab in _slabs(data, mask):
            betas[:, columns] = slab
    return betas


@contextmanager
def _hdf5(file: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py") from error
    try:
        with h5py.File(file, "r") as opened:
            if not isinstance(opened.get("betas"), h5py.Dataset):
                raise RecordingError(
                    f"{file}: betas: expected a data set, found {sorted(opened)}"
                )
            yield opened["betas"]
    except (OSError, RuntimeError) as error:
        # h5py says a cut file's length in several ways; all of them are one line here.
        line = " ".join(str(error).split())
        raise RecordingError(
            f"{file}: betas: expected a whole HDF5 file, found it cut or damaged "
            f"({line}). Copy it again"
        ) from error


def _slabs(
    data: Any, mask: VoxelMask
) -> Iterator[tuple[Int64[np.ndarray, " columns"], Betas]]:
    """Give columns of the mask and their betas, one plane of z after the other.

    The published files keep the trials of a voxel together (chunks of ``[1 1 1 750]``),
    so that a slab of trials would read the whole file; a plane of z reads its part of
    it. Only the rows and columns that the mask spans are read.
    """
    x, y, z = np.unravel_index(mask.indices, mask.shape)
    for plane in np.unique(z):
        columns = np.flatnonzero(z == plane)
        px, py = x[columns], y[columns]
        slab = data[:, plane, py.min() : py.max() + 1, px.min() : px.max() + 1]
        yield columns, slab[:, py - py.min(), px - px.min()]


def _missing(library: str) -> BackendError:
    return BackendError(
        f"{library}: expected the extra scanner, found it missing. "
        "Install neuroflow-rt[scanner]"
    )
