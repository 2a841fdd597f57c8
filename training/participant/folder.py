"""Read a simulated or hybrid participant back: paths, events, masks, truth.

Reads what lies in the folder and computes nothing.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import nibabel
import numpy as np
from jaxtyping import Bool, Float64, Int16, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file

from runtime.errors import RecordingError
from runtime.recording_bids import Sidecar
from training.participant.parameters import ParticipantParameters
from training.pictures import read_picture

T = TypeVar("T")


class TruthRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``truth.json`` holds."""

    seed: int
    table_sha256: str
    hrf_dt_s: float
    parameters: ParticipantParameters


@dataclass(frozen=True, slots=True)
class Event:
    """One row of an events table; `image` is the row of `ParticipantFolder.stimuli`."""

    onset_s: float
    duration_s: float
    category: str
    stim_id: str
    image: int
    trial_id: int


@dataclass(frozen=True, slots=True)
class RunFiles:
    """One run's files and events; `split` is train, calibration, test or live."""

    number: int
    split: str
    bold: Path
    tr_s: float
    events: tuple[Event, ...]

    def volumes(self) -> Int16[np.ndarray, "x y z times"]:
        """Read the run's volumes as written."""
        return np.asarray(nibabel.load(self.bold).dataobj)


@dataclass(frozen=True, slots=True)
class Stimulus:
    """One row of ``gallery.tsv``."""

    stim_id: str
    path: Path
    category: str
    role: str
    in_gallery: bool

    def pixels(self) -> UInt8[np.ndarray, "rows columns 3"]:
        """Read the picture, RGB.

        Raises:
            RecordingError: It is missing or damaged.
        """
        return read_picture(self.path)


@dataclass(frozen=True, slots=True)
class ParticipantFolder:
    """A participant on disk.

    Attributes:
        root: The BIDS folder.
        subject: With its prefix, ``sub-sim001``.
        runs: In order of their numbers.
        stimuli: All pictures; row k is image k of the truth.
    """

    root: Path
    subject: str
    runs: tuple[RunFiles, ...]
    stimuli: tuple[Stimulus, ...]

    @property
    def masks(self) -> Path:
        """Folder of ``mask``, ``rois`` and ``head`` volumes and ``rois.tsv``."""
        return self.root / "derivatives" / "masks" / self.subject

    def runs_of(self, split: str) -> list[RunFiles]:
        """Return the runs of a split."""
        return [run for run in self.runs if run.split == split]

    def mask(self) -> Bool[np.ndarray, "x y z"]:
        """Read the decoding mask; voxels are ordered as ``volume[mask]`` orders."""
        return np.asarray(nibabel.load(self.masks / "mask.nii.gz").dataobj) > 0

    def roi_names(self) -> list[str]:
        """Return the region of each decoding voxel."""
        names = {int(r["index"]): r["name"] for r in _table(self.masks / "rois.tsv")}
        labels = np.asarray(nibabel.load(self.masks / "rois.nii.gz").dataobj)
        return [names[int(k)] for k in labels[self.mask()]]

    def gallery(self) -> list[int]:
        """Return the images of the retrieval gallery, in order."""
        return [k for k, s in enumerate(self.stimuli) if s.in_gallery]

    def truth(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """Read the arrays of the truth.

        Raises:
            RecordingError: There is no truth, or it is damaged.
        """
        path = self.root / "derivatives" / "truth" / "truth.safetensors"
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RecordingError(
                f"{path}: expected the truth, found {error}"
            ) from error
        return {name: array.astype(np.float64) for name, array in arrays.items()}

    def truth_record(self) -> TruthRecord:
        """Read ``truth.json``: seed, table and its hash."""
        path = self.root / "derivatives" / "truth" / "truth.json"
        return _json(path, TruthRecord)

    def parameters(self) -> ParticipantParameters:
        """Read the table that the participant was made from."""
        return self.truth_record().parameters


def open_participant(root: Path) -> ParticipantFolder:
    """Open a participant's folder; volumes and truth are read on request.

    Raises:
        RecordingError: The folder is not one complete participant.
    """
    subjects = sorted(path.name for path in root.glob("sub-*") if path.is_dir())
    if len(subjects) != 1:
        raise RecordingError(
            f"{root}: expected one sub-* folder, found {len(subjects)}. "
            "Generate the participant first."
        )
    stimuli = tuple(
        Stimulus(
            stim_id=row["stim_id"],
            path=root / "stimuli" / row["stim_file"],
            category=row["category"],
            role=row["role"],
            in_gallery=row["in_gallery"] == "1",
        )
        for row in _table(root / "stimuli" / "gallery.tsv")
    )
    image_of = {stimulus.stim_id: k for k, stimulus in enumerate(stimuli)}
    bolds = sorted((root / subjects[0] / "func").glob("*_bold.nii.gz"))
    try:
        runs = tuple(_run_files(bold, image_of) for bold in bolds)
    except (KeyError, ValueError, IndexError) as error:
        raise RecordingError(
            f"{root}: expected complete events, found {error!r}"
        ) from error
    return ParticipantFolder(root, subjects[0], runs, stimuli)


def _run_files(bold: Path, image_of: dict[str, int]) -> RunFiles:
    stem = bold.name.removesuffix("_bold.nii.gz")
    rows = _table(bold.with_name(f"{stem}_events.tsv"))
    events = tuple(
        Event(
            onset_s=float(row["onset"]),
            duration_s=float(row["duration"]),
            category=row["trial_type"],
            stim_id=row["stim_id"],
            image=image_of[row["stim_id"]],
            trial_id=int(row["trial_id"]),
        )
        for row in rows
    )
    return RunFiles(
        number=int(stem.rsplit("run-", 1)[1]),
        split=rows[0]["split"],
        bold=bold,
        tr_s=_json(bold.with_name(f"{stem}_bold.json"), Sidecar).tr_s,
        events=events,
    )


def _table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="\t"))
    except OSError as error:
        raise RecordingError(f"{path}: expected a table, found {error}") from error


def _json(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: expected JSON, found {error}") from error
