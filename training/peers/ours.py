"""NeuroVAE and the flow as a peer: the two stages as `neuroflow train` runs them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from runtime.solver import SOLVERS
from training.checkpoint import load_flow, load_neurovae
from training.config import ModelConfig
from training.loop import Progress
from training.neurovae import NeuroVAE
from training.peers.contract import (
    Counted,
    Features,
    LatentDecoder,
    Latents,
    Lesson,
    uncounted,
)
from training.recorded import SOLVER, STEPS, decode_features, fit_stages
from training.sit import SiT


@dataclass(frozen=True, slots=True)
class Ours:
    """A preset; its voxel count must be that of the lesson."""

    config: ModelConfig

    def fit(self, lesson: Lesson, counted: Counted = uncounted) -> "FittedOurs":
        """Train both stages.

        Raises:
            TensorMismatchError: The lesson does not fit the configuration.
        """

        def observe(progress: Progress) -> None:
            counted(progress.step, progress.steps)

        with tempfile.TemporaryDirectory() as folder:
            places = fit_stages(self.config, lesson.trials, Path(folder), observe)
            vae, field = load_neurovae(places[0])[0], load_flow(places[1])[0]
        return FittedOurs(self.config, vae, field, lesson.trials.latent_mean())


class FittedOurs(LatentDecoder):
    """The encoder, then the flow at the steps that a bundle has by default."""

    evaluations = 1 + STEPS * SOLVERS[SOLVER].evaluations

    def __init__(
        self,
        config: ModelConfig,
        vae: NeuroVAE,
        field: SiT,
        mean: Float32[np.ndarray, "tokens width"],
    ) -> None:
        self._config, self._vae, self._field, self._mean = config, vae, field, mean
        self.parameters = sum(
            tensor.numel() for part in (vae, field) for tensor in part.parameters()
        )

    def decode(self, features: Features) -> Latents:
        """Return z_v of each trial."""
        return decode_features(
            self._vae, self._field, self._config, features, self._mean
        )
