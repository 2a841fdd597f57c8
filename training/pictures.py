"""Pictures as 8-bit RGB, read from files that may be damaged."""

import io
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from runtime.errors import RecordingError
from training.data.files import begins

PLAIN: Final = ("PNG", "JPEG")
KINDS: Final = (*PLAIN, "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
"""Never EPS, which Pillow gives to Ghostscript: a program in the place of a picture."""
_DAMAGED: Final = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises of a damaged file; the second and third of a PNG's chunks."""


def read_picture(
    file: Path, data: bytes | None = None, *, is_plain: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture as RGB.

    Args:
        file: Of one of `KINDS`, whatever its name says.
        data: The file's bytes, where they have been read.
        is_plain: Convert nothing: take PNG and JPEG alone, and of these RGB alone.

    Raises:
        RecordingError: It is missing or damaged, or not as plain as it must be.
    """
    wanted = " or ".join(PLAIN) if is_plain else "a picture"
    try:
        with Image.open(
            file if data is None else io.BytesIO(data),
            formats=PLAIN if is_plain else KINDS,
        ) as picture:
            if is_plain and picture.mode != "RGB":
                raise RecordingError(
                    f"{file}: expected RGB, found Pillow's mode {picture.mode}"
                )
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError as error:
        raise RecordingError(
            f"{file}: expected {wanted}, found another file ({begins(file)})"
        ) from error
    except _DAMAGED as error:
        raise RecordingError(f"{file}: expected {wanted}, found {error}") from error
