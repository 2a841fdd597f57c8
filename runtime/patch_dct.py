"""The frozen visual backbone `patch_dct`: an image as orthonormal DCT tokens, and back.

Nothing is learned and nothing is lost: each square patch goes through the orthonormal
two-dimensional DCT-II per colour channel, so that lengths and angles of pixels are
lengths and angles of tokens, and the inverse is exact to rounding.

A token is one coefficient of all patches: token 0 is the picture in little (one mean
a patch and colour), the others are what finer detail adds. What a brain's response can
tell of a picture is coarse; so it stands together in the first tokens, instead of being
a few numbers in each of many.
"""

import functools

import msgspec
import numpy as np

from runtime.arrays import Float32, Float64, UInt8
from runtime.errors import ConfigError, TensorMismatchError

# Not "width", which is a token's; one name would bind both.
Image = UInt8[np.ndarray, "rows columns 3"]
Tokens = Float32[np.ndarray, "tokens width"]


class PatchDct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A square RGB image of `image_size` cut into patches of `patch` pixels."""

    image_size: int = 32
    """Height and width in pixels."""
    patch: int = 4
    """Side of a patch in pixels; divides `image_size`."""
    name: str = "patch_dct"
    """Identity of the backbone; a bundle names it."""

    def __post_init__(self) -> None:
        """Refuse a patch that does not tile the image.

        Raises:
            ConfigError: One clear line with both sizes.
        """
        if self.patch < 1 or self.image_size < 1 or self.image_size % self.patch:
            raise ConfigError(
                f"backbone.patch: expected a divisor of image_size {self.image_size}, "
                f"found {self.patch}"
            )

    @classmethod
    def of_latent(cls, tokens: int, width: int, image_size: int) -> "PatchDct":
        """Return the backbone that gives latents of a shape for images of a size.

        Raises:
            ConfigError: No patch does.
        """
        for patch in range(1, image_size + 1):
            if patch**2 == tokens and width * patch**2 == 3 * image_size**2:
                return cls(image_size=image_size, patch=patch)
        raise ConfigError(
            f"latent: expected patch^2 tokens of 3 ({image_size} / patch)^2 numbers, "
            f"found {tokens} tokens of width {width}"
        )

    @property
    def tokens(self) -> int:
        """Coefficients of a patch and colour."""
        return self.patch**2

    @property
    def width(self) -> int:
        """Patches times three colours."""
        return 3 * (self.image_size // self.patch) ** 2

    def tokens_from_image(self, image: Image) -> Tokens:
        """Transform an image; pixel 0 becomes -1 and pixel 255 becomes 1 before it.

        Raises:
            TensorMismatchError: The image has another size or dtype, or is no array.
        """
        size, patch = self.image_size, self.patch
        if not isinstance(image, np.ndarray):
            raise TensorMismatchError(
                "image",
                expected=f"an array ({size}, {size}, 3) of uint8",
                found=type(image).__name__,
            )
        if image.shape != (size, size, 3):
            raise TensorMismatchError(
                "image", expected=f"({size}, {size}, 3)", found=str(image.shape)
            )
        if image.dtype != np.uint8:
            # Numbers from 0 to 1, as others have images, would all be nearly black.
            raise TensorMismatchError("image", expected="uint8", found=image.dtype.name)
        side = size // patch
        pixels = image.astype(np.float64) / 127.5 - 1.0
        patches = pixels.reshape(side, patch, side, patch, 3).transpose(1, 3, 0, 2, 4)
        grid = patches.reshape(self.tokens, self.width)
        return (basis_images(patch) @ grid).astype(np.float32)

    def image_from_tokens(self, tokens: Tokens) -> Image:
        """Invert `tokens_from_image`, rounding to the nearest pixel and clipping.

        Raises:
            TensorMismatchError: The tokens have another shape.
        """
        if tokens.shape != (self.tokens, self.width):
            raise TensorMismatchError(
                "z_v",
                expected=f"({self.tokens}, {self.width})",
                found=str(tokens.shape),
            )
        size, patch = self.image_size, self.patch
        side = size // patch
        # Orthonormal: the transpose is the inverse.
        grid = basis_images(patch).T @ tokens.astype(np.float64)
        patches = grid.reshape(patch, patch, side, side, 3)
        pixels = patches.transpose(2, 0, 3, 1, 4).reshape(size, size, 3)
        levels = np.rint((pixels + 1.0) * 127.5).clip(0, 255)
        return levels.astype(np.uint8)


@functools.cache
def basis_images(
    patch: int,
) -> Float64[np.ndarray, "coefficients pixels"]:
    """Return the basis of the orthonormal two-dimensional DCT-II, a row a coefficient.

    Coefficients and pixels both count along the second axis of a patch first (Ahmed,
    Natarajan & Rao 1974).
    """
    n = np.arange(patch)
    waves = np.cos(np.pi / patch * np.outer(n, n + 0.5)) * np.sqrt(2 / patch)
    waves[0] = np.sqrt(1 / patch)
    basis: Float64[np.ndarray, "coefficients pixels"] = np.kron(waves, waves)
    basis.flags.writeable = False
    return basis
