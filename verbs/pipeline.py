"""From a participant to a bundle and a gallery: train, export, calibrate.

The demonstration and the evaluation over many participants share it.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from export.package import export_bundle
from export.preprocessing import Preprocessing
from runtime.bundle import BackboneSpec, open_bundle
from runtime.gallery import Confidence, write_gallery
from runtime.heads import Retrieval, fit_temperature
from runtime.model import open_model
from training.checkpoint import load_flow, load_neurovae
from training.config import ModelConfig
from training.dataset import Dataset
from training.fit import Observer, fit_flow, fit_neurovae

Stage = Callable[[str], None]
GOLDEN_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Built:
    """Where everything lies."""

    vae: Path
    flow: Path
    bundle: Path
    gallery: Path


def build(
    dataset: Dataset,
    config: ModelConfig,
    out: Path,
    *,
    solver: str = "rotation",
    steps: int = 2,
    backend: str = "ort",
    on_step: Observer | None = None,
    on_stage: Stage = lambda _line: None,
) -> Built:
    """Train both stages, export, and calibrate a gallery.

    Args:
        dataset: A participant with train and calibration trials.
        config: The model; its voxel count is the dataset's.
        out: Folder for checkpoints, bundle and gallery.
        solver: Of the exported flow.
        steps: Solver steps of each direction.
        backend: Engine that the calibration runs on.
        on_step: Told after each training step.
        on_stage: Told what begins.
    """
    built = Built(out / "vae", out / "flow", out / "bundle", out / "gallery")
    trials = dataset.split("train")
    on_stage("stage 1: NeuroVAE")
    fit_neurovae(config, trials, built.vae, on_step=on_step)
    on_stage("stage 2: the flow")
    fit_flow(config, trials, built.vae, built.flow, on_step=on_step)
    on_stage("export")
    export(dataset, built, solver=solver, steps=steps, on_stage=on_stage)
    on_stage("calibrate the gallery's confidence")
    calibrate(dataset, built, backend=backend)
    return built


def export(
    dataset: Dataset,
    built: Built,
    *,
    solver: str,
    steps: int,
    on_stage: Stage = lambda _line: None,
) -> None:
    """Write the bundle from the two checkpoints."""
    vae, manifest = load_neurovae(built.vae)
    field, _ = load_flow(built.flow)
    backbone = dataset.backbone
    export_bundle(
        vae,
        field,
        manifest.config,
        preprocessing_of(dataset),
        dataset.latent_mean(),
        dataset.split("train").voxels[:GOLDEN_SAMPLES],
        built.bundle,
        backbone=BackboneSpec(
            name=backbone.name, image_size=backbone.image_size, patch=backbone.patch
        ),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        solver=solver,
        steps=steps,
        progress=on_stage,
    )


def preprocessing_of(dataset: Dataset) -> Preprocessing:
    """Return what stands between a volume and the model, for the bundle."""
    run = dataset.recording.runs[0]
    mask = np.zeros(run.shape, dtype=np.bool_)
    mask.ravel()[dataset.recording.mask.indices] = True
    return Preprocessing(
        subject=run.run_id.split("_")[0],
        estimator=dataset.estimator,
        mask=mask,
        affine=run.affine,
        space=dataset.space,
    )


def calibrate(dataset: Dataset, built: Built, *, backend: str) -> None:
    """Fit the confidence on calibration trials and write the gallery."""
    rows = np.array(dataset.stimuli.gallery_rows(), dtype=np.int64)
    stimuli = dataset.stimuli
    with open_bundle(built.bundle) as bundle, open_model(bundle, backend) as model:
        trials = dataset.split("calibration")
        decoded = np.stack(
            [model.decode_latent(model.encode_voxels(v)) for v in trials.voxels]
        )
        cosines, shown = calibration_cosines(
            decoded, trials.image, dataset.latents, rows, mean=bundle.latent_mean
        )
        confidence = Confidence(
            bundle_sha256=bundle.sha256, temperature=fit_temperature(cosines, shown)
        )
    write_gallery(
        built.gallery,
        latents=dataset.latents[rows],
        ids=[stimuli.ids[row] for row in rows],
        labels=[stimuli.labels[row] for row in rows],
        images=stimuli.pixels[rows],
        confidence=confidence,
    )


def calibration_cosines(
    decoded: Float32[np.ndarray, "trials tokens width"],
    shown: Int64[np.ndarray, " trials"],
    latents: Float32[np.ndarray, "images tokens width"],
    gallery: Int64[np.ndarray, " items"],
    *,
    mean: Float32[np.ndarray, "tokens width"],
) -> tuple[Float32[np.ndarray, "trials items"], Int64[np.ndarray, " trials"]]:
    """Score calibration trials as if their pictures were in the gallery.

    The shown picture takes the place of the gallery's first item, so that the number
    of candidates is the one that will be served.
    """
    scores = []
    for z_v, image in zip(decoded, shown, strict=True):
        items = np.concatenate([[image], gallery[gallery != image]])[: len(gallery)]
        ids = [str(item) for item in items]
        search = Retrieval(latents[items], ids, ids, mean=mean, temperature=1.0)
        scores.append(search.cosines(z_v))
    return np.stack(scores), np.zeros(len(shown), dtype=np.int64)
