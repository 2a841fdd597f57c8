"""OpenCLIP's ViT-bigG/14 as a frozen visual backbone: 256 tokens of 1664 numbers.

z_v are the patch tokens of the last layer after `ln_post`, without the class token,
before the projection and not normalised in length. Releases of open_clip before 2.23
returned the tokens before `ln_post`; that is refused by looking at the numbers, not at
the release. Nothing is downloaded: the weights are a file.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from runtime.errors import ArtifactError, BackendError, CheckpointError, ConfigError
from training.data.files import begins, whole_sha256
from training.data.manifest import VisualSource
from training.torch_file import open_torch_file

ARCHITECTURE: Final = "ViT-bigG-14"
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, per colour, for pixels in [0, 1]."""


class OpenClipBackbone:
    """The vision tower of an open_clip model, frozen.

    Args:
        weights: A local file: safetensors, or a PyTorch file of plain tensors.
        architecture: One that the installed open_clip knows.
        device: A torch device.
        precision: float32, or float16 on devices that are fast at it.

    Raises:
        BackendError: open_clip is missing, or returns other tokens than z_v.
        ArtifactError: The weights are missing, damaged or of another architecture.
        ConfigError: Unknown architecture.
    """

    def __init__(
        self,
        weights: Path,
        architecture: str = ARCHITECTURE,
        *,
        device: str = "cpu",
        precision: torch.dtype = torch.float32,
    ) -> None:
        open_clip = _library()
        if not weights.is_file():
            raise ArtifactError(
                f"{weights}: expected the weights of {architecture}, found no file. "
                "Nothing is downloaded: copy open_clip_model.safetensors of "
                "laion2b_s39b_b160k here"
            )
        if architecture not in open_clip.list_models():
            raise ConfigError(
                f"backbone: expected an architecture of open_clip, found {architecture}"
            )
        # Before billions of parameters are made for it.
        refuse_no_weights(weights, architecture)
        self._device, self._precision = torch.device(device), precision
        self._visual: Any = _vision_tower(open_clip, architecture, weights)
        self._visual.to(self._device, precision).eval().requires_grad_(False)
        self._side = int(_one(self._visual.image_size))
        check_tokens(self._visual, self._side, self._device, precision)
        self._source = VisualSource(
            name=f"open_clip {architecture}",
            detail=(
                f"patch tokens after ln_post, {self._side} px bicubic with "
                f"aligned corners after a Gaussian blur, "
                f"{str(precision).removeprefix('torch.')}, "
                f"open_clip {open_clip.__version__}"
            ),
            weights_sha256=whole_sha256(weights),
            image_size=self._side,
            patch=int(_one(self._visual.patch_size)),
        )

    @property
    def source(self) -> VisualSource:
        """Identity, for the manifest."""
        return self._source

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        grid = self._side // int(_one(self._visual.patch_size))
        return grid**2, int(self._visual.ln_post.normalized_shape[0])

    @torch.no_grad()
    def latents(
        self, pictures: UInt8[np.ndarray, "images height width 3"]
    ) -> Float32[np.ndarray, "images tokens width"]:
        """Return z_v of a batch of pictures of any one size.

        Raises:
            BackendError: The model returned tokens of another shape.
        """
        prepared = prepare_pictures(
            torch.from_numpy(np.ascontiguousarray(pictures)).to(self._device),
            self._side,
        )
        _, tokens = self._visual(prepared.to(self._precision))
        if tuple(tokens.shape[1:]) != self.shape:
            raise BackendError(
                f"open_clip: tokens: expected {self.shape}, "
                f"found {tuple(tokens.shape[1:])}"
            )
        found: Float32[np.ndarray, "images tokens width"] = tokens.float().cpu().numpy()
        return found


def prepare_pictures(
    pictures: UInt8[Tensor, "images height width 3"], side: int
) -> Float[Tensor, "images 3 side side"]:
    """Resize as the published z_v were made, and scale as CLIP was trained.

    They were resized by kornia's bicubic `resize` with `antialias` and `align_corners`:
    when it makes a picture smaller by a factor f, a Gaussian blur of deviation
    (f - 1) / 2 goes before, over 4 deviations but at least 3 pixels. torch's own
    `antialias` is another filter and gives other tokens. Both axes go to `side`, so a
    picture that is not square is squeezed.
    """
    pixels = pictures.permute(0, 3, 1, 2).float() / 255.0
    factors = [size / side for size in pixels.shape[2:]]
    if factors != [1.0, 1.0]:
        if max(factors) > 1:
            pixels = _blurred(pixels, factors)
        pixels = nn.functional.interpolate(
            pixels, (side, side), mode="bicubic", align_corners=True
        )
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def _blurred(
    pixels: Float[Tensor, "images 3 height width"], factors: list[float]
) -> Float[Tensor, "images 3 height width"]:
    for axis, factor in zip((2, 3), factors, strict=True):
        deviation = max((factor - 1) / 2, 0.001)
        reach = int(max(4 * deviation, 3)) // 2
        places = torch.arange(-reach, reach + 1, device=pixels.device)
        weights = torch.exp(-places.double().square() / (2 * deviation**2)).float()
        kernel = (weights / weights.sum()).view(1, 1, -1).expand(3, 1, -1)
        kernel = kernel.unsqueeze(5 - axis)
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        framed = nn.functional.pad(pixels, pad, mode="reflect")
        pixels = nn.functional.conv2d(framed, kernel, groups=3)
    return pixels


@torch.no_grad()
def check_tokens(
    visual: Any, side: int, device: torch.device, precision: torch.dtype
) -> None:
    """Refuse a library whose tokens are not those after `ln_post`.

    Taking the affine part of the last norm off the tokens must leave mean 0 and
    variance 1 in every token; tokens from before the norm do not have that.

    Raises:
        BackendError: It returns no tokens, or others.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, side, side, generator=generator)
    found = visual(noise.to(device, precision))
    if not (isinstance(found, tuple) and len(found) == 2 and found[1].ndim == 3):
        raise BackendError(
            "open_clip: expected pooled features and tokens, found others. "
            "Install open_clip_torch 3.0 or later"
        )
    norm = visual.ln_post
    tokens, gain = found[1].double(), norm.weight.double()
    # Where the gain is almost nothing, dividing by it would only show rounding.
    kept = gain.abs() > 1e-3 * gain.abs().max()
    plain = ((tokens - norm.bias.double()) / gain)[..., kept]
    # float16 keeps 11 bits, and a gain spreads them; the mean over 1664 numbers and the
    # few that were left out change moments by a few percent at most.
    away = max(
        float(plain.mean(-1).abs().max()),
        float((plain.square().mean(-1) - 1).abs().max()),
    )
    if not away < 0.2:
        raise BackendError(
            "open_clip: tokens: expected those after ln_post (mean 0 and variance 1 "
            f"before its gain), found them {away:.2g} away. "
            "Install open_clip_torch 3.0 or later"
        )


def _library() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise BackendError(
            "open_clip: expected the extra train, found it missing. "
            "Install neuroflow-rt[train]"
        ) from error
    return open_clip


def refuse_no_weights(file: Path, architecture: str) -> None:
    """Look at a file of weights, without building anything from it.

    Args:
        file: Safetensors by its name, or else a file by torch.save.
        architecture: Whose weights it should be, for the message.

    Raises:
        ArtifactError: It is damaged or another thing, or could run code.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                return
        open_torch_file(file)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{file}: expected the weights of {architecture}, found no whole "
            f"safetensors file ({begins(file)})"
        ) from error
    except CheckpointError as error:
        said = str(error).removeprefix(f"{file}: ")
        raise ArtifactError(
            f"{file}: expected the weights of {architecture}; {said}"
        ) from error


def _vision_tower(open_clip: Any, architecture: str, weights: Path) -> nn.Module:
    try:
        # A path is never looked up on the network; only tensors are read from it.
        model = open_clip.create_model(
            architecture,
            pretrained=str(weights),
            precision="fp32",
            weights_only=True,
            pretrained_text=False,
        )
    except Exception as error:
        # Torch, safetensors and open_clip have no common error for a wrong file.
        line = " ".join(str(error).split())[:300]
        if "weights_only" in line:
            # Torch's advice, which is to load the file unsafely.
            line = f"what torch refuses ({begins(weights)})"
        raise ArtifactError(
            f"{weights}: expected the weights of {architecture}, found: {line}"
        ) from error
    visual: Any = model.visual
    if not hasattr(visual, "output_tokens") or not hasattr(visual, "ln_post"):
        raise ConfigError(
            "backbone: expected a vision transformer with ln_post, "
            f"found {architecture}"
        )
    visual.output_tokens = True
    tower: nn.Module = visual
    return tower


def _one(size: Any) -> int:
    return int(size[0] if isinstance(size, tuple | list) else size)
