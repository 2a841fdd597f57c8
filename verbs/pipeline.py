"""From a participant to a bundle and a gallery: train, export, calibrate.

The demonstration and the evaluation over many participants share it.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from export.assemble import Precision
from export.package import export_bundle
from export.preprocessing import Preprocessing
from runtime.bundle import BackboneSpec, open_bundle
from runtime.errors import CheckpointError
from runtime.gallery import Confidence, write_gallery
from runtime.graphs import SERVED
from runtime.heads import Retrieval, fit_temperature
from runtime.model import open_model
from training.checkpoint import load_flow, load_neurovae
from training.config import ModelConfig
from training.dataset import Dataset
from training.fit import Observer, fit_flow, fit_neurovae
from training.learned_from import LearnedFrom
from training.trials import TrialSet

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
    precisions: Sequence[Precision] = ("f32",),
    on_stage: Stage = lambda _line: None,
) -> None:
    """Write the bundle of a participant from the two checkpoints.

    Raises:
        CheckpointError: One is missing, damaged, or not the other's.
    """
    write_bundle(
        ingredients_of(dataset),
        built,
        solver=solver,
        steps=steps,
        precisions=precisions,
        on_stage=on_stage,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Ingredients:
    """What a bundle is made of, beside the two checkpoints."""

    preprocessing: Preprocessing
    latent_mean: Float32[np.ndarray, "tokens width"]
    """Of z_v over the training pictures."""
    golden_voxels: Float32[np.ndarray, "samples voxels"]
    """A few training trials in the model's units."""
    backbone: BackboneSpec


def ingredients_of(dataset: Dataset) -> Ingredients:
    """Return them for a recording."""
    return Ingredients(
        preprocessing=preprocessing_of(dataset),
        latent_mean=dataset.latent_mean(),
        golden_voxels=dataset.split("train").voxels[:GOLDEN_SAMPLES],
        backbone=LearnedFrom.of_dataset(dataset).backbone,
    )


def preprocessing_of(dataset: Dataset) -> Preprocessing:
    """Return what stands between a volume and the model, for the bundle."""
    return Preprocessing(
        subject=dataset.subject,
        estimator=dataset.estimator,
        mask=dataset.recording.mask.volume(),
        affine=dataset.recording.runs[0].affine,
        space=dataset.space,
        hrf_index=dataset.hrf_index,
        reference=None if dataset.reference is None else dataset.reference.volume,
    )


def write_bundle(
    parts: Ingredients,
    built: Built,
    *,
    solver: str,
    steps: int,
    precisions: Sequence[Precision] = ("f32",),
    on_stage: Stage = lambda _line: None,
) -> None:
    """Write the bundle from the two checkpoints and what belongs to them.

    Raises:
        CheckpointError: One is missing, damaged, or not the other's.
    """
    vae, first = load_neurovae(built.vae)
    field, second = load_flow(built.flow)
    if second.vae_fingerprint not in (None, first.fingerprint):
        raise CheckpointError(
            f"{built.flow}: vae_fingerprint: expected {first.fingerprint[:12]} as of "
            f"{built.vae}, found {second.vae_fingerprint[:12]}. "
            "Train the flow on this VAE, or name its own"
        )
    if second.config.centre_latents != first.config.centre_latents:
        raise CheckpointError(
            f"{built.flow}: centre_latents: expected {first.config.centre_latents} as "
            f"of {built.vae}, found {second.config.centre_latents}"
        )
    export_bundle(
        vae,
        field,
        # The path that the flow learned is in its own configuration.
        second.config,
        parts.preprocessing,
        parts.latent_mean,
        parts.golden_voxels,
        built.bundle,
        backbone=parts.backbone,
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        solver=solver,
        steps=steps,
        precisions=precisions,
        progress=on_stage,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What a gallery is made of, and on what its confidence is fitted."""

    latents: Float[np.ndarray, "images tokens width"]
    """z_v of all pictures."""
    rows: Int64[np.ndarray, " items"]
    """Which of them may be answered with."""
    ids: Sequence[str]
    """Names of these."""
    labels: Sequence[str]
    images: UInt8[np.ndarray, "items height width 3"] | None
    calibration: TrialSet | None
    """None: nothing to fit a confidence on."""


def calibrate(dataset: Dataset, built: Built, *, backend: str) -> None:
    """Fit the confidence on calibration trials and write the gallery."""
    stimuli = dataset.stimuli
    rows = np.array(stimuli.gallery_rows(), dtype=np.int64)
    candidates = Candidates(
        latents=dataset.latents,
        rows=rows,
        ids=[stimuli.ids[row] for row in rows],
        labels=[stimuli.labels[row] for row in rows],
        images=stimuli.pixels[rows],
        calibration=dataset.split("calibration"),
    )
    write_candidates(candidates, built, backend=backend)


def write_candidates(candidates: Candidates, built: Built, *, backend: str) -> None:
    """Write the gallery, its confidence fitted where there are trials to fit it on."""
    confidence, trials = None, candidates.calibration
    if trials is not None:
        with (
            open_bundle(built.bundle) as bundle,
            open_model(bundle, backend, parts=SERVED) as model,
        ):
            decoded = np.stack(
                [model.decode_latent(model.encode_voxels(v)) for v in trials.voxels]
            )
            cosines, shown = calibration_cosines(
                decoded,
                trials.image,
                candidates.latents,
                candidates.rows,
                mean=bundle.latent_mean,
            )
            confidence = Confidence(
                bundle_sha256=bundle.sha256,
                temperature=fit_temperature(cosines, shown),
            )
    write_gallery(
        built.gallery,
        latents=candidates.latents[candidates.rows].astype(np.float32, copy=False),
        ids=candidates.ids,
        labels=candidates.labels,
        images=candidates.images,
        confidence=confidence,
    )


def calibration_cosines(
    decoded: Float32[np.ndarray, "trials tokens width"],
    shown: Int64[np.ndarray, " trials"],
    latents: Float[np.ndarray, "images tokens width"],
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
        compared = latents[items].astype(np.float32, copy=False)
        search = Retrieval(compared, ids, ids, mean=mean, temperature=1.0)
        scores.append(search.cosines(z_v))
    return np.stack(scores), np.zeros(len(shown), dtype=np.int64)
