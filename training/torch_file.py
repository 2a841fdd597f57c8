"""Files by ``torch.save``, opened so that nothing in them can run.

Such a file is a zip archive around a pickle. Whatever is not that, or asks for more
than tensors and plain values, is refused with one line before anything is built from
it; what is built is built by torch's own restricted reader, which calls nothing that a
file names. Knows nothing of models.
"""

import argparse
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runtime.errors import CheckpointError

EXPECTED = "expected a file by torch.save"

PLAIN = (argparse.Namespace,)
"""What a file may hold beside tensors and plain values: parsed flags, which scripts
keep in their checkpoints. Building one calls no code but that of plain attributes."""

_ZIP = b"PK\x03\x04"
_LIKENESSES = (
    # Older torch.save wrote a bare pickle; so does everything that is none of torch's.
    (b"\x80", "found a bare pickle, which can run code. Save it anew with torch.save"),
    (b"version https://git-lfs", "found a Git LFS pointer. Fetch the file itself"),
    (b"<", "found a web page or XML. Download the file itself, not its page"),
)
_HEAD = 64
_LONGEST = 200


def open_torch_file(path: Path) -> dict[object, object]:
    """Map a file's tensors into memory and return the dictionary at its top.

    Args:
        path: A file that ``torch.save`` wrote.

    Returns:
        Its content; tensors are on the CPU and read from the file when they are used.

    Raises:
        CheckpointError: Missing, damaged, something else, or a pickle that asks for
            more than tensors and plain values.
    """
    _refuse_another_kind(path)
    _refuse_damaged(path)
    with _only_plain():
        _refuse_code(path)
        try:
            with warnings.catch_warnings(action="ignore"):
                content = torch.load(
                    str(path), map_location="cpu", weights_only=True, mmap=True
                )
        # Torch's reader meets hostile bytes here and fails in its own many ways.
        except Exception as error:
            raise CheckpointError(
                f"{path}: expected tensors and plain values, found what torch refuses: "
                f"{printable(_first_line(error))}"
            ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected a dictionary at its top, found {type(content).__name__}"
        )
    return content


def printable(text: object) -> str:
    """Return what a file says so that a terminal can show it in one line."""
    shown = ascii(text)
    if isinstance(text, str):
        shown = shown[1:-1]
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "..."


@contextmanager
def _only_plain() -> Iterator[None]:
    """Let in what is `PLAIN`, and nothing that another library has let in before."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(PLAIN))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _refuse_another_kind(path: Path) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "another" if path.exists() else "none"
        raise CheckpointError(f"{path}: {EXPECTED}, found {found}")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_ZIP):
        return
    found = "found an empty file" if not head else "found another format"
    for start, likeness in _LIKENESSES:
        if head.lstrip().startswith(start):
            found = likeness
    raise CheckpointError(f"{path}: {EXPECTED}, {found}")


def _refuse_damaged(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        # The list of entries is a zip archive's end: what was cut off has none.
        raise CheckpointError(
            f"{path}: {EXPECTED}, found a truncated or damaged zip archive "
            f"({printable(str(error))}). Fetch it again"
        ) from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path}: {EXPECTED}, found TorchScript, which is a program"
        )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path}: {EXPECTED}, found a zip archive of other files")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        # Torch stores; what is compressed could also be endless.
        raise CheckpointError(f"{path}: {EXPECTED}, found compressed entries")


def _refuse_code(path: Path) -> None:
    """Read the pickle's instructions, without following them, for what they import."""
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:
        raise CheckpointError(
            f"{path}: {EXPECTED}, found a pickle that torch cannot read: "
            f"{printable(_first_line(error))}"
        ) from error
    if asked:
        raise CheckpointError(
            f"{path}: expected tensors and plain values, found "
            f"{printable(', '.join(sorted(asked)))}, which can run code. "
            "Nothing of the file was loaded"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if not lines or "weights_only" in lines[0]:
        # Torch's advice, which is to load the file unsafely.
        return type(error).__name__
    return lines[0]
