"""Folders in which nothing may be written: they hold exactly what they list.

One file more, and whoever opens a bundle, a gallery, an overlay or prepared trials
refuses the whole of it.
"""

from pathlib import Path
from typing import Final

import msgspec

from runtime.errors import ArtifactError
from runtime.gallery import GALLERY
from runtime.manifest import MANIFEST
from runtime.overlay import OVERLAY

_LISTS: Final = (MANIFEST, GALLERY, OVERLAY)


class _Listing(msgspec.Struct, frozen=True):
    """What tells such a manifest from another program's file of the same name."""

    files: msgspec.Raw


def refuse_inside(place: Path) -> None:
    """Refuse a place in a folder that lists its files, or below one.

    Raises:
        ArtifactError: Naming the folder.
    """
    for folder in place.resolve().parents:
        for name in _LISTS:
            if _is_listing(folder / name):
                raise ArtifactError(
                    f"{place}: expected a place outside of {folder}, which holds "
                    f"exactly the files that its {name} lists, found one inside. "
                    "Name another."
                )


def _is_listing(file: Path) -> bool:
    try:
        # A pipe of that name would be waited for.
        data = file.read_bytes() if file.is_file() else b""
        msgspec.json.decode(data, type=_Listing)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
