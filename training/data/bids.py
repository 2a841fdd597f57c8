"""Prepares any BIDS folder with events, a mask and pictures for training.

Betas come from this system's estimator, volume by volume at its decision delay, as a
server would have them; or, for comparison, from least squares over whole runs
(`offline.py`). Scaling is fitted on the training trials of all runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64, Shaped

from runtime.errors import ConfigError, RecordingError
from runtime.estimator import BetaEstimator
from runtime.manifest import affine_rows
from runtime.picture_names import picture_file
from runtime.preprocess.normalise import AffineNormaliser
from runtime.recording import RecordedEvent, RecordedRun, Recording, open_recording
from training.data.bids_splits import (
    check_splits,
    mostly_outside,
    shared_pictures,
    split_of_event,
    split_sizes,
    without_beta,
)
from training.data.manifest import Betas, Split, TrialsManifest
from training.data.noted_pictures import noted_pictures
from training.data.offline import offline_betas, offline_detail, require_plain
from training.data.regions import Regions
from training.data.writer import TrialsWriter, require_place, require_room
from training.features import TrialBetas, reference_of, trial_betas
from training.pictures import read_picture
from training.responses import choose_responses
from training.shown import ShownPictures, shown_pictures
from training.stimuli import read_table, table_file
from training.visual.backbone import VisualBackbone, compute_latents, copy_latents
from training.visual.stored import StoredLatents

Count = Callable[[int, int], None]
Stage = Callable[[str], None]

STIMULI_LIMIT_BYTES: Final = 2**28
"""Pictures of one size are kept beside the trials where they are smaller than this."""


@dataclass(frozen=True, slots=True, eq=False)
class BidsTrials:
    """A recording whose trials all have a picture and a split."""

    shown: ShownPictures
    """The recording, and which of its events are no trials."""
    pictures: dict[str, Path]
    """File of every stimulus, and of those that may be answered with."""
    test_runs: frozenset[str]
    labels: dict[str, str]
    """Category by stimulus; empty where the folder has no ``gallery.tsv``."""
    gallery: tuple[str, ...]
    """What retrieval may answer with, in the order of ``gallery.tsv``."""

    @property
    def recording(self) -> Recording:
        """The runs with their trials."""
        return self.shown.recording

    def split(self, event: RecordedEvent, run_id: str) -> str:
        """Return a trial's split; one that the recording does not name is to train."""
        return split_of_event(event, run_id, self.test_runs)

    def shared(self) -> list[str]:
        """Return the pictures of the test that training trials show, too."""
        return shared_pictures(
            (event, self.split(event, run.run_id))
            for run in self.recording.runs
            for event in run.events
        )

    def runs_of(self, *splits: str) -> list[RecordedRun]:
        """Return the runs that hold a trial of one of some splits.

        Raises:
            RecordingError: There is none.
        """
        found = [
            run
            for run in self.recording.runs
            if any(self.split(event, run.run_id) in splits for event in run.events)
        ]
        if not found:
            raise RecordingError(
                f"{self.recording.folder}: split: expected trials of "
                f"{' or '.join(splits)}, found none"
            )
        return found


def open_bids(
    folder: Path,
    test_runs: Sequence[str] = (),
    *,
    subject: str | None = None,
    task: str | None = None,
    trial_types: Sequence[str] = (),
    allow_shared: bool = False,
) -> BidsTrials:
    """Open a BIDS folder and see that every trial shows a picture that is there.

    Args:
        folder: With ``*_bold.nii.gz``, their ``_events.tsv`` with `stim_id` or
            `stim_file`, one mask under ``derivatives/masks`` and ``stimuli/``. Events
            that name no picture are no trials, and are counted.
        test_runs: Runs whose trials are the test, whatever their events say.
        subject: Whose runs, where the folder has several participants.
        task: Which task's runs; all by default.
        trial_types: Which events count, by their `trial_type`; all by default.
        allow_shared: Whether a picture may be in training and in the test.

    Raises:
        RecordingError: A file, a run or a trial's stimulus is missing or damaged, a
            split is none of `SPLITS`, a picture is in training and in the test, or
            there are several participants and none is named.
        BackendError: nibabel is missing.
    """
    whole = open_recording(folder, subject=subject, task=task)
    shown = shown_pictures(whole, trial_types)
    recording = shown.recording
    known = {run.run_id for run in recording.runs}
    for run_id in test_runs:
        if run_id not in known:
            raise RecordingError(
                f"{folder}: runs: expected {run_id}, found {', '.join(sorted(known))}"
            )
    check_splits(folder, recording.runs, test_runs)
    pictures: dict[str, Path] = {}
    for run in recording.runs:
        for event in run.events:
            if event.stimulus_id not in pictures:
                pictures[event.stimulus_id] = _picture_file(folder, event.stimulus_id)
    labels: dict[str, str] = {}
    gallery: tuple[str, ...] = ()
    if table_file(folder).exists():
        table = read_table(folder)
        labels = dict(zip(table.ids, table.labels, strict=True))
        gallery = tuple(compress(table.ids, table.in_gallery))
    pictures |= {name: _picture_file(folder, name) for name in gallery}
    trials = BidsTrials(shown, pictures, frozenset(test_runs), labels, gallery)
    if (shared := trials.shared()) and not allow_shared:
        raise RecordingError(
            f"{folder}: split: expected test pictures that no training trial shows, "
            f"found {len(shared)} in both, such as {shared[0]}. Choose other runs for "
            "the test, or say --allow-shared-pictures if that is the design"
        )
    return trials


def _picture_file(folder: Path, name: str) -> Path:
    stimuli = folder / "stimuli"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RecordingError(
            f"{stimuli}: stim_file or stim_id: expected a file of this folder, "
            f"found {name}"
        )
    file = picture_file(stimuli, name)
    if file is None:
        raise RecordingError(
            f"{stimuli / name}: expected a picture, by stim_file or stim_id, found no "
            "file"
        )
    return file


def prepare_bids(
    trials: BidsTrials,
    out: Path,
    backbone: VisualBackbone | StoredLatents,
    estimator: BetaEstimator,
    betas: Betas = "causal",
    *,
    regions: Regions | None = None,
    announce: Stage = lambda _line: None,
    say: Stage = lambda _line: None,
    count: Count = lambda _done, _all: None,
) -> TrialsManifest:
    """Write a participant's trials.

    Betas of all trials are in memory at once. Trials that a server could not have
    estimated (the run ended before their delay) are left out, of offline betas too.

    Args:
        trials: What `open_bids` found.
        out: The folder to write; what was interrupted goes on from there.
        backbone: What computes z_v, or has it.
        estimator: Of causal betas; offline ones take its drift cutoff, and its delay
            for which trials there are.
        betas: ``causal`` or ``offline``.
        regions: Which voxels belong to which; see `read_regions`.
        announce: Told what begins.
        say: Told what was left out, and how many trials each split has.
        count: Told how far it is.

    Raises:
        RecordingError: A run or picture is damaged, or no trial is to train on.
        ConfigError: The estimator whitens, which a folder of trials cannot undo, or
            has an option that offline betas do not have.
        ScanError: A run does not show the reference volume.
        BackendError: Offline betas without nilearn.
    """
    if estimator.noise_shrinkage is not None:
        raise ConfigError(
            "estimator.noise_shrinkage: expected null, because prepared trials can "
            f"undo a scale only, found {estimator.noise_shrinkage}"
        )
    if betas == "offline":
        require_plain(estimator)
    _require_before_work(trials, out, backbone)
    recording = trials.recording
    announce(f"{betas} betas of {len(recording.runs)} runs")
    reference = hrf_index = None
    if betas == "causal":
        # As `open_dataset` does, so that both ways to train give the same bundle.
        first = trials.runs_of("train", "calibration")[0]
        reference = reference_of(first, estimator)
        hrf_index = choose_responses(
            trials.runs_of("train"), recording.mask, estimator, reference
        )
        found = trial_betas(
            recording, estimator, count, hrf_index=hrf_index, reference=reference
        )
        detail = "least squares separate, volume by volume"
    else:
        found = offline_betas(recording, estimator, count)
        detail = offline_detail(estimator)
    placed = list(zip(found.run.tolist(), found.events, strict=True))
    if left_out := without_beta(recording.runs, placed):
        say(left_out)
    say(split_sizes(trials.split(e, recording.runs[run].run_id) for run, e in placed))
    layout = _Layout.of(trials, found)
    run = recording.runs[0]
    manifest = TrialsManifest(
        source="bids",
        subject=recording.subject,
        voxels=recording.mask.voxels,
        mask_sha256=recording.mask.sha256,
        affine=affine_rows(run.affine),
        betas=betas,
        betas_detail=detail,
        estimator=estimator if betas == "causal" else None,
        normalisation="pooled-train",
        groups=("all",),
        runs=tuple(run.run_id for run in recording.runs),
        splits=layout.splits,
        image_ids=layout.images,
        labels=tuple(trials.labels.get(name, "") for name in layout.images)
        if trials.labels
        else (),
        gallery=trials.gallery,
        regions=tuple(regions or ()),
        visual=backbone.source,
        files={},
    )
    images = len(layout.images)
    dtype = backbone.dtype if isinstance(backbone, StoredLatents) else "float32"
    writer = TrialsWriter(
        out,
        manifest,
        len(found),
        (images, *backbone.shape),
        dtype,
    )
    affine = AffineNormaliser.fit(found.betas[layout.rows[: layout.train]])
    writer.write_statistics(0, affine.mean, affine.scale)
    ordered = affine.normalise(found.betas[layout.rows])
    writer.write_voxels(np.arange(len(found)), ordered, 0)
    announce(f"z_v of {images} pictures by {backbone.source.name}")
    files = [trials.pictures[name] for name in layout.images]
    sizes = {read_picture(file).shape for file in files}
    if isinstance(backbone, StoredLatents):
        stored = backbone
        copy_latents(
            writer, lambda rows: stored.rows(layout.images[rows]), images, count
        )
    else:
        # Pictures of several sizes cannot stand in one array.
        batch = 32 if len(sizes) == 1 else 1

        def read(rows: slice) -> Shaped[np.ndarray, "images height width 3"]:
            return np.stack([read_picture(file) for file in files[rows]])

        compute_latents(
            writer,
            backbone,
            noted_pictures(writer, "stimuli", read, batch),
            images,
            batch=batch,
            on_image=count,
        )
    stimuli = None
    if len(sizes) == 1 and images * int(np.prod(next(iter(sizes)))) <= (
        STIMULI_LIMIT_BYTES
    ):
        stimuli = np.stack([read_picture(file) for file in files])
    announce("hash what was written")
    return writer.finish(
        layout.indices(found),
        np.arange(layout.train_images),
        {
            "stimuli": stimuli,
            "mask": recording.mask.volume(),
            "reference": None if reference is None else reference.volume,
            "hrf_index": hrf_index,
            "regions": np.stack(list(regions.values())) if regions else None,
        },
        count,
    )


def _require_before_work(
    trials: BidsTrials, out: Path, backbone: VisualBackbone | StoredLatents
) -> None:
    """Refuse what would be refused once hours of betas are there.

    Raises:
        ArtifactError: No folder to write into, or no room for the largest arrays.
        RecordingError: Stored latents hold a value that is not finite.
    """
    recording = trials.recording
    if not require_place(out):
        events = sum(len(run.events) for run in recording.runs)
        z_v = len(trials.pictures) * int(np.prod(backbone.shape))
        require_room(out, 4 * (events * recording.mask.voxels + z_v))
    if isinstance(backbone, StoredLatents):
        backbone.require_finite()


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Where every trial and picture goes: splits stand together, training first."""

    rows: Int64[np.ndarray, " trials"]
    """Position among the estimated trials of each row of the folder."""
    splits: dict[str, Split]
    images: tuple[str, ...]
    train_images: int

    @property
    def train(self) -> int:
        """How many trials are for training."""
        return self.splits["train"].trials

    @classmethod
    def of(cls, trials: BidsTrials, found: TrialBetas) -> "_Layout":
        runs = trials.recording.runs
        names = [
            trials.split(event, runs[run].run_id)
            for event, run in zip(found.events, found.run, strict=True)
        ]
        if names.count("train") < 2:
            outside = mostly_outside(runs)
            raise RecordingError(
                f"{trials.recording.folder}: split: expected at least 2 trials of "
                f"train, found {names.count('train')}{outside and f', and {outside}'}"
            )
        order = ["train", *sorted(set(names) - {"train"})]
        rows = [i for split in order for i, name in enumerate(names) if name == split]
        splits, first = {}, 0
        for name in order:
            splits[name] = Split(first=first, trials=names.count(name))
            first += names.count(name)
        # Of a dictionary the keys keep the order in which they came.
        shown = dict.fromkeys(found.events[i].stimulus_id for i in rows)
        shown |= dict.fromkeys(trials.gallery)
        train = {found.events[i].stimulus_id for i in rows[: names.count("train")]}
        return cls(np.array(rows, dtype=np.int64), splits, tuple(shown), len(train))

    def indices(self, found: TrialBetas) -> dict[str, Int64[np.ndarray, " trials"]]:
        row_of = {name: row for row, name in enumerate(self.images)}
        image = [row_of[found.events[i].stimulus_id] for i in self.rows]
        return {
            "image": np.array(image, dtype=np.int64),
            "group": np.zeros(len(self.rows), dtype=np.int64),
            "run": found.run[self.rows],
            "position": self.rows,
        }
