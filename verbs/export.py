"""`neuroflow export`: two checkpoints to a bundle and a calibrated gallery."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.assemble import Precision, check_precisions
from runtime.errors import ArtifactError, CheckpointError, UsageError
from runtime.estimator import ExternalEstimator
from runtime.recording_bids import known_subject
from runtime.solver import solver_from_name, time_grid
from training.checkpoint import (
    MANIFEST,
    WEIGHTS,
    Checkpoint,
    load_neurovae,
    read_manifest,
)
from training.data.store import open_trials
from training.learned_from import LearnedFrom, check_note, noted_subject
from verbs.pipeline import Built, calibrate, write_bundle, write_candidates
from verbs.pipeline import export as export_built
from verbs.prepared import candidates_from, ingredients_from
from verbs.progress import Screen, screen
from verbs.sealed_places import refuse_inside
from verbs.train import ESTIMATOR, read_dataset, read_estimator


def export_checkpoints(
    vae: Path,
    flow: Path,
    out: Path,
    *,
    recording: Path | None,
    trials: Path | None,
    solver: str,
    steps: int,
    backend: str,
    precisions: tuple[Precision, ...] = ("f32",),
) -> None:
    """Write OUT/bundle and OUT/gallery, from what the checkpoints were trained on.

    Raises:
        UsageError: Neither a recording nor prepared trials, or both.
        ArtifactError: A bundle or gallery is there, or OUT is no place for them.
        CheckpointError: A checkpoint is missing, damaged, of another model, or was
            trained on something else.
        ConfigError: No such solver, one that does not fit the path, no step, or
            precisions without f32.
        ParityError: An engine does not compute what the model computes.
    """
    check_precisions(precisions)
    if (recording is None) == (trials is None):
        raise UsageError(
            "export: expected either --recording or --trials, "
            f"found {'neither' if recording is None else 'both'}"
        )
    built = Built(vae, flow, out / "bundle", out / "gallery")
    # All this before anything is estimated, which takes long.
    _check_places(out, built)
    _, manifest = load_neurovae(vae)
    path = read_manifest(flow, "flow").config.flow_training.path
    solver_from_name(solver, path)
    time_grid(steps, "decode")
    with screen() as shown:
        if trials is not None:
            has_gallery = _from_trials(
                trials,
                built,
                solver=solver,
                steps=steps,
                backend=backend,
                precisions=precisions,
                shown=shown,
            )
        else:
            _from_recording(
                recording or Path(),
                manifest,
                built,
                solver=solver,
                steps=steps,
                backend=backend,
                precisions=precisions,
                shown=shown,
            )
            has_gallery = True
    print(built.bundle)
    if has_gallery:
        print(built.gallery)


def _from_recording(
    recording: Path,
    manifest: Checkpoint,
    built: Built,
    *,
    solver: str,
    steps: int,
    backend: str,
    precisions: tuple[Precision, ...],
    shown: Screen,
) -> None:
    file = built.vae / ESTIMATOR
    estimator = read_estimator(file if file.exists() else None)
    subject = known_subject(recording, noted_subject(built.vae))
    dataset = read_dataset(recording, estimator, manifest.config, shown, subject)
    _check_origin(built, LearnedFrom.of_dataset(dataset))
    export_built(
        dataset,
        built,
        solver=solver,
        steps=steps,
        precisions=precisions,
        on_stage=shown.stage,
    )
    with _both_or_none(built):
        shown.stage("calibrate the gallery's confidence")
        calibrate(dataset, built, backend=backend)


def _from_trials(
    folder: Path,
    built: Built,
    *,
    solver: str,
    steps: int,
    backend: str,
    precisions: tuple[Precision, ...],
    shown: Screen,
) -> bool:
    """Write the bundle; write a gallery and return True where it can be served."""
    shown.stage("prepared trials")
    trials = open_trials(folder)
    origin = LearnedFrom.of_trials(trials.manifest)
    _check_origin(built, origin)
    _check_voxels(built.vae, trials.manifest.voxels, trials.manifest.subject)
    write_bundle(
        ingredients_from(trials),
        built,
        solver=solver,
        steps=steps,
        precisions=precisions,
        on_stage=shown.stage,
    )
    if isinstance(origin.estimator, ExternalEstimator):
        shown.say(f"betas of {origin.estimator.name}: no server can compute them")
        shown.say("no gallery, and serve will refuse; see evaluate --trials")
        return False
    with _both_or_none(built):
        candidates = candidates_from(trials)
        shown.stage("calibrate the gallery's confidence")
        if candidates.calibration is None:
            shown.say("no trials of split calibration: confidences are a guess")
        write_candidates(candidates, built, backend=backend)
    return True


def _check_places(out: Path, built: Built) -> None:
    """Refuse a place where a bundle and its gallery cannot lie, or should not.

    Raises:
        ArtifactError: Naming it, with the remedy.
    """
    for place in (built.bundle, built.gallery):
        if os.path.lexists(place):
            raise ArtifactError(
                f"{place}: expected no such folder yet, found one. Move it away, or "
                "name another --out."
            )
    if all((out / name).is_file() for name in (MANIFEST, WEIGHTS)):
        raise ArtifactError(
            f"{out}: expected a folder for bundle and gallery, found a checkpoint. "
            "Name another --out."
        )
    refuse_inside(built.bundle)
    near = next(at for at in (out, *out.absolute().parents) if os.path.lexists(at))
    try:
        with tempfile.TemporaryDirectory(prefix=".neuroflow-", dir=near):
            pass
    except OSError as error:
        raise ArtifactError(
            f"{out}: expected a folder that can be made and written, found at {near}: "
            f"{error.strerror}. Name another --out."
        ) from error


@contextmanager
def _both_or_none(built: Built) -> Iterator[None]:
    """Remove the bundle where its gallery is not finished, or it bars the next try.

    Entered once the bundle is there, so that it is this export's own.
    """
    try:
        yield
    except BaseException:
        for place in (built.gallery, built.bundle):
            shutil.rmtree(place, ignore_errors=True)
        raise


def _check_origin(built: Built, origin: LearnedFrom) -> None:
    for checkpoint in (built.vae, built.flow):
        check_note(checkpoint, origin)


def _check_voxels(vae: Path, voxels: int, subject: str) -> None:
    # Imported checkpoints carry no note of whose they are; their size may say it.
    found = read_manifest(vae, "vae").config.vae.voxels
    if found != voxels:
        raise CheckpointError(
            f"{vae}: vae.voxels: expected {voxels} as in the trials of {subject}, "
            f"found {found}. It is another subject's or another mask's"
        )
