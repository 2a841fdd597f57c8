"""Random models for tests: small, and with nothing in them that is negligible."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from export import assemble, package
from export.package import export_bundle
from export.parity import stressed
from export.preprocessing import Preprocessing
from runtime.bundle import BackboneSpec
from runtime.estimator import BetaEstimator, Estimator
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening
from tests.made_once import made_once
from training.config import ModelConfig, config_from_preset
from training.neurovae import NeuroVAE
from training.sit import SiT

BACKBONE = BackboneSpec(name="patch_dct", image_size=32, patch=4)
SYNTHETIC = BackboneSpec(name="synthetic", image_size=8, patch=4)
BETAS = BetaEstimator(decision_delay_s=8.0)
CREATED = "2026-01-02"


@dataclass(frozen=True)
class RandomModel:
    config: ModelConfig
    vae: NeuroVAE
    field: SiT
    preprocessing: Preprocessing
    latent_mean: np.ndarray
    golden_voxels: np.ndarray


def random_space(rng: np.random.Generator, voxels: int) -> FeatureSpace:
    """A feature space with correlated noise."""
    residuals = rng.normal(size=(8, voxels)).astype(np.float32)
    return FeatureSpace(
        AffineNormaliser(
            rng.normal(size=voxels).astype(np.float32),
            rng.uniform(0.5, 2, voxels).astype(np.float32),
        ),
        NoiseWhitening.fit(residuals, shrinkage=0.5),
    )


def random_model(
    preset: str = "tiny", seed: int = 0, estimator: Estimator = BETAS
) -> RandomModel:
    """A model of a preset's size with a velocity of unit variance and outliers."""
    config = config_from_preset(preset)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae, field = NeuroVAE(config.vae).eval(), SiT(config.flow).eval()
    voxels = config.vae.voxels
    side = int(np.ceil((2 * voxels) ** (1 / 3)))
    mask = np.zeros(side**3, dtype=np.bool_)
    mask[rng.choice(side**3, voxels, replace=False)] = True
    return RandomModel(
        config=config,
        vae=vae,
        field=stressed(field, seed + 1),
        preprocessing=Preprocessing(
            subject="01",
            estimator=estimator,
            mask=mask.reshape(side, side, side),
            affine=np.diag([2.0, 2.0, 2.0, 1.0]),
            space=random_space(rng, voxels),
        ),
        latent_mean=rng.normal(size=(config.flow.tokens, config.flow.width)).astype(
            np.float32
        ),
        golden_voxels=rng.normal(size=(2, voxels)).astype(np.float32),
    )


def export(
    model: RandomModel,
    out: Path,
    *,
    backbone=BACKBONE,
    solver="rotation",
    steps=2,
    precisions=("f32",),
) -> Path:
    """Export a random model with the arguments that tests do not care about.

    Torch's exporter is asked once for each of a run's weights; all else is done anew.
    """
    with (
        mock.patch.object(assemble, "step_graph", _once("step", assemble.step_graph)),
        mock.patch.object(
            package,
            "autoencoder_graphs",
            _once("autoencoder", package.autoencoder_graphs),
        ),
    ):
        return export_bundle(
            model.vae,
            model.field,
            model.config,
            model.preprocessing,
            model.latent_mean,
            model.golden_voxels,
            out,
            backbone=backbone,
            created=CREATED,
            solver=solver,
            steps=steps,
            precisions=precisions,
        )


def _once(name: str, trace: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Trace a module once for all processes that share a run of the tests."""

    def traced(module: Any) -> Any:
        digest = hashlib.sha256(repr(module.config).encode())
        for key, tensor in module.state_dict().items():
            digest.update(key.encode() + tensor.numpy().tobytes())
        file = made_once(
            f"{name}-{digest.hexdigest()[:16]}",
            lambda out: out.write_bytes(pickle.dumps(trace(module))),
        )
        return pickle.loads(file.read_bytes())

    return traced


def tiny_bundle() -> Path:
    """One exported tiny bundle for a whole run of the tests; never write into it."""
    return made_once("tiny", lambda out: export(random_model(), out))


def served_bundle() -> Path:
    """The same with latents that are no pictures, so that a server makes none."""
    return made_once(
        "served", lambda out: export(random_model(), out, backbone=SYNTHETIC)
    )
