"""`cortexflowx` as a peer: a diffusion transformer that draws the picture.

The package as it comes, driven by its own `Trainer` with its own defaults; what it
draws becomes a latent of the picture and is looked up in the same gallery. Its VAE must
be trained first ("train separately or frozen" is all that it says): on the training
pictures, with the same defaults.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import BackendError, UsageError
from training.peers.contract import (
    Counted,
    Features,
    LatentDecoder,
    Latents,
    Lesson,
    Pictures,
    uncounted,
)

Positive = Annotated[int, msgspec.Meta(ge=1)]
BATCH_OF_DECODING = 50
"""Trials drawn at once; bounds memory."""


class CortexFlowSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What the package leaves open, and its defaults where a test makes it smaller."""

    image_size: Positive = 32
    """The size of the pictures themselves, in place of the default of 64."""
    hidden_dim: Positive = 256
    """Of `build_brain2img`, its default."""
    depth: Positive = 6
    """Of `build_brain2img`, its default."""
    num_heads: Positive = 8
    """Of `build_brain2img`, its default."""
    epochs: Positive = 100
    """Of `TrainingConfig`, its default; of the VAE and of the whole."""
    num_steps: Positive = 50
    """Of `reconstruct`, its default."""
    cfg_scale: float = 4.0
    """Of `reconstruct`, its default."""
    seed: int = 0
    """Of initialisation, order, noise and what is drawn."""


@dataclass(frozen=True, slots=True)
class CortexFlow:
    """The recipe."""

    settings: CortexFlowSettings = field(default_factory=CortexFlowSettings)

    def fit(self, lesson: Lesson, counted: Counted = uncounted) -> "FittedCortexFlow":
        """Train its VAE on the training pictures, then the rest on the trials.

        Raises:
            UsageError: The lesson has no pictures.
            BackendError: The package is missing.
        """
        if lesson.pictures is None:
            raise UsageError(
                "cortexflowx: expected pictures to draw, found categories alone"
            )
        library, chosen, trials = _library(), self.settings, lesson.trials
        images = _prepared(lesson.pictures.pixels, chosen.image_size)
        features = torch.from_numpy(trials.voxels)
        shown = torch.from_numpy(trials.image)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chosen.seed)
            model = library.build_brain2img(
                n_voxels=features.shape[1],
                img_size=chosen.image_size,
                hidden_dim=chosen.hidden_dim,
                depth=chosen.depth,
                num_heads=chosen.num_heads,
            )
            order = torch.Generator().manual_seed(chosen.seed)
            pictures = _Batches(
                {"stimulus": images[torch.from_numpy(np.unique(trials.image))]}, order
            )
            seen = _Batches({"stimulus": images[shown], "fmri": features}, order)
            parts = ((model.vae, pictures, _vae_loss), (model, seen, _loss(library)))
            _train(library, parts, chosen.epochs, counted)
        return FittedCortexFlow(library, model.eval(), chosen, lesson.pictures)


class FittedCortexFlow(LatentDecoder):
    """Draws one picture a trial."""

    def __init__(
        self,
        library: Any,
        model: Any,
        settings: CortexFlowSettings,
        pictures: Pictures,
    ) -> None:
        self._library, self._model, self._settings = library, model, settings
        self._backbone, self._size = pictures.backbone, pictures.pixels.shape[1:3]
        self.parameters = sum(tensor.numel() for tensor in model.parameters())
        # Its encoder of voxels, each step with and without guidance, its VAE's decoder.
        self.evaluations = 2 * settings.num_steps + 2

    def decode(self, features: Features) -> Latents:
        """Return z_v of the picture drawn for each trial."""
        drawn = self.draw(features)
        return np.stack([self._backbone.tokens_from_image(image) for image in drawn])

    def draw(self, features: Features) -> UInt8[np.ndarray, "trials height width 3"]:
        """Return the picture drawn for each trial, in the size of the gallery's."""
        chosen, drawn = self._settings, []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(chosen.seed)
            for rows in torch.split(torch.from_numpy(features), BATCH_OF_DECODING):
                result = self._model.reconstruct(
                    self._library.BrainData(voxels=rows),
                    num_steps=chosen.num_steps,
                    cfg_scale=chosen.cfg_scale,
                )
                drawn.append(_resized(result.output, self._size))
        levels = (torch.cat(drawn).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous().numpy()


@dataclass(frozen=True, slots=True)
class _Batches:
    """A data set as its `Trainer.fit` asks for one, in a new order each epoch."""

    rows: dict[str, Tensor]
    generator: torch.Generator

    def __len__(self) -> int:
        return len(self.rows["stimulus"])

    def to_loader(
        self, batch_size: int, *, shuffle: bool
    ) -> Iterator[dict[str, Tensor]]:
        order = torch.arange(len(self))
        if shuffle:
            order = torch.randperm(len(self), generator=self.generator)
        for chosen in torch.split(order, batch_size):
            yield {name: tensor[chosen] for name, tensor in self.rows.items()}


Loss = Callable[[Any, dict[str, Tensor]], Tensor]
Part = tuple[Any, _Batches, Loss]


def _train(
    library: Any, parts: tuple[Part, ...], epochs: int, counted: Counted
) -> None:
    settings = library.TrainingConfig(n_epochs=epochs)
    lengths = [epochs * -(-len(data) // settings.batch_size) for _, data, _ in parts]
    done = 0
    for model, data, loss in parts:

        def counting(part: Any, batch: dict[str, Tensor], loss: Loss = loss) -> Tensor:
            nonlocal done
            done += 1
            counted(done, sum(lengths))
            return loss(part, batch)

        trainer = library.Trainer(model, settings)
        # The same steps to rounding, in one pass over the weights: a sixth of the time.
        for group in trainer.optimizer.param_groups:
            group["fused"] = True
        trainer.fit(data, counting)


def _vae_loss(vae: Any, batch: dict[str, Tensor]) -> Tensor:
    images = batch["stimulus"]
    total: Tensor = vae.loss(images, *vae(images))[0]
    return total


def _loss(library: Any) -> Loss:
    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        brain = library.BrainData(voxels=batch["fmri"])
        found: Tensor = model.training_loss(batch["stimulus"], brain)
        return found

    return loss


def _prepared(
    pixels: UInt8[np.ndarray, "images height width 3"], size: int
) -> Float32[Tensor, "images 3 size size"]:
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return _resized(images.float() / 255, (size, size))


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(
        images, size=size, mode="bilinear", antialias=True, align_corners=False
    )


def _library() -> Any:
    try:
        import cortexflow
    except ImportError as error:
        raise BackendError(
            "cortexflowx: expected the package, found it missing. "
            "Install neuroflow-rt[dev]"
        ) from error
    return cortexflow
