"""Plain .npy files that are larger than memory: made, hashed, mapped, refused."""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped

from runtime.errors import ArtifactError, RecordingError
from training.data.manifest import StoredArray

WINDOW_BYTES: Final = 2**16
WINDOWS: Final = 64
READ_BYTES: Final = 2**22
WHOLE_LIMIT_BYTES: Final = 2**25
"""Smaller files are hashed and looked at whole whenever they are opened."""

_STARTS: Final = (
    (b"\x93NUMPY", "an .npy file, cut or of objects"),
    (b"PK", "an archive: cut, or of something else"),
    (b"\x80", "a pickle: cut, or of something else than tensors"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "it is a page or another text"),
    (b"{", "it is JSON or another text"),
)

Array = Shaped[np.ndarray, "..."]


def create_array(file: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an array on disk, mapped for writing; its room is taken at once.

    A disk that is too small says so here, not hours later.

    Raises:
        ArtifactError: There is no room, or no place to write.
    """
    try:
        made = np.lib.format.open_memmap(
            file, mode="w+", dtype=np.dtype(dtype), shape=shape
        )
        with file.open("rb+") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    except OSError as error:
        file.unlink(missing_ok=True)
        wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raise ArtifactError(
            f"{file}: expected room for {wanted:,} bytes, found: {error.strerror}"
        ) from error
    return made


def describe(file: Path, array: Array) -> StoredArray:
    """Return what a manifest says of a finished file."""
    return StoredArray(
        dtype=array.dtype.name,
        shape=tuple(int(size) for size in array.shape),
        bytes=file.stat().st_size,
        sha256=whole_sha256(file),
        sampled_sha256=sampled_sha256(file),
    )


def whole_sha256(file: Path) -> str:
    """Hash a file of any size."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sampled_sha256(file: Path) -> str:
    """Hash a file's length and 64 windows spread evenly from its start to its end."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(size - WINDOW_BYTES, 0)
    with file.open("rb") as opened:
        for window in range(WINDOWS):
            opened.seek(last * window // (WINDOWS - 1))
            digest.update(opened.read(WINDOW_BYTES))
    return digest.hexdigest()


def identity(file: Path) -> str:
    """Return what changes when a file does, for what goes on where it was stopped.

    Content where that is read in no time, else length and when it was written last.

    Raises:
        RecordingError: It is missing, or cannot be read.
    """
    try:
        found = file.stat()
        if found.st_size <= WHOLE_LIMIT_BYTES:
            return f"sha256 {whole_sha256(file)}"
    except OSError as error:
        raise RecordingError(
            f"{file}: expected a file, found: {error.strerror}"
        ) from error
    return f"{found.st_size} bytes of {found.st_mtime_ns} ns"


def open_for_writing(
    file: Path, dtype: str, shape: tuple[int, ...]
) -> np.memmap[Any, Any]:
    """Map an array that `create_array` made.

    Mapped for writing, a file that was cut would be filled up with zeros.

    Raises:
        ArtifactError: It is missing, cut, or another array.
    """
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            header = np.lib.format.read_array_header_1_0(opened)
            begins_at = opened.tell()
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(
            f"{file}: expected the array of an interrupted preparation, found "
            f"{_no_npy(file)}. Choose another --out"
        ) from error
    size = begins_at + int(np.prod(shape)) * np.dtype(dtype).itemsize
    length = file.stat().st_size
    if header != (shape, False, np.dtype(dtype)) or length != size:
        raise ArtifactError(
            f"{file}: expected {dtype} {list(shape)} in {size:,} bytes as the "
            f"preparation that was interrupted made it, found {header[2]} "
            f"{list(header[0])} in {length:,}. Choose another --out"
        )
    mapped: np.memmap[Any, Any] = np.load(file, mmap_mode="r+", allow_pickle=False)
    return mapped


def open_array(file: Path, expected: StoredArray, *, whole: bool = False) -> Array:
    """Map an array read-only, after comparing it with what the manifest says.

    Args:
        file: A plain file.
        expected: What it must be.
        whole: Hash all of it, however large.

    Raises:
        ArtifactError: It is missing, cut, no plain file, or of other content.
    """
    if not file.is_file() or file.is_symlink():
        raise ArtifactError(f"{file}: expected a plain file, found none")
    size = file.stat().st_size
    if size != expected.bytes:
        raise ArtifactError(
            f"{file}: bytes: expected {expected.bytes:,}, found {size:,}. "
            "The file is cut or replaced; copy it again"
        )
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(
            f"{file}: expected an .npy file of plain numbers, found {_no_npy(file)}"
        ) from error
    if array.dtype.name != expected.dtype:
        raise ArtifactError(
            f"{file}: dtype: expected {expected.dtype}, found {array.dtype.name}"
        )
    if array.shape != expected.shape or not array.flags.c_contiguous:
        raise ArtifactError(
            f"{file}: shape: expected {expected.shape} in C order, found {array.shape}"
        )
    _compare_content(file, array, expected, whole=whole)
    mapped: Array = array
    return mapped


def _compare_content(
    file: Path, array: Array, expected: StoredArray, *, whole: bool
) -> None:
    is_small = expected.bytes <= WHOLE_LIMIT_BYTES
    if is_small and array.dtype.kind == "f":
        bad = np.argwhere(~np.isfinite(array))
        if bad.size:
            raise ArtifactError(
                f"{file}: values: expected finite ones, found another at "
                f"{[int(i) for i in bad[0]]}"
            )
    if whole or is_small:
        wanted, found = expected.sha256, whole_sha256(file)
    else:
        wanted, found = expected.sampled_sha256, sampled_sha256(file)
    if found != wanted:
        raise ArtifactError(
            f"{file}: sha256: expected {wanted[:12]}..., found {found[:12]}.... "
            "The file was changed after it was written"
        )


def begins(file: Path) -> str:
    """Say in a few words what a file seems to be that was taken for another.

    Not with numpy's or torch's words, which are advice to load it unsafely.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not head:
        return "it is empty"
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    if head.isascii() and head.decode("ascii").isprintable():
        return "it is text"
    return f"it begins with the bytes {head[:4].hex(' ')}"


def _no_npy(file: Path) -> str:
    return "none" if not file.is_file() else f"another file ({begins(file)})"


def open_latents(file: Path) -> Float[np.ndarray, "images tokens width"]:
    """Map z_v that was computed elsewhere.

    Raises:
        RecordingError: No .npy, or another type or number of axes.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(
            f"{file}: expected latents as .npy of plain numbers, found {_no_npy(file)}"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise RecordingError(
            f"{file}: expected latents as .npy, one array, found an archive (.npz)"
        )
    if array.ndim != 3 or array.dtype not in (np.float16, np.float32):
        raise RecordingError(
            f"{file}: latents: expected float16 or float32 [images, tokens, width], "
            f"found {array.dtype} {list(array.shape)}"
        )
    latents: Float[np.ndarray, "images tokens width"] = array
    return latents
