"""A private copy of a sealed folder, which nobody else can write to while it is parsed.

`runtime.sealed` says what such a folder is; here its files are copied while they are
hashed, for one process or into a cache that several share.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

from runtime.errors import ArtifactError, BundleError
from runtime.held_folder import HeldFolder
from runtime.private_file import locked
from runtime.sealed import (
    SIGNATURE,
    FileSpec,
    check_exact,
    check_file,
    check_listing,
    walk,
)

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _private(cache: Path) -> None:
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = cache.lstat()
    except OSError as error:
        raise ArtifactError(
            f"cache {cache}: expected your own folder, or a place to make it, found "
            f"{(error.strerror or str(error)).lower()}. Name another folder."
        ) from error
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        raise BundleError(
            f"cache {cache}: expected your own folder with mode 0700, found a link. "
            "Name the folder that it leads to."
        )
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or mode & 0o077:
        raise BundleError(
            f"cache {cache}: expected your own folder with mode 0700, "
            f"found mode {mode:04o} of user {status.st_uid}. Run chmod 700 on it."
        )


@final
class Copy:
    """The private copy of a sealed folder.

    Every file in it was hashed while it was copied, or hashed again where an earlier
    process left it here.
    """

    def __init__(
        self,
        source: Path,
        files: Sequence[FileSpec],
        folder: Path,
        held: HeldFolder | None,
    ) -> None:
        self.folder = folder
        """Gone after `remove` where it is temporary."""
        self._source, self._held, self._files = source, held, tuple(files)

    def fetch(self) -> None:
        """Hash all files, and copy those that are not kept already.

        Raises:
            BundleError: One is not as listed.
            ArtifactError: There is no room for the copies.
        """
        if self._held is not None:
            self._copy(self._files)
            return
        # Held while files are copied: two processes do not both write them.
        with locked(self.folder.parent):
            self._copy([spec for spec in self._files if not self._is_kept(spec)])

    def _copy(self, specs: Sequence[FileSpec]) -> None:
        size = sum(spec.size for spec in specs)
        free = shutil.disk_usage(self.folder.parent).free
        if free < size:
            raise self._no_room(size, f"{free} bytes free")
        # A name that no listed file has, in the copy's own file system.
        part = self.folder.with_name(f"{self.folder.name}.part")
        try:
            for spec in specs:
                part.unlink(missing_ok=True)
                check_file(self._source, spec, part)
                target = self.folder / spec.path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                part.replace(target)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if error.errno in _NO_ROOM:
                raise self._no_room(size, reason) from error
            raise ArtifactError(
                f"{self._source}: expected to read and copy it, found {reason}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _no_room(self, size: int, found: str) -> ArtifactError:
        remedy = "Make room" + (
            "." if self._held is None else ", or set TMPDIR to another folder."
        )
        held = self.folder.parent
        place = held if self._held is None else held.parent
        return ArtifactError(
            f"{place}: expected room for a private copy of "
            f"{self._source.name}, {size} bytes, found {found}. {remedy}"
        )

    def _is_kept(self, spec: FileSpec) -> bool:
        """Say whether a file is here and is what it was; only we can write here."""
        if not (self.folder / spec.path).exists():
            return False
        try:
            check_file(self.folder, spec)
        except BundleError:
            return False
        return True

    def remove(self) -> None:
        """Remove the copy where it is temporary."""
        if self._held is not None:
            self._held.remove()


def copy_verified(
    folder: Path,
    manifest: str,
    files: Sequence[FileSpec],
    *,
    name: str,
    cache: Path | None,
) -> Copy:
    """Copy a sealed folder's files into a private place while checking every byte.

    Args:
        folder: The sealed folder.
        manifest: File name of the manifest, which `files` does not list. Nor does it
            list the signature, the one file that may stand beside it and need not.
        files: Exactly what else the folder must hold.
        name: Name of the copy inside `cache`; the sha256 of the manifest's bytes.
        cache: Folder of mode 0700 that keeps verified copies; None makes a temporary
            one, which the caller removes.

    Returns:
        The private copy. An older copy in the cache is verified again before use, and
        what it has is not read from the folder once more.

    Raises:
        BundleError: Whatever is not as listed; nothing is left behind.
        ArtifactError: There is no room for the copy.
    """
    check_listing(files)
    check_exact(folder, manifest, files, SIGNATURE)
    if cache is None:
        held = HeldFolder()
        place, is_new = held.path / name, True
    else:
        held = None
        _private(cache)
        place = cache / name
        with locked(cache):
            _remove_unlisted(place, files)
            is_new = not place.exists()
    copy = Copy(folder, files, place, held)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        copy.fetch()
    except BaseException:
        if is_new:
            shutil.rmtree(place, ignore_errors=True)
        copy.remove()
        raise
    return copy


def _remove_unlisted(copy: Path, files: Sequence[FileSpec]) -> None:
    """Remove a copy that was kept where something else lies in it."""
    if not copy.exists():
        return
    extra = set(walk(copy)) - {spec.path for spec in files}
    if extra - {f"{Path(spec.path).parent}/" for spec in files}:
        shutil.rmtree(copy)
