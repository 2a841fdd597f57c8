"""Folders in which nothing may be written: they hold exactly what they list.

One file more, and whoever opens a bundle, a gallery, an overlay or prepared trials
refuses the whole of it.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from runtime.errors import ArtifactError
from runtime.gallery import GALLERY
from runtime.manifest import MANIFEST, Sha256
from runtime.overlay import OVERLAY

_LISTS: Final = (MANIFEST, GALLERY, OVERLAY)
_Some = msgspec.Meta(min_length=1)


class _File(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: Sha256


class _Sealed(msgspec.Struct, frozen=True):
    """A bundle, a gallery or an overlay, of whatever version.

    Other programs keep lists of files in files of these names: those of downloads.
    """

    schema_version: int
    files: Annotated[tuple[_File, ...], _Some]


class _Array(msgspec.Struct, frozen=True):
    bytes: int
    sha256: Sha256
    sampled_sha256: Sha256


class _Trials(msgspec.Struct, frozen=True):
    """Prepared trials, of whatever version."""

    schema: int
    files: Annotated[dict[str, _Array], _Some]


def refuse_inside(place: Path) -> None:
    """Refuse a place in a folder that lists its files, or below one.

    Raises:
        ArtifactError: Naming the folder.
    """
    for folder in place.resolve().parents:
        if name := _listing_in(folder):
            raise ArtifactError(
                f"{place}: expected a place outside of {folder}, which holds "
                f"exactly the files that its {name} lists, found one inside. "
                "Name another."
            )


def refuse_sealed(folder: Path) -> None:
    """Refuse a folder to write files into that lists its own, or lies in such a one.

    Where a verb goes on in a folder that it has sealed itself, or says more of it, that
    verb looks at the folder, and `refuse_inside` at those above.

    Raises:
        ArtifactError: Naming the folder.
    """
    if name := _listing_in(folder):
        raise ArtifactError(
            f"{folder}: expected a folder that takes other files, found one that holds "
            f"exactly those that its {name} lists. Name another."
        )
    refuse_inside(folder)


def _listing_in(folder: Path) -> str | None:
    return next((name for name in _LISTS if _is_listing(folder / name)), None)


def _is_listing(file: Path) -> bool:
    try:
        # A pipe of that name would be waited for.
        data = file.read_bytes() if file.is_file() else b""
    except OSError:
        return False
    return any(_is_kind(data, kind) for kind in (_Sealed, _Trials))


def _is_kind(data: bytes, kind: type[_Sealed | _Trials]) -> bool:
    try:
        msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
