"""`neuroflow train`: one stage from a recording or prepared trials to a checkpoint."""

import os
from pathlib import Path
from typing import TypedDict

import msgspec

from runtime.closed_words import in_our_words
from runtime.errors import ConfigError, UsageError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.recording import open_recording
from training.checkpoint import read_manifest, write_bytes
from training.compute import AS_PUBLISHED, Compute
from training.config import ModelConfig, config_from_json, config_from_preset
from training.data.store import PreparedTrials, open_trials
from training.dataset import Dataset, open_dataset
from training.fit import DivergedError, Observer, fit_flow, fit_neurovae
from training.learned_from import LearnedFrom, check_note, write_note
from training.ranks import Ranks, is_main, launched_ranks
from training.stimuli import open_stimuli
from training.trials import TrialSet
from verbs.progress import Screen, screen
from verbs.sealed_places import refuse_sealed
from verbs.synthetic import Augmentation, augmented_recording, augmented_trials

ESTIMATOR = "estimator.json"
"""Kept beside a checkpoint: what its betas were made with."""
PRESET = "demo"
"""Where neither a preset nor a configuration is given."""


def train_stage(
    stage: str,
    out: Path,
    *,
    recording: Path | None,
    trials: Path | None,
    vae: Path | None,
    preset: str | None,
    config_file: Path | None,
    estimator_file: Path | None,
    subject: str | None = None,
    dry_run: bool,
    resume: bool,
    compute: Compute = AS_PUBLISHED,
    augment: Augmentation | None = None,
) -> None:
    """Train one stage, or print what would be trained.

    Under ``accelerate launch`` every process comes here; the main one alone writes.
    """
    if stage == "flow" and vae is None:
        raise UsageError("train flow: expected --vae with stage 1, found none")
    if (recording is None) == (trials is None):
        raise UsageError(
            f"train {stage}: expected either --recording or --trials, "
            f"found {'neither' if recording is None else 'both'}"
        )
    if preset is not None and config_file is not None:
        raise UsageError(
            "--preset: expected without --config, which is a whole configuration, "
            "found both. Leave one out."
        )
    if trials is not None and estimator_file is not None:
        raise UsageError(
            "--estimator: expected with --recording alone, found it with --trials, "
            "whose betas are estimated already"
        )
    if trials is not None and subject is not None:
        raise UsageError(
            "--subject: expected with --recording alone, found it with --trials, which "
            "are of one participant"
        )
    if out != (said := Path(os.fsencode(out).decode("utf-8", "replace"))):
        raise UsageError(
            "--out: expected a folder named in UTF-8, as TensorBoard's files need, "
            f"found {str(said)!r}"
        )
    refuse_sealed(out)
    prepared = None if trials is None else open_trials(trials)
    config = resolved_config(
        recording, prepared, preset or PRESET, config_file, subject
    )
    if dry_run:
        print(msgspec.json.format(msgspec.json.encode(config), indent=2).decode())
        return
    if vae is not None and stage == "flow":
        # Before anything is estimated, which takes long.
        read_manifest(vae, "vae")
    with launched_ranks() as ranks, screen(is_quiet=not is_main(ranks)) as shown:
        seed = config.vae_training.seed
        if prepared is not None:
            learned = (
                prepared.split("train")
                if augment is None
                else augmented_trials(augment, prepared, seed)
            )
            origin = LearnedFrom.of_trials(prepared.manifest)
        else:
            estimator = read_estimator(
                estimator_file or (vae / ESTIMATOR if vae else None)
            )
            # Said above: without prepared trials there is a recording.
            folder = recording or Path()
            dataset = read_dataset(folder, estimator, config, shown, subject)
            learned = (
                dataset.split("train")
                if augment is None
                else augmented_recording(augment, dataset, folder, seed)
            )
            origin = LearnedFrom.of_dataset(dataset)
        if vae is not None and stage == "flow":
            check_note(vae, origin)
        _say_synthetic(learned, shown)
        if slowly := compute.slow_on(ranks.device):
            shown.say(slowly)
        if is_main(ranks):
            out.mkdir(parents=True, exist_ok=True)
        common: _Common = {
            "resume": resume,
            "on_step": shown.training,
            "device": str(ranks.device),
            "compute": compute,
            "ranks": ranks,
        }
        try:
            if vae is None or stage == "vae":
                shown.stage("stage 1: NeuroVAE")
                fit_neurovae(config, learned, out, **common)
            else:
                shown.stage("stage 2: the flow")
                fit_flow(config, learned, vae, out, **common)
        except DivergedError as error:
            if error.kept is not None and is_main(ranks):
                _say_where_from(error.kept, origin)
            raise
        if is_main(ranks):
            _say_ending(stage, out, shown)
    if is_main(ranks):
        _say_where_from(out, origin)
        print(out)


def _say_where_from(out: Path, origin: LearnedFrom) -> None:
    # After the weights: until then an older checkpoint in this folder is the one that
    # the notes are about.
    write_note(out, origin)
    if isinstance(origin.estimator, BetaEstimator):
        write_bytes(out / ESTIMATOR, msgspec.json.encode(origin.estimator))
    else:
        # Betas that a server could not have estimated leave nothing to serve with.
        (out / ESTIMATOR).unlink(missing_ok=True)


def _say_synthetic(learned: TrialSet, shown: Screen) -> None:
    made = learned.synthetic
    if made is not None:
        shown.stage(
            f"{made.trials} synthetic trials beside {learned.measured} measured ones, "
            f"pictures: {made.pictures}"
        )
        shown.say(f"encoder: vae {made.vae[:12]}, flow {made.flow[:12]}")


def _say_ending(stage: str, out: Path, shown: Screen) -> None:
    stopped = read_manifest(out, "vae" if stage == "vae" else "flow").stopped
    if stopped is not None:
        shown.finish()
        shown.say(f"ended after step {stopped.step}: {stopped.reason}")
        shown.say(
            f"kept step {stopped.best_step}, loss {stopped.loss:.4g} on "
            f"{stopped.images} held-out images"
        )


class _Common(TypedDict):
    """What both stages are called with."""

    resume: bool
    on_step: Observer
    device: str
    compute: Compute
    ranks: Ranks


def resolved_config(
    recording: Path | None,
    prepared: PreparedTrials | None,
    preset: str,
    file: Path | None,
    subject: str | None = None,
) -> ModelConfig:
    """Return the configuration for a number of voxels: a recording's or the trials'.

    Raises:
        ConfigError: Unknown preset or key, or an impossible value.
        RecordingError: The recording is missing or damaged.
    """
    if file is None:
        if prepared is not None:
            voxels = prepared.manifest.voxels
        else:
            opened = open_recording(recording or Path(), subject=subject)
            voxels = opened.mask.voxels
        return config_from_preset(preset, voxels=voxels)
    try:
        return config_from_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{file}: expected a configuration, found {error.strerror}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def read_estimator(file: Path | None) -> BetaEstimator:
    """Read how betas are estimated; the defaults where no file is given.

    Raises:
        ConfigError: The file is missing, or has an unknown key or impossible value.
    """
    if file is None:
        return BetaEstimator()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file}: expected an estimator, found {error.strerror}"
        ) from error
    try:
        return msgspec.json.decode(data, type=BetaEstimator)
    except msgspec.DecodeError as error:
        said = in_our_words(error, BetaEstimator, data)
        raise ConfigError(f"{file}: {said or error}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: {error}") from error


def read_dataset(
    recording: Path,
    estimator: BetaEstimator,
    config: ModelConfig,
    shown: Screen,
    subject: str | None = None,
) -> Dataset:
    """Make a recording's features for training, with progress."""
    shown.stage("features: every trial's beta, as a live decoder would have it")
    size = open_stimuli(recording).pixels.shape[1]
    backbone = PatchDct.of_latent(config.flow.tokens, config.flow.width, size)
    dataset = open_dataset(
        recording, estimator, backbone, subject=subject, on_run=shown.count
    )
    if dataset.left_out:
        shown.say(dataset.left_out)
    if dataset.shared:
        shown.say(
            f"WARNING: {dataset.shared} pictures of the test are trained on: its "
            "figures will not be those of new pictures"
        )
    return dataset
