"""What a frozen visual backbone is here: pictures in, tokens out, and a name.

`patch_dct` is the one without weights; `open_clip.py` holds the published one.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image

from runtime.errors import TensorMismatchError
from runtime.patch_dct import PatchDct
from training.data.manifest import VisualSource
from training.data.writer import TrialsWriter

Pictures = UInt8[np.ndarray, "images height width 3"]
Latents = Float32[np.ndarray, "images tokens width"]


class VisualBackbone(Protocol):
    """Gives z_v of pictures, always the same numbers for the same pictures."""

    @property
    def source(self) -> VisualSource:
        """Identity, for the manifest."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        ...

    def latents(self, pictures: Pictures) -> Latents:
        """Return z_v of a batch."""
        ...


class PatchDctBackbone:
    """`PatchDct` of pictures of any size: they are resized to its own."""

    def __init__(self, dct: PatchDct | None = None) -> None:
        self._dct = dct or PatchDct()

    @property
    def source(self) -> VisualSource:
        """Identity, for the manifest."""
        size, patch = self._dct.image_size, self._dct.patch
        detail = f"image_size {size}, patch {patch}, bicubic with antialiasing"
        return VisualSource(
            name=self._dct.name, detail=detail, image_size=size, patch=patch
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        return self._dct.tokens, self._dct.width

    def latents(self, pictures: Pictures) -> Latents:
        """Return z_v of a batch."""
        return np.stack(
            [self._dct.tokens_from_image(self._resized(one)) for one in pictures]
        )

    def _resized(
        self, picture: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "size size 3"]:
        size = (self._dct.image_size, self._dct.image_size)
        if picture.shape[:2] == size:
            return picture
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(resized, dtype=np.uint8)


def compute_latents(
    writer: TrialsWriter,
    backbone: VisualBackbone,
    read: Callable[[slice], Shaped[np.ndarray, "images height width 3"]],
    images: int,
    *,
    batch: int = 32,
    on_image: Callable[[int, int], None] | None = None,
) -> None:
    """Compute z_v once per picture and in order, from where an interruption left off.

    Args:
        writer: Knows how many are done; each batch is on disk before the next.
        backbone: Of the shape that the writer was declared with.
        read: Gives the pictures of some rows.
        images: How many there are.
        batch: Pictures at a time.
        on_image: Told how many are done.

    Raises:
        TensorMismatchError: A picture is no RGB, or a number is not finite.
    """
    for first in range(writer.latents_done, images, batch):
        rows = slice(first, min(first + batch, images))
        pictures = read(rows)
        if pictures.dtype != np.uint8 or pictures.shape[3:] != (3,):
            raise TensorMismatchError(
                "pictures",
                expected="uint8 [images, height, width, 3]",
                found=f"{pictures.dtype} {list(pictures.shape)}",
            )
        writer.write_latents(first, backbone.latents(pictures))
        if on_image is not None:
            on_image(rows.stop, images)


def copy_latents(
    writer: TrialsWriter,
    read: Callable[[slice], Float[np.ndarray, "images tokens width"]],
    images: int,
    on_image: Callable[[int, int], None] | None = None,
) -> None:
    """Write latents that somebody else computed, a few at a time."""
    for first in range(writer.latents_done, images, 64):
        rows = slice(first, min(first + 64, images))
        writer.write_latents(first, read(rows))
        if on_image is not None:
            on_image(rows.stop, images)
