"""The judge: what an engine computes against what float64 says, before it ships.

Every graph and both whole directions are measured through the runtime's own engines.
Fresh fields have gates of zero and trained ones may have them near zero, which would
let a broken block pass; `stressed` fields are therefore judged as well.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped

from runtime.golden import STATES, Verdict, judge, map_verdicts, step_verdicts, worst
from runtime.model import Model
from runtime.solver import Direction, Solver, time_grid, trajectory
from training.neurovae import NeuroVAE
from training.sit import SiT

Array = Shaped[np.ndarray, "..."]


def stressed(field: SiT, seed: int) -> SiT:
    """Return a copy whose weights are redrawn so that nothing in it is negligible.

    Gates and shifts are of order one, the velocity at standard normal latents has unit
    variance, and two channels of every modulation are ten times the others, as trained
    transformers have them (Dettmers et al., 2022).
    """
    field = copy.deepcopy(field).float().eval()
    generator = torch.Generator().manual_seed(seed)
    width = field.config.width
    with torch.no_grad():
        for name, parameter in field.named_parameters():
            if name == "pos_embed":
                continue
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 100
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * fan_in**-0.5)
            if "adaLN_modulation" in name:
                outliers = torch.randint(width, (2,), generator=generator)
                parameter.view(-1, width, *parameter.shape[1:])[:, outliers] *= 10
        z = torch.randn(
            8, field.config.tokens, width, generator=generator, dtype=torch.float32
        )
        spread = field(z, torch.linspace(0, 1, 8)).std()
        field.final_layer.linear.weight.div_(spread)
        field.final_layer.linear.bias.div_(spread)
    return field


@final
class Reference:
    """The model in float64, by the training code and none of the export's rewrites."""

    def __init__(
        self,
        vae: NeuroVAE,
        field: SiT,
        solver: Solver,
        steps: Mapping[Direction, int],
        *,
        centre: Float[np.ndarray, "tokens width"] | float = 0.0,
    ) -> None:
        """Copy the model.

        Args:
            vae: Left as it is.
            field: Left as it is.
            solver: Of both directions.
            steps: Of each direction.
            centre: What the flow's end at t = 0 lacks of z_v.
        """
        self._centre = np.asarray(centre, dtype=np.float64)
        self._vae = copy.deepcopy(vae).double().eval()
        self._field = copy.deepcopy(field).double().eval()
        self._solver, self._steps = solver, steps

    @torch.no_grad()
    def encode_voxels(
        self, voxels: Float[np.ndarray, "k voxels"]
    ) -> tuple[Float64[np.ndarray, "k tokens width"], Array]:
        """Return z_n's modes and the retrieval features."""
        features = self._vae.features(torch.from_numpy(voxels).double())
        mean = self._vae.posterior(features).mean
        return mean.numpy(), self._vae.retrieval(features).numpy()

    @torch.no_grad()
    def predict_voxels(self, z_n: Float[np.ndarray, "k tokens width"]) -> Array:
        """Return the voxels that latents imply."""
        return np.asarray(self._vae.decode(torch.from_numpy(z_n).double()).numpy())

    @torch.no_grad()
    def flow(
        self, z: Float[np.ndarray, "k tokens width"], direction: Direction
    ) -> Float64[np.ndarray, "k tokens width"]:
        """Carry z_n to z_v, or z_v to z_n."""
        after = 0.0 if direction == "encode" else self._centre
        return np.asarray(self.states(z, direction)[:, -1]) + after

    @torch.no_grad()
    def states(
        self, z: Float[np.ndarray, "k tokens width"], direction: Direction
    ) -> Float64[np.ndarray, "k steps tokens width"]:
        """Return the flow's state after each step; z_v's mean is not added back."""

        def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
            times = torch.full((len(z),), t, dtype=torch.float64)
            out: torch.Tensor = self._field(z, times)
            return out

        grid = time_grid(self._steps[direction], direction)
        before = 0.0 if direction == "decode" else self._centre
        start = torch.from_numpy(z.astype(np.float64) - before)
        states = trajectory(velocity, start, grid, self._solver)
        return np.stack([state.numpy() for state in states], axis=1)

    def visited(
        self,
        z_n: Float[np.ndarray, "k tokens width"],
        z_v: Float[np.ndarray, "k tokens width"],
    ) -> Iterator[tuple[Float64[np.ndarray, "k tokens width"], float]]:
        """Yield the latents at each time of both directions, as the field meets them.

        Args:
            z_n: What is decoded.
            z_v: What is encoded.
        """
        begins: dict[Direction, tuple[Array, Array]] = {
            "decode": (z_n, z_n),
            "encode": (z_v, z_v - self._centre),
        }
        for direction, (source, start) in begins.items():
            states = np.moveaxis(self.states(source, direction), 1, 0)
            grid = time_grid(self._steps[direction], direction)
            yield from zip([start, *states], grid, strict=True)

    @torch.no_grad()
    def velocity(
        self, z: Float[np.ndarray, "k tokens width"], t: float
    ) -> Float64[np.ndarray, "k tokens width"]:
        """Return the velocity at one time."""
        times = torch.full((len(z),), t, dtype=torch.float64)
        return np.asarray(self._field(torch.from_numpy(z).double(), times).numpy())


def golden_vectors(
    reference: Reference, voxels: Float[np.ndarray, "k voxels"]
) -> dict[str, Array]:
    """Return what the whole model must compute for golden voxels, in float64.

    Each stage's input is rounded to float32 first: it is what an engine is given.
    """
    voxels = voxels.astype(np.float32)
    z_n, retrieval = reference.encode_voxels(voxels)
    flow = flow_vectors(reference, z_n)
    predicted = reference.predict_voxels(flow["z_n_encoded"].astype(np.float32))
    return flow | {
        "voxels": voxels,
        "retrieval": retrieval,
        "voxels_predicted": predicted,
    }


def flow_vectors(
    reference: Reference, z_n: Float[np.ndarray, "k tokens width"]
) -> dict[str, Array]:
    """Return what the flow must compute, in float64: z_n to z_v and back again."""
    z_v = reference.flow(z_n.astype(np.float32), "decode")
    return {
        "z_n": z_n,
        "z_v": z_v,
        "z_n_encoded": reference.flow(z_v.astype(np.float32), "encode"),
        # Of one sample: twenty steps of the published size are 34 MB a direction.
        STATES["decode"]: reference.states(z_n[:1].astype(np.float32), "decode"),
        STATES["encode"]: reference.states(z_v[:1].astype(np.float32), "encode"),
    }


def unit_latents(field: SiT, samples: int, seed: int) -> Float64[np.ndarray, "..."]:
    """Return standard normal latents, at which a stressed velocity is of their size.

    The latents of an untrained or small encoder are far smaller. A velocity that has to
    cancel itself down to them multiplies every rounding, whatever the engine.
    """
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, field.config.tokens, field.config.width))


def verdicts_of_model(model: Model, golden: Mapping[str, Array]) -> list[Verdict]:
    """Judge every map of a model, each step, and both directions from end to end.

    Args:
        model: Opened engines.
        golden: From `golden_vectors`, or of the flow alone, from `flow_vectors`.
    """
    is_whole = "voxels" in golden
    maps = {
        name: row
        for name, row in model.maps().items()
        if is_whole or name in ("decode_flow", "encode_flow")
    }
    verdicts = list(map_verdicts(maps, golden))
    if model.form == "step":
        verdicts += step_verdicts(model, golden)
    return verdicts + _chains(model, golden) if is_whole else verdicts


def _chains(model: Model, golden: Mapping[str, Array]) -> list[Verdict]:
    z_v = [model.decode_latent(model.encode_voxels(v)) for v in golden["voxels"]]
    voxels = [
        model.predict_voxels(model.encode_latent(z.astype(np.float32)))
        for z in golden["z_v"]
    ]
    return [
        worst(
            name,
            [judge(name, *pair) for pair in zip(golden[target], found, strict=True)],
        )
        for name, target, found in (
            ("chain_decode", "z_v", z_v),
            ("chain_encode", "voxels_predicted", voxels),
        )
    ]
