"""A sealed folder: exactly the files that its manifest lists, as it hashes them.

What was checked is what is parsed: every byte is hashed while it is copied into a
private folder, and only the copy is ever opened. Knows nothing of what the files mean;
bundles and galleries are both sealed folders.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

import msgspec

from runtime.errors import BundleError

WEIGHTS_MAGIC: Final = b"NEUROFLOW-WEIGHTS-1\n".ljust(64, b"\0")
"""First bytes of an external weights file; raw numbers alone could look like a pickle.
"""
MAX_BYTES: Final = 16 * 1024**3
"""Upper bound of a sealed folder; the paper's model takes 1.9 GB."""
MAX_FILES: Final = 256
"""Upper bound of the number of files; a bundle has nine."""
SIGNATURE: Final = "manifest.sig"
"""Over the manifest's bytes, in bundles and galleries; `runtime.signing` reads it."""
_CHUNK: Final = 4 * 1024**2
_HEAD: Final = 64
_MAX_SIGNATURE_BYTES: Final = 4096  # it takes 250; whatever is longer is none
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MAX_SAFETENSORS_HEADER: Final = 100_000_000  # the bound of the safetensors library


class FileSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One listed file."""

    path: str
    """Relative to the folder, with forward slashes."""
    size: int
    """Length in bytes."""
    sha256: str
    """Lower-case hexadecimal digest of the whole file."""


def _is_graph(head: bytes, size: int) -> bool:
    # ModelProto starts with field 1 (ir_version) as a varint.
    return size > 2 and head[:1] == b"\x08"


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    fits = length <= min(size - 8, _MAX_SAFETENSORS_HEADER)
    return fits and head[8:9] == b"{"


def _is_weights(head: bytes, _size: int) -> bool:
    return head == WEIGHTS_MAGIC


_FORMATS: Final = MappingProxyType(
    {
        ".onnx": ("an ONNX graph", _is_graph),
        ".safetensors": ("a safetensors file", _is_safetensors),
        ".weights": ("a NeuroFlow weights file", _is_weights),
    }
)
"""The only file names that may be listed, with how each format begins."""


def _kind(head: bytes) -> str:
    if head.startswith(b"PK"):
        return "a zip archive (.pt, .npz or another), which is never opened"
    if head[:1] == b"\x80" and 2 <= head[1] <= 5:
        return "a pickle, which is never opened"
    return f"bytes that begin {head[:8].hex()}"


def check_listing(files: Sequence[FileSpec], *, max_bytes: int = MAX_BYTES) -> None:
    """Refuse a list of files that no folder may have.

    Raises:
        BundleError: An unsafe path, an unknown suffix, a path given twice, too many
            files or too many bytes.
    """
    seen: set[str] = set()
    for spec in files:
        parts = PurePosixPath(spec.path).parts
        plain = spec.path == "/".join(parts) and not spec.path.startswith("/")
        if not plain or ".." in parts or not parts or "\\" in spec.path:
            raise BundleError(
                f"{spec.path!r}: expected a relative path inside the folder, "
                "found one that leaves it or is not canonical"
            )
        if "\0" in spec.path or PurePosixPath(spec.path).suffix not in _FORMATS:
            raise BundleError(
                f"{spec.path!r}: expected a name ending in one of "
                f"{', '.join(_FORMATS)}, found another"
            )
        if not all(_PLAIN_NAME.fullmatch(part) for part in parts):
            raise BundleError(
                f"{spec.path!r}: expected names of ASCII letters, digits and . _ -, "
                "found another"
            )
        # Two names that some file system takes for one are one.
        if spec.path.lower() in seen:
            raise BundleError(f"{spec.path}: expected to be listed once, found twice")
        if spec.size < 0:
            raise BundleError(
                f"{spec.path}: expected a size of 0 or more bytes, found {spec.size}"
            )
        seen.add(spec.path.lower())
    total = sum(spec.size for spec in files)
    if len(files) > MAX_FILES:
        raise BundleError(
            f"manifest: expected at most {MAX_FILES} files, found {len(files)}"
        )
    if total > max_bytes:
        raise BundleError(
            f"manifest: expected at most {max_bytes} bytes in all, found {total}"
        )


def walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield every path below a folder, and every empty folder with a last slash.

    A directory must be a directory, not a link.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                inside = list(walk(folder / entry.name, path + "/"))
                yield from inside or [path + "/"]
            else:
                yield path


def _open_plain(path: Path, name: str) -> int:
    """Open a plain file for reading, or refuse it; return its descriptor."""
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(
            f"{name}: expected a file in {path.parents[name.count('/')].name}, found "
            f"none ({error.strerror})"
        ) from error
    found = None
    if stat.S_ISLNK(status.st_mode):
        found = "a symbolic link"
    elif not stat.S_ISREG(status.st_mode):
        found = "a folder, pipe, socket or device"
    elif status.st_nlink != 1:
        found = f"a file with {status.st_nlink} hard links"
    if found is not None:
        raise BundleError(
            f"{name}: expected a plain file with one name, found {found}. "
            "Copy the folder without links."
        )
    try:
        # O_NONBLOCK: a pipe swapped in after lstat must not hang the start of a rig.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(
            f"{name}: expected a readable file, found {error.strerror}"
        ) from error
    opened = os.fstat(descriptor)
    if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
        os.close(descriptor)
        raise BundleError(f"{name}: expected one file, found it replaced while opening")
    return descriptor


def read_manifest(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """Return a manifest's bytes.

    Raises:
        BundleError: Not a plain file, or longer than `max_bytes`.
    """
    return read_plain(folder, name, max_bytes=max_bytes)


def read_plain(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """Return the bytes of a plain file in a folder, neither of them a link.

    Raises:
        BundleError: Not a plain file, or longer than `max_bytes`.
    """
    if folder.is_symlink():
        raise BundleError(
            f"{folder}: expected a folder with {name}, found a link. Name the folder "
            "that it leads to."
        )
    if not folder.is_dir():
        raise BundleError(f"{folder}: expected a folder with {name}, found none")
    with os.fdopen(_open_plain(folder / name, name), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise BundleError(f"{name}: expected at most {max_bytes} bytes, found more")
    return data


def read_signature(folder: Path) -> bytes | None:
    """Return the bytes of a sealed folder's signature; None where it has none.

    Raises:
        BundleError: It is not a plain file.
    """
    if not os.path.lexists(folder / SIGNATURE):
        return None
    with os.fdopen(_open_plain(folder / SIGNATURE, SIGNATURE), "rb") as file:
        return file.read(_MAX_SIGNATURE_BYTES + 1)


def check_file(folder: Path, spec: FileSpec, target: Path | None = None) -> None:
    """Hold a file against its listing, and copy it while it is read, if asked for.

    What is hashed is what is written, byte for byte; both take as long, and so they
    take turns with two pieces.

    Raises:
        BundleError: It is not as listed.
        OSError: It cannot be read, or the copy not be written.
    """
    with contextlib.ExitStack() as stack:
        source = _open_plain(folder / spec.path, spec.path)
        read = stack.enter_context(os.fdopen(source, "rb"))
        size = os.fstat(read.fileno()).st_size
        if size != spec.size:
            raise BundleError(
                f"{spec.path}: expected {spec.size} bytes, found {size}. "
                "Copy the folder again."
            )
        write: Callable[[bytes], object] = len
        if target is not None:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            copy = os.fdopen(os.open(target, flags, 0o600), "wb")
            write = stack.enter_context(copy).write
        writer = stack.enter_context(ThreadPoolExecutor(1))
        digest, copied = hashlib.sha256(), 0
        while chunk := read.read(_CHUNK):
            if copied == 0:
                _check_format(spec, chunk[:_HEAD])
            copied += len(chunk)
            if copied > spec.size:
                break
            written = writer.submit(write, chunk)
            digest.update(chunk)
            written.result()
    if copied != spec.size or digest.hexdigest() != spec.sha256:
        raise BundleError(
            f"{spec.path}: expected sha256 {spec.sha256}, found {digest.hexdigest()}. "
            "Copy the folder again."
        )


def _check_format(spec: FileSpec, head: bytes) -> None:
    wanted, matches = _FORMATS[PurePosixPath(spec.path).suffix]
    if not matches(head, spec.size):
        raise BundleError(f"{spec.path}: expected {wanted}, found {_kind(head)}")


def check_exact(
    folder: Path, manifest: str, files: Sequence[FileSpec], *beside: str
) -> None:
    """Refuse a folder that lacks a listed file or holds another.

    Args:
        folder: The sealed folder.
        manifest: Its name, which it does not list.
        files: What is listed.
        *beside: What else may be there and need not.

    Raises:
        BundleError: Naming what is missing or extra.
    """
    listed = {spec.path for spec in files}
    found = set(walk(folder)) - {manifest, *beside}
    differences = [
        f"{words} {', '.join(sorted(paths))}"
        for words, paths in (("missing", listed - found), ("extra", found - listed))
        if paths
    ]
    if differences:
        raise BundleError(
            f"{folder.name}: expected exactly the {len(listed)} files that {manifest} "
            f"lists, found {'; '.join(differences)}"
        )


def seal(folder: Path) -> tuple[FileSpec, ...]:
    """Return the specification of every file now below a folder, sorted by path.

    Raises:
        BundleError: A file that could never be opened again.
    """
    specs = []
    for path in walk(folder):
        digest = hashlib.sha256()
        with os.fdopen(_open_plain(folder / path, path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD)
            digest.update(head)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        spec = FileSpec(path=path, size=size, sha256=digest.hexdigest())
        check_listing([spec])
        _check_format(spec, head)
        specs.append(spec)
    check_listing(specs)
    return tuple(specs)
