"""A bundle of a preset's size whose weights are drawn, for benchmarks: no training.

Nothing in it is zero, so that no engine can skip anything. Its golden vectors are what
ONNX Runtime computes in float32, not a float64 reference: they show that engines agree
with each other, and such a bundle has no gates.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from export.assemble import (
    Flow,
    Precision,
    autoencoder_graphs,
    flow_of,
    write_autoencoder,
    write_flow,
)
from export.parity import stressed
from export.preprocessing import Preprocessing
from runtime.arrays import Shaped
from runtime.estimator import BetaEstimator
from runtime.manifest import (
    EIGHT_BITS,
    GOLDEN,
    TENSORS,
    BackboneSpec,
    FlowSpec,
    LatentSpec,
    Manifest,
    TensorSpec,
    TrainingSpec,
    encode_manifest,
    input_kind,
)
from runtime.model import Model, model_from_folder
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening
from runtime.sealed import seal
from runtime.solver import solve, solver_from_name, time_grid
from training.config import ModelConfig
from training.neurovae import NeuroVAE
from training.sit import SiT

STEPS: Final = 2
CALIBRATED: Final = 3
"""Samples that 8 bits are calibrated on; the golden one is new to them."""
COMPONENTS: Final = 8
"""Directions of noise that the front end whitens."""
CONFIG: Final = "config.json"
_GENERATED: Final = "0" * 64
Array = Shaped[np.ndarray, "..."]


def generated_model(config: ModelConfig, seed: int) -> tuple[NeuroVAE, SiT]:
    """Return a model of a preset's sizes, redrawn so that no weight is 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae, field = NeuroVAE(config.vae).eval(), SiT(config.flow).eval()
        with torch.no_grad():
            for module in vae.modules():
                # At 1 and 0, as they begin, engines leave them out.
                if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
                    module.weight.copy_(
                        torch.exp(0.1 * torch.randn_like(module.weight))
                    )
                    module.bias.copy_(0.1 * torch.randn_like(module.bias))
    return vae, stressed(field, seed + 1)


def write_preset(
    config: ModelConfig,
    out: Path,
    *,
    created: str,
    seed: int,
    precisions: Sequence[Precision] = ("f32",),
) -> Path:
    """Write OUT/bundle and, for engines that read weights, OUT/weights.

    Args:
        config: The preset.
        out: An empty folder.
        created: ISO date of today.
        seed: Of the weights.
        precisions: What the graphs are written in, f32 first.

    Returns:
        The bundle.
    """
    vae, field = generated_model(config, seed)
    weights, folder = out / "weights", out / "bundle"
    for name in ("graphs", "golden"):
        (folder / name).mkdir(parents=True)
    weights.mkdir()
    (weights / CONFIG).write_bytes(msgspec.json.encode(config))
    for name, module in (("vae", vae), ("flow", field)):
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_torch(state, weights / f"{name}.safetensors")
    rng = np.random.default_rng(seed)
    preprocessing = _preprocessing(config.vae.voxels, rng)
    path = config.flow_training.path
    name = "rotation" if path == "cos" else "euler"
    flow = flow_of(
        field, solver_from_name(name, path), {"decode": STEPS, "encode": STEPS}
    )
    if set(EIGHT_BITS) & set(precisions):
        _calibrate(flow, vae, field, config, rng)
    flow_graphs = tuple(
        spec for p in precisions for spec in write_flow(flow.graphs(p), folder)
    )
    latent = (config.flow.tokens, config.flow.width)
    tensors: dict[str, Array] = preprocessing.tensors() | flow.tensors()
    tensors["latent_mean"] = rng.standard_normal(latent, dtype=np.float32)
    draft = _manifest(config, preprocessing, name, created)
    graphs = write_autoencoder(autoencoder_graphs(vae), precisions, folder)
    draft = msgspec.structs.replace(draft, graphs=graphs + flow_graphs)
    del vae, field, flow
    with model_from_folder(
        folder,
        draft,
        tensors,
        backend="ort",
        precision="f32",
        threads=None,
        form="step",
    ) as model:
        golden = _golden(model, rng)
    manifest = msgspec.structs.replace(
        draft,
        tensors=_save(folder / TENSORS, tensors),
        golden=_save(folder / GOLDEN, golden),
    )
    manifest = msgspec.structs.replace(manifest, files=seal(folder))
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


@torch.inference_mode()
def _calibrate(
    flow: Flow,
    vae: NeuroVAE,
    field: SiT,
    config: ModelConfig,
    rng: np.random.Generator,
) -> None:
    """Watch the field where latents of drawn voxels pass, to z_v and back again."""
    visited: list[tuple[Array, float]] = []

    def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
        visited.append((z.numpy().copy(), t))
        out: torch.Tensor = field(z, torch.full((len(z),), t, dtype=torch.float32))
        return out

    shape = (CALIBRATED, config.vae.voxels)
    voxels = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    z = vae.posterior(vae.features(voxels)).mean
    solver = flow.solver
    for direction in ("decode", "encode"):
        z = solve(velocity, z, time_grid(flow.steps[direction], direction), solver)
    for latents, t in visited:
        flow.ranges.watch(latents, [t] * CALIBRATED)


def _preprocessing(voxels: int, rng: np.random.Generator) -> Preprocessing:
    side = int(np.ceil((4 * voxels) ** (1 / 3)))
    mask = np.zeros(side**3, dtype=np.bool_)
    mask[rng.choice(side**3, voxels, replace=False)] = True
    residuals = rng.standard_normal((COMPONENTS + 1, voxels), dtype=np.float32)
    return Preprocessing(
        subject="generated",
        estimator=BetaEstimator(),
        mask=mask.reshape(side, side, side),
        affine=np.diag([2.0, 2.0, 2.0, 1.0]),
        space=FeatureSpace(
            AffineNormaliser(
                rng.standard_normal(voxels, dtype=np.float32),
                rng.uniform(0.5, 2, voxels).astype(np.float32),
            ),
            NoiseWhitening.fit(residuals, shrinkage=0.5),
        ),
    )


def _manifest(
    config: ModelConfig, preprocessing: Preprocessing, solver: str, created: str
) -> Manifest:
    evaluations = (
        STEPS * solver_from_name(solver, config.flow_training.path).evaluations
    )
    return Manifest(
        subject=preprocessing.subject,
        created=created,
        input_kind=input_kind(preprocessing.estimator),
        voxels=preprocessing.voxels(),
        estimator=preprocessing.estimator,
        preprocessing_sha256=preprocessing.sha256(),
        flow=FlowSpec(
            path=config.flow_training.path,
            is_centred=config.centre_latents,
            solver=solver,
            decode_times=time_grid(STEPS, "decode"),
            encode_times=time_grid(STEPS, "encode"),
            decode_evaluations=evaluations,
            encode_evaluations=evaluations,
        ),
        graphs=(),
        tensors=(),
        golden=(),
        backbone=BackboneSpec(name="generated", image_size=16, patch=4),
        latent=LatentSpec(tokens=config.flow.tokens, width=config.flow.width),
        training=TrainingSpec(
            preset=config.preset,
            config_sha256=config.fingerprint(),
            vae_sha256=_GENERATED,
            flow_sha256=_GENERATED,
        ),
        gates=(),
        files=(),
    )


def _golden(model: Model, rng: np.random.Generator) -> dict[str, Array]:
    voxels = rng.standard_normal(model.manifest.voxels.count, dtype=np.float32)
    z_n = model.encode_voxels(voxels)
    z_v = model.decode_latent(z_n)
    encoded = model.encode_latent(z_v)
    found = {
        "voxels": voxels,
        "z_n": z_n,
        "retrieval": model.project_voxels(voxels),
        "z_v": z_v,
        "z_n_encoded": encoded,
        "voxels_predicted": model.predict_voxels(encoded),
    }
    return {name: array[None] for name, array in found.items()}


def _save(path: Path, arrays: dict[str, Array]) -> tuple[TensorSpec, ...]:
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    return tuple(
        msgspec.convert(
            {"name": name, "shape": array.shape, "dtype": array.dtype.name}, TensorSpec
        )
        for name, array in sorted(arrays.items())
    )
