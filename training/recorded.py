"""A model of one recorded participant: trained, and ready to be exported.

Puts the labelled volumes of `training.haxby` through the two stages of training and
back through the flow. Knows nothing of comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from msgspec.structs import replace

from runtime.errors import UsageError
from runtime.estimator import VolumeEstimator
from runtime.heads import Retrieval, fit_temperature
from runtime.path import path_from_name
from runtime.preprocess.feature_space import FeatureSpace
from runtime.recording import Recording
from runtime.solver import solver_from_name
from training.checkpoint import load_flow, load_neurovae
from training.config import ModelConfig, config_from_preset
from training.features import reference_of
from training.fit import Observer, fit_flow, fit_neurovae
from training.flow import decode_latents
from training.haxby import (
    NAMES,
    Features,
    LabelledRuns,
    category_codes,
    category_trials,
    category_whitening,
    causal_features,
    feature_space,
    read_labelled,
)
from training.neurovae import NeuroVAE
from training.sit import SiT
from training.trials import TrialSet

SOLVER: Final = "rotation"
STEPS: Final = 2
"""Of the decoding flow; the default of `neuroflow export`, not chosen on this data."""

Codes = Float32[np.ndarray, "categories tokens width"]
Cosines = Float32[np.ndarray, "volumes categories"]


def seeded(config: ModelConfig, seed: int, voxels: int) -> ModelConfig:
    """Return a configuration for this many voxels with the seed in both stages."""
    return replace(
        config,
        vae=replace(config.vae, voxels=voxels),
        vae_training=replace(config.vae_training, seed=seed),
        flow_training=replace(config.flow_training, seed=seed),
    )


def fit_stages(
    config: ModelConfig, trials: TrialSet, out: Path, on_step: Observer | None = None
) -> tuple[Path, Path]:
    """Train both stages into ``out/vae`` and ``out/flow``; return the two folders."""
    vae = fit_neurovae(config, trials, out / "vae", on_step=on_step)
    return vae, fit_flow(config, trials, vae, out / "flow", on_step=on_step)


def category_cosines(
    vae: Path, flow: Path, features: Features, codes: Codes
) -> Cosines:
    """Decode features through the flow and score the categories, as a rig would.

    Args:
        vae: Checkpoint of stage 1.
        flow: Checkpoint of stage 2.
        features: Normalised and whitened volumes.
        codes: The gallery.

    Returns:
        Cosines with the codes, the mean of the codes removed on both sides.
    """
    encoder, _ = load_neurovae(vae)
    field, manifest = load_flow(flow)
    centre = codes.mean(axis=0)
    z_v = decode_features(encoder, field, manifest.config, features, centre)
    search = Retrieval(codes, NAMES, NAMES, mean=centre, temperature=1.0)
    return np.stack([search.cosines(z) for z in z_v])


def decode_features(
    vae: NeuroVAE,
    field: SiT,
    config: ModelConfig,
    features: Features,
    latent_mean: Float32[np.ndarray, "tokens width"],
) -> Float32[np.ndarray, "samples tokens width"]:
    """Carry features through the encoder and the flow to z_v, as a rig would.

    Args:
        vae: Of stage 1.
        field: Of stage 2.
        config: What both were trained with.
        features: In the model's units.
        latent_mean: Put back where the configuration takes it off.
    """
    path = path_from_name(config.flow_training.path)
    with torch.no_grad():
        z_n = vae.eval().encode(torch.from_numpy(features))
    solver = solver_from_name(SOLVER, path.name)
    z_v = decode_latents(field.eval(), z_n, STEPS, solver, path).numpy()
    if config.centre_latents:
        z_v = z_v + latent_mean
    return z_v.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RecordedModel:
    """All that an export of a volume bundle with its gallery needs."""

    config: ModelConfig
    vae: Path
    """Checkpoint of stage 1."""
    flow: Path
    """Checkpoint of stage 2."""
    estimator: VolumeEstimator
    reference: Float32[np.ndarray, "x y z"] | None
    """What motion is told against; None without motion."""
    space: FeatureSpace
    """Prior level, scale and whitening, of the training runs alone."""
    mask: Bool[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]
    codes: Codes
    """Gallery latents, one per category."""
    labels: tuple[str, ...]
    """Names of the categories, in the order of `codes`."""
    latent_mean: Float32[np.ndarray, "tokens width"]
    """Mean of the codes."""
    temperature: float
    """Of the confidence; fitted on a run that its model had not seen."""
    calibration_accuracy: float
    """Labelled volumes of that run named rightly; one run is 72 volumes."""
    trials: TrialSet
    """What it was trained on, in the model's units."""


def fit_recorded(
    recording: Recording,
    train_runs: Sequence[int],
    seed: int,
    out: Path,
    *,
    calibration_run: int | None = None,
    config: ModelConfig | None = None,
    estimator: VolumeEstimator | None = None,
    on_step: Observer | None = None,
) -> RecordedModel:
    """Train on some runs of a recording whose volumes are labelled.

    Confidence needs answers to volumes that were not learned from: a first model leaves
    one training run out and its answers on that run fix the temperature; the model that
    is returned then learns from all the training runs.

    Args:
        recording: In Haxby's layout.
        train_runs: Positions of the runs to learn from, at least two; nothing else is
            looked at.
        seed: Of both stages.
        out: Folder for checkpoints: ``vae``, ``flow`` and ``calibration/``.
        calibration_run: Left out first; the last training run by default.
        config: The preset ``haxby`` by default.
        estimator: How volumes become features; its default by default.
        on_step: Told after each training step.

    Raises:
        UsageError: Too few training runs, or runs that the recording does not have.
        RecordingError: Volumes without labels.
    """
    runs = list(train_runs)
    held = runs[-1] if calibration_run is None and runs else calibration_run
    inside = set(runs) <= set(range(len(recording.runs)))
    if len(set(runs)) < 2 or not inside or held not in runs:
        raise UsageError(
            f"train_runs: expected at least two of 0 to {len(recording.runs) - 1}, "
            f"among them the calibration run, found {runs} and {held}"
        )
    estimator = estimator or VolumeEstimator()
    config = config or config_from_preset("haxby")
    config = seeded(config, seed, recording.mask.voxels)
    codes = category_codes(config.vae.tokens, config.vae.width)
    data = read_labelled(recording)

    rest = [run for run in runs if run != held]
    space, trials = _training_set(data, rest, estimator, codes)
    vae, flow = fit_stages(config, trials, out / "calibration", on_step)
    unseen = data.of([held]) & (data.labels > 0)
    raw, _ = causal_features(data, rest, estimator)
    cosines = category_cosines(vae, flow, space.whitening.whiten(raw[unseen]), codes)
    shown = data.labels[unseen] - 1

    space, trials = _training_set(data, runs, estimator, codes)
    vae, flow = fit_stages(config, trials, out, on_step)
    first = recording.runs[runs[0]]
    reference = reference_of(first, estimator)
    mask = np.zeros(first.shape, dtype=np.bool_)
    mask.ravel()[recording.mask.indices] = True
    return RecordedModel(
        config=config,
        vae=vae,
        flow=flow,
        estimator=estimator,
        reference=None if reference is None else reference.volume,
        space=space,
        mask=mask,
        affine=first.affine,
        codes=codes,
        labels=NAMES,
        latent_mean=codes.mean(axis=0),
        temperature=fit_temperature(cosines, shown),
        calibration_accuracy=float((cosines.argmax(axis=1) == shown).mean()),
        trials=trials,
    )


def _training_set(
    data: LabelledRuns, runs: Sequence[int], estimator: VolumeEstimator, codes: Codes
) -> tuple[FeatureSpace, TrialSet]:
    chosen = data.of(runs)
    features, statistics = causal_features(data, runs, estimator)
    normalised, labels = features[chosen], data.labels[chosen]
    whitening = category_whitening(normalised, labels, estimator.noise_shrinkage)
    space = feature_space(statistics, whitening)
    return space, category_trials(whitening.whiten(normalised), labels, codes)
