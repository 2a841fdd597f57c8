"""Today's trials whose images are known, from a recorded folder or a server's log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bci_bridge.arrays import arrays_from_bytes
from bci_bridge.messages import Event
from bci_bridge.outcomes import TrialOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.spilt import spilt_of
from bci_bridge.telling import tell
from runtime.arrays import Float32
from runtime.bundle import Bundle, backbone_of
from runtime.calibration import KnownTrials
from runtime.errors import RecordingError, UsageError
from runtime.estimator import BetaEstimator, live_estimator
from runtime.gallery import Gallery
from runtime.preprocess import VoxelMask
from runtime.recording import Recording, open_recording
from runtime.recording_bids import known_subject
from training.features import Progress, trial_betas
from training.stimuli import open_stimuli, table_file

Latent = Float32[np.ndarray, "tokens width"]


@dataclass(frozen=True, slots=True, eq=False)
class Today:
    """What there is to calibrate on."""

    trials: KnownTrials
    runs: tuple[str, ...]
    """Names of the runs, as `KnownTrials.run` counts them."""
    unknown: int
    """Trials that are left out, because nobody says what was shown."""


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """One trial."""

    run: str
    stimulus_id: str
    beta: Float32[np.ndarray, " voxels"]


def read_today(
    recording: Path,
    bundle: Bundle,
    gallery: Gallery,
    runs: Sequence[str],
    on_run: Progress | None = None,
    *,
    pictures: Path | None = None,
) -> Today:
    """Read trials, and estimate them as the bundle's server would have.

    Args:
        recording: A BIDS folder with events, or what `serve --log` wrote with this
            bundle: it holds the betas.
        bundle: Says which voxels, and how a trial is estimated.
        gallery: Knows some images.
        runs: Names of the runs; none: all.
        on_run: Told after each run that is estimated.
        pictures: A folder whose pictures count beside the recording's own.

    Raises:
        BundleError: The bundle eats betas that others estimated.
        UsageError: The bundle decodes volumes, which have no trials.
        RecordingError: No such run, another bundle, volumes of another shape, or no
            trial of a known image.
    """
    estimator = live_estimator(bundle.manifest.estimator)
    if not isinstance(estimator, BetaEstimator):
        raise UsageError(
            "calibrate: expected a bundle that decodes trials, found one for volumes. "
            "It centres every run by itself"
        )
    if (recording / OUTCOMES).is_dir():
        found = _logged(recording, bundle, runs)
    else:
        found = _recorded(recording, bundle, estimator, runs, on_run)
    latents = known_latents((pictures, recording), bundle, gallery)
    return _known(found, latents, recording, bundle)


def _recorded(
    folder: Path,
    bundle: Bundle,
    estimator: BetaEstimator,
    runs: Sequence[str],
    on_run: Progress | None,
) -> list[_Shown]:
    # The runs named may tell whose they are; else the bundle knows.
    subject = None if runs else known_subject(folder, bundle.manifest.subject)
    whole = open_recording(folder, runs or None, subject=subject)
    if whole.left_out:
        tell(f"{folder}: {whole.left_out}")
    mask = VoxelMask.from_volume(bundle.mask)
    reference = bundle.reference()
    for run in whole.runs:
        if reference is None and run.shape != mask.shape:
            raise RecordingError(
                f"{run.run_id}: expected volumes of {mask.shape} as the bundle's, "
                f"found {run.shape}"
            )
    names = [run.run_id for run in whole.runs]
    estimated = trial_betas(
        Recording(folder, whole.runs, mask),
        estimator,
        on_run,
        hrf_index=bundle.hrf_index,
        reference=reference,
    )
    return [
        _Shown(names[run], event.stimulus_id, beta)
        for run, event, beta in zip(
            estimated.run, estimated.events, estimated.betas, strict=True
        )
    ]


def _logged(folder: Path, bundle: Bundle, runs: Sequence[str]) -> list[_Shown]:
    spilt = spilt_of(folder)
    for line in spilt.told():
        tell(line)
    shown: dict[tuple[str, str], str] = {}
    for logged in spilt.read(INPUTS):
        event = logged.envelope.record
        if isinstance(event, Event):
            shown.setdefault((event.run, event.trial_id), event.stimulus_id)
    found: dict[tuple[str, str], _Shown] = {}
    for logged in spilt.read(OUTCOMES):
        outcome = logged.envelope.record
        if not isinstance(outcome, TrialOutcome) or "beta" not in outcome.arrays:
            continue
        if runs and outcome.run not in runs:
            continue
        if outcome.bundle_sha256 != bundle.sha256:
            raise RecordingError(
                f"{folder}: run {outcome.run}: expected betas of bundle "
                f"{bundle.sha256[:12]}, found {outcome.bundle_sha256[:12]}. "
                "Give the bundle that answered, or other --runs"
            )
        beta = arrays_from_bytes(logged.envelope.payload)["beta"]
        key = (outcome.run, outcome.trial_id)
        found.setdefault(key, _Shown(outcome.run, shown.get(key, ""), beta))
    known = {run for run, _ in found}
    if missing := [run for run in runs if run not in known]:
        raise RecordingError(
            f"{folder}: expected answered trials of run {missing[0]}, found "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    return list(found.values())


def require_pictures(folder: Path | None) -> None:
    """Refuse a folder that is given for its pictures and has none.

    Raises:
        UsageError: It has no table of them.
    """
    if folder is not None and not table_file(folder).is_file():
        raise UsageError(
            f"--pictures: expected a folder with stimuli/gallery.tsv, found none in "
            f"{folder}"
        )


def known_latents(
    folders: Iterable[Path | None], bundle: Bundle, gallery: Gallery
) -> dict[str, Latent]:
    """Return z_v of every image that the gallery or some folders' pictures tell.

    Args:
        folders: May hold pictures, which count where the bundle's latents are images;
            a later one counts where several know one. None is no folder.
        bundle: Says what z_v is.
        gallery: Counts before all folders.

    Raises:
        RecordingError: A folder's table or a picture is damaged.
    """
    known: dict[str, Latent] = {}
    backbone = backbone_of(bundle)
    for folder in folders:
        if folder is None or backbone is None or not table_file(folder).exists():
            continue
        stimuli = open_stimuli(folder)
        known |= dict(zip(stimuli.ids, stimuli.latents(backbone), strict=True))
    # The gallery's own where both have one: it is what retrieval compares with.
    return known | dict(zip(gallery.ids, gallery.latents, strict=True))


def _known(
    found: Iterable[_Shown], latents: dict[str, Latent], folder: Path, bundle: Bundle
) -> Today:
    trials = list(found)
    kept = [trial for trial in trials if trial.stimulus_id in latents]
    if not kept:
        remedy = ""
        if backbone_of(bundle) is not None:
            remedy = (
                ". Name the folder of the pictures that were shown (with "
                "stimuli/gallery.tsv) by --pictures"
            )
        raise RecordingError(
            f"{folder}: expected trials of images that the gallery or a folder's "
            f"stimuli hold, found none among {len(trials)} trials{remedy}"
        )
    names = tuple(dict.fromkeys(trial.stimulus_id for trial in kept))
    runs = tuple(dict.fromkeys(trial.run for trial in kept))
    return Today(
        KnownTrials(
            betas=np.stack([trial.beta for trial in kept]),
            image=np.array([names.index(trial.stimulus_id) for trial in kept]),
            run=np.array([runs.index(trial.run) for trial in kept]),
            latents=np.stack([latents[name] for name in names]),
            names=names,
        ),
        runs,
        len(trials) - len(kept),
    )
