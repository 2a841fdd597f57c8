"""Prepares one participant of the Natural Scenes Dataset for training.

From the betas of each session, the mask `nsdgeneral` and the experiment's design; a
session at a time, so that memory does not depend on how many there are. Trials are
grouped by split, each in the order of the experiment, so that a split is one slice.
Image rows are the training pictures by number, then the test pictures.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int64

from runtime.errors import RecordingError
from runtime.estimator import Normalisation
from runtime.image_file import read_mask
from runtime.manifest import Affine, affine_rows
from runtime.preprocess.mask import VoxelMask
from training.data.files import identity
from training.data.manifest import Split, TrialsManifest
from training.data.nsd_betas import (
    read_session,
    require_distinct,
    require_same_grid,
    stored_scale,
)
from training.data.nsd_design import SESSIONS, NsdDesign, read_design
from training.data.nsd_latents import Count, LatentsOf, SharedPictures
from training.data.regions import Regions
from training.data.scoring import session_statistics, z_score
from training.data.writer import TrialsWriter

Variant = Literal["train", "published-leaky"]
Stage = Callable[[str], None]

BETAS: Final = "betas_fithrf_GLMdenoise_RR"
SPACE: Final = "func1pt8mm"
NORMALISATION: Final[dict[Variant, Normalisation]] = {
    "train": "session-train",
    "published-leaky": "session-published-leaky",
}


@dataclass(frozen=True, slots=True, eq=False)
class NsdTrials:
    """Which trials there are and where each goes."""

    folder: Path
    """The dataset's."""
    design: NsdDesign
    sessions: tuple[Path, ...]
    mask: VoxelMask
    mask_file: Path
    affine: Affine
    row: Int64[np.ndarray, " trials"]
    """Where a trial of the experiment stands in the prepared arrays."""
    pictures: Int64[np.ndarray, " images"]
    """`imgBrick` position of each row of the latents."""
    train_images: int
    """How many of the first rows are training pictures."""
    passed_over: tuple[Path, ...] = ()
    """Files of these sessions in another format, which are not read."""

    @property
    def trials(self) -> int:
        """Of all sessions that are there."""
        return len(self.row)

    @property
    def test_pictures(self) -> Int64[np.ndarray, " images"]:
        """`imgBrick` positions of the test's pictures, the last rows of the latents."""
        return self.pictures[self.train_images :]

    @property
    def roi_folder(self) -> Path:
        """Where the dataset's own volumes of regions are."""
        return self.mask_file.parent

    @property
    def is_test(self) -> Bool[np.ndarray, " trials"]:
        """Of the trials that are there."""
        return self.design.is_test[: self.trials]

    def inputs(self, *files: Path) -> dict[str, str]:
        """Return what some files are now, by their names within the dataset.

        The dataset may be typed in several ways, and mounted elsewhere next time.
        """
        return {
            file.relative_to(self.folder).as_posix(): identity(file) for file in files
        }

    def splits(self) -> dict[str, Split]:
        """Return where the splits stand; a split without trials is left out."""
        train = int((~self.is_test).sum())
        found = {"train": Split(first=0, trials=train)}
        if self.trials > train:
            found["test"] = Split(first=train, trials=self.trials - train)
        return found

    def indices(self) -> dict[str, Int64[np.ndarray, " trials"]]:
        """Return picture, session, run and chronological position of every row."""
        chronological = np.argsort(self.row)
        row_of = {int(picture): row for row, picture in enumerate(self.pictures)}
        image = [row_of[int(p)] for p in self.design.picture[chronological]]
        session = chronological // self.design.per_session
        return {
            "image": np.array(image, dtype=np.int64),
            "group": session,
            "run": self.runs()[0][chronological],
            "position": chronological,
        }

    def runs(self) -> tuple[Int64[np.ndarray, " trials"], tuple[str, ...]]:
        """Return the run of every trial in order, and the names of all runs.

        Where the design does not say where runs begin, a session counts as one.
        """
        session = np.arange(self.trials) // self.design.per_session
        run = self.design.run[: self.trials]
        per_session = int(self.design.run.max()) + 1
        if per_session == 0:
            return session, tuple(
                f"session{s + 1:02}" for s in range(len(self.sessions))
            )
        names = tuple(
            f"session{s + 1:02} run{r + 1:02}"
            for s in range(len(self.sessions))
            for r in range(per_session)
        )
        return session * per_session + run, names


def open_nsd(folder: Path, subject: int) -> NsdTrials:
    """Find a participant's files and lay out the trials; reads no betas.

    Raises:
        RecordingError: A file is missing or damaged, two sessions are the
            same, or no trial is for training.
        BackendError: nibabel is missing.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder}: expected the dataset's folder, found none")
    name = f"subj{subject:02}"
    design = read_design(
        folder / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat", subject
    )
    sessions, passed_over = _sessions(
        folder / "nsddata_betas" / "ppdata" / name / SPACE / BETAS
    )
    roi = folder / "nsddata" / "ppdata" / name / SPACE / "roi" / "nsdgeneral.nii.gz"
    trials = len(sessions) * design.per_session
    is_test = design.is_test[:trials]
    if is_test.all():
        raise RecordingError(
            f"{design.file}: masterordering: expected training trials, found none"
        )
    # A stable sort keeps the order of the experiment within each split.
    row = np.empty(trials, dtype=np.int64)
    row[np.argsort(is_test, kind="stable")] = np.arange(trials)
    shown = design.picture[:trials]
    train = np.unique(shown[~is_test])
    test = np.unique(shown[is_test])
    if both := np.intersect1d(train, test).tolist():
        raise RecordingError(
            f"{design.file}: subjectim: expected test pictures that no training trial "
            f"shows, found picture {both[0] + 1} in both"
        )
    pictures = np.concatenate([train, test])
    require_distinct(sessions)
    mask, affine = read_mask(roi)
    require_same_grid(sessions[0], mask, roi, affine)
    return NsdTrials(
        folder,
        design,
        sessions,
        mask,
        roi,
        affine_rows(affine),
        row,
        pictures,
        train_images=len(train),
        passed_over=passed_over,
    )


def _sessions(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the file of each session, HDF5 before NIfTI, and those passed over."""
    found: list[Path] = []
    passed_over: list[Path] = []
    for session in range(1, SESSIONS + 1):
        stem = folder / f"betas_session{session:02}"
        files = [Path(f"{stem}{end}") for end in (".hdf5", ".nii.gz", ".nii")]
        present = [file for file in files if file.is_file()]
        if not present:
            break
        # The dataset is published in both formats: a whole download holds both.
        passed_over += present[1:]
        found.append(present[0])
    later = sorted(folder.glob("betas_session*"))
    named = {file.name.partition(".")[0] for file in found}
    strays = [file.name for file in later if file.name.partition(".")[0] not in named]
    if not found or strays:
        raise RecordingError(
            f"{folder}: expected betas_session{len(found) + 1:02}.nii.gz or .hdf5, "
            f"found {strays[0] if strays else 'none'}"
        )
    return tuple(found), tuple(passed_over)


def prepare_nsd(
    trials: NsdTrials,
    subject: int,
    out: Path,
    variant: Variant,
    latents: LatentsOf,
    *,
    regions: Regions | None = None,
    kept: SharedPictures | None = None,
    labels: tuple[str, ...] = (),
    announce: Stage = lambda _line: None,
    count: Count = lambda _done, _all: None,
) -> TrialsManifest:
    """Write a participant's trials, or go on with what was begun.

    Args:
        trials: What `open_nsd` found.
        subject: From 1.
        out: The folder to write.
        variant: Whose trials the statistics of a session see.
        latents: Where z_v comes from.
        regions: Which voxels belong to which; see `read_regions`.
        kept: Where the test's pictures are, which are then kept.
        labels: Category of each of the pictures, where they are known.
        announce: Told what begins.
        count: Told how far it is.

    Raises:
        RecordingError: Betas or pictures are missing, damaged or contradict the design.
        ArtifactError: `out` holds something else, or the disk is too small.
    """
    manifest = TrialsManifest(
        source="nsd",
        subject=f"subj{subject:02}",
        voxels=trials.mask.voxels,
        mask_sha256=trials.mask.sha256,
        affine=trials.affine,
        betas="nsd",
        betas_detail=f"{BETAS}, {SPACE}",
        normalisation=NORMALISATION[variant],
        groups=tuple(f"session{s + 1:02}" for s in range(len(trials.sessions))),
        runs=trials.runs()[1],
        splits=trials.splits(),
        image_ids=tuple(f"nsd-{picture:05}" for picture in trials.pictures),
        labels=labels,
        visual=latents.source,
        regions=tuple(regions or ()),
        test_images=0 if kept is None else len(trials.test_pictures),
        files={},
    )
    images = len(trials.pictures)
    shape = (images, *latents.shape)
    more = {} if kept is None else {"test_pictures": kept.array(trials.test_pictures)}
    sessions = trials.inputs(*trials.sessions)
    inputs = trials.inputs(trials.design.file, trials.mask_file) | latents.inputs
    for name, region in (regions or {}).items():
        inputs[f"region {name}"] = hashlib.sha256(region.tobytes()).hexdigest()
    writer = TrialsWriter(
        out,
        manifest,
        trials.trials,
        shape,
        latents.dtype,
        more,
        inputs | sessions,
        later=sessions,
    )
    announce(f"voxels of {len(trials.sessions)} sessions, {manifest.normalisation}")
    for session in range(writer.blocks_done, len(trials.sessions)):
        _write_session(writer, trials, session, variant)
        count(session + 1, len(trials.sessions))
    announce(f"z_v of {images} pictures by {latents.source.name}")
    latents.write(writer, trials.pictures, count)
    if kept is not None:
        announce(f"{len(trials.test_pictures)} pictures of the test")
        kept.write(writer, trials.test_pictures, count)
    announce("hash what was written")
    return writer.finish(
        trials.indices(),
        np.arange(trials.train_images),
        {
            "mask": trials.mask.volume(),
            "regions": np.stack(list(regions.values())) if regions else None,
        },
        count,
    )


def _write_session(
    writer: TrialsWriter, trials: NsdTrials, session: int, variant: Variant
) -> None:
    design, file = trials.design, trials.sessions[session]
    # Before it is read: what changes meanwhile is another file.
    writer.reads(trials.inputs(file))
    betas = read_session(file, trials.mask, trials.mask_file, design.per_session)
    there = design.of(session)
    fitted = ~design.is_test[there]
    if variant == "published-leaky":
        fitted = np.ones_like(fitted)
    scale = stored_scale(betas)
    mean, std = session_statistics(betas, fitted, scale)
    writer.write_statistics(session, mean, std)
    scored = z_score(betas, mean, std, scale)
    writer.write_voxels(trials.row[there], scored, session)
