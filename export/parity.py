"""The judge: what an engine computes against what float64 says, before it ships.

Every graph and both whole directions are measured through the runtime's own engines.
Fresh fields have gates of zero and trained ones may have them near zero, which would
let a broken block pass; `stressed` fields are therefore judged as well.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped

from runtime.errors import ParityError
from runtime.manifest import GateSpec
from runtime.model import Model
from runtime.solver import Direction, Solver, solve, time_grid
from training.neurovae import NeuroVAE
from training.sit import SiT

REL_L2_LIMIT: Final = 1e-5
"""Of a float32 graph against float64; rounding alone gives about 1e-6."""

Array = Shaped[np.ndarray, "..."]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a result is from its float64 reference."""

    name: str
    rel_l2: float
    """Norm of the difference over the norm of the reference; inf if not finite."""
    cosine: float
    nonfinite: int

    def gate(self, limit: float = REL_L2_LIMIT) -> GateSpec:
        """Return what the manifest keeps.

        Raises:
            ParityError: The limit is not kept.
        """
        if self.nonfinite or not self.rel_l2 <= limit:
            raise ParityError(
                f"{self.name}: expected relative L2 error <= {limit:g}, "
                f"found {self.rel_l2:.3g} (cosine {self.cosine:.6f}, "
                f"{self.nonfinite} non-finite)"
            )
        return GateSpec(
            name=self.name, metric="rel_l2", limit=limit, reached=self.rel_l2
        )


def judge(name: str, reference: Array, found: Array) -> Verdict:
    """Compare a result with its reference in float64.

    Raises:
        ParityError: Another shape, or a reference that is zero or not finite.
    """
    if reference.shape != found.shape:
        raise ParityError(
            f"{name}: expected shape {list(reference.shape)}, found {list(found.shape)}"
        )
    wide, other = reference.astype(np.float64), found.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    if not np.isfinite(norm) or norm == 0:
        raise ParityError(
            f"{name}: expected a finite reference that is not zero, found norm {norm}"
        )
    nonfinite = int(np.count_nonzero(~np.isfinite(other)))
    if nonfinite:
        return Verdict(name, float("inf"), float("nan"), nonfinite)
    rel_l2 = float(np.linalg.norm(other - wide)) / norm
    size = float(np.linalg.norm(other))
    cosine = float(np.vdot(wide, other)) / (norm * size) if size else 0.0
    return Verdict(name, rel_l2, cosine, 0)


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

        def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
            times = torch.full((len(z),), t, dtype=torch.float64)
            out: torch.Tensor = self._field(z, times)
            return out

        grid = time_grid(self._steps[direction], direction)
        before, after = (
            (0.0, self._centre) if direction == "decode" else (self._centre, 0.0)
        )
        start = torch.from_numpy(z.astype(np.float64) - before)
        return np.asarray(solve(velocity, start, grid, self._solver).numpy()) + after

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
    z_v = reference.flow(z_n.astype(np.float32), "decode")
    encoded = reference.flow(z_v.astype(np.float32), "encode")
    predicted = reference.predict_voxels(encoded.astype(np.float32))
    return {
        "voxels": voxels,
        "z_n": z_n,
        "retrieval": retrieval,
        "z_v": z_v,
        "z_n_encoded": encoded,
        "voxels_predicted": predicted,
    }


def gates_from_verdicts(
    verdicts: Sequence[Verdict], limit: float = REL_L2_LIMIT
) -> tuple[GateSpec, ...]:
    """Return every gate, or refuse.

    Raises:
        ParityError: The first verdict beyond the limit.
    """
    return tuple(verdict.gate(limit) for verdict in verdicts)


def verdicts_of_model(
    model: Model, golden: Mapping[str, Array], label: str
) -> list[Verdict]:
    """Judge every map of a model, and both directions from end to end.

    Args:
        model: Opened engines.
        golden: From `golden_vectors`.
        label: What the names of the verdicts begin with.
    """
    z_v = [model.decode_latent(model.encode_voxels(v)) for v in golden["voxels"]]
    voxels = [
        model.predict_voxels(model.encode_latent(z.astype(np.float32)))
        for z in golden["z_v"]
    ]
    found = {
        name: (golden[target], np.stack([run(z) for z in _single(golden[source])]))
        for name, (run, source, target) in model.maps().items()
    }
    found["chain_decode"] = golden["z_v"], np.stack(z_v)
    found["chain_encode"] = golden["voxels_predicted"], np.stack(voxels)
    return [
        judge(f"{label}.{name}", wanted, array)
        for name, (wanted, array) in found.items()
    ]


def _single(array: Array) -> Array:
    return array.astype(np.float32)
