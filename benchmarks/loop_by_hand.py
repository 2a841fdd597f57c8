"""Training loops as one writes them in torch, beside which ours is measured."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.checkpoint import load_neurovae
from training.compute import Compute
from training.config import ModelConfig
from training.losses import CycleOutputs
from training.stage_config import VAETraining
from training.state import Stage, TrainingState
from training.trials import TrialSet

CPU = torch.device("cpu")


def soft_clip_by_hand(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    p, q = F.normalize(p.flatten(1)), F.normalize(q.flatten(1))
    wanted = (q @ q.T / temperature).softmax(-1)
    logits = p @ q.T / temperature
    both = logits.log_softmax(-1) + logits.T.log_softmax(-1)
    return -(both * wanted).sum(-1).mean() / 2


def vae_loss_by_hand(
    out: CycleOutputs, voxels: Tensor, z_v: Tensor, training: VAETraining
) -> Tensor:
    n = len(voxels)
    squares = (out.reconstruction - voxels).square().sum() / n
    spread = out.mean.square() + out.log_variance.exp() - 1 - out.log_variance
    loss = squares + training.kl_weight * spread.sum() / 2 / n
    for found, weight in (
        (out.z_n, training.clip_weight),
        (out.retrieval, training.clip_weight),
        (out.again, training.cycle_weight),
        (out.retrieval_again, training.cycle_weight),
    ):
        loss = loss + weight * soft_clip_by_hand(found, z_v, training.temperature)
    return loss


def flow_loss_by_hand(
    run: Callable[[Tensor, Tensor], Tensor], z_v: Tensor, z_n: Tensor, t: Tensor
) -> Tensor:
    angle = t[:, None, None] * (math.pi / 2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    wanted = (math.pi / 2) * (cos * z_n - sin * z_v)
    return F.mse_loss(run(cos * z_v + sin * z_n, t).float(), wanted)


def update_by_hand(state: TrainingState, clip: float | None) -> float:
    if clip is not None:
        nn.utils.clip_grad_norm_(state.parameters.values(), clip)
    began = time.perf_counter()
    state.optimiser.step()
    if state.average is not None:
        held = state.average.weights
        now = [value.detach() for value in state.module.state_dict().values()]
        torch._foreach_lerp_(list(held.values()), now, 1 - state.average.decay)
    return time.perf_counter() - began


class ByHand:
    """Loops as one writes them: all trials are tensors."""

    def __init__(
        self, config: ModelConfig, trials: TrialSet, compute: Compute, vae: Path
    ) -> None:
        self.config, self.compute = config, compute
        self.voxels = torch.from_numpy(trials.voxels)
        latents = torch.from_numpy(trials.latents).float()
        if config.centre_latents:
            latents = latents - latents.mean(0)
        self.latents, self.image = latents, torch.from_numpy(trials.image)
        self.encoder = load_neurovae(vae)[0].requires_grad_(False)

    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return voxels and z_v of some trials."""
        chosen = torch.randint(len(self.image), (rows,))
        return self.voxels[chosen], self.latents[self.image[chosen]]

    def flow(self, run: nn.Module) -> Tensor:
        """Return the loss of stage 2 on the next batch."""
        training = self.config.flow_training
        voxels, z_v = self.batch(training.batch)
        with torch.no_grad():
            if training.voxel_noise:
                voxels = voxels + training.voxel_noise * torch.randn(voxels.shape)
            posterior = self.encoder.posterior(self.encoder.features(voxels))
            std = (posterior.log_variance / 2).exp()
            z_n = posterior.mean + std * torch.randn(z_v.shape)
        t = torch.rand(training.batch)

        def computed(z: Tensor, t: Tensor) -> Tensor:
            with self.compute.autocast(CPU):
                found: Tensor = run(z, t)
            return found

        return flow_loss_by_hand(computed, z_v, z_n, t)

    def vae(self, run: nn.Module) -> Tensor:
        """Return the loss of stage 1 on the next batch."""
        training = self.config.vae_training
        voxels, z_v = self.batch(training.batch)
        shown = voxels
        if training.voxel_noise:
            shown = voxels + training.voxel_noise * torch.randn(voxels.shape)
        with self.compute.autocast(CPU):
            out = run(shown, torch.randn(z_v.shape))
        return vae_loss_by_hand(out, voxels, z_v, training)

    def arm(
        self, stage: Stage, state: TrainingState, module: Callable[[], nn.Module]
    ) -> Callable[[], float]:
        """Return a step, which returns the seconds that optimiser and average took.

        Args:
            stage: Which of the two, and the bound of its gradient's norm.
            state: What the step changes.
            module: Returns what is called, eager or compiled.
        """
        losses = self.flow if stage.run.stage == "flow" else self.vae

        def step() -> float:
            state.optimiser.zero_grad(set_to_none=True)
            losses(module()).backward()
            return update_by_hand(state, stage.gradient_norm)

        return step
