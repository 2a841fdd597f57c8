"""Recorded runs, as the player, training and tests read them.

Two layouts: a BIDS folder (``sub-*/**/func/*_bold.nii.gz`` with its ``.json`` and
``_events.tsv``, a mask at ``derivatives/masks/**/mask.nii.gz``), and PyMVPA's Haxby
folder (``bold.nii.gz``, ``attributes.txt``, ``mask.nii.gz``). Reads files only; images
are read when asked for, not before. nibabel comes from the extra `scanner`.
"""

import csv
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np

from runtime.arrays import Float64, Int16
from runtime.confounds import confounds_from_table
from runtime.errors import BackendError, RecordingError
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.timing import end_s

HAXBY_TR_S: Final = 2.5
"""The repetition time of Haxby et al. (2001); its header agrees."""
HAXBY_NAMES: Final = ("rest", *(f"category-{label}" for label in range(1, 9)))
"""Trial types by label; the folder does not name its categories."""


@final
@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One stimulus of a run."""

    onset_s: float
    """After the start of acquisition of volume 0."""
    duration_s: float
    trial_id: str
    """Unique in its run."""
    stimulus_id: str
    """What was shown; empty where the recording does not say."""
    trial_type: str
    split: str
    """Such as "train" or "test"; empty where the recording does not say."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class RecordedRun:
    """One run; its images stay in the file until `volumes` is called."""

    run_id: str
    tr_s: float
    shape: tuple[int, int, int]
    """Voxels along x, y and z."""
    affine: Float64[np.ndarray, "4 4"] = field(repr=False)
    """Voxel indices to millimetres."""
    events: tuple[RecordedEvent, ...] = field(repr=False)
    labels: tuple[int | None, ...] = field(repr=False)
    """Category of each volume, lag included; None where nothing is labelled."""
    file: Path
    first_volume: int = 0
    """Where the run starts in the file."""
    slice_times_s: tuple[float, ...] = ()
    """When each slice along z is acquired, after the start of its volume; empty where
    the recording does not say."""

    @property
    def volume_count(self) -> int:
        """Number of volumes."""
        return len(self.labels)

    def volumes(self) -> Int16[np.ndarray, "times x y z"]:
        """Read the run's images, rounded to int16 where the file scales them.

        Raises:
            RecordingError: The file is torn, or holds values outside int16.
            BackendError: nibabel is missing.
        """
        image = _open_image(self.file, dimensions=4)
        last = self.first_volume + self.volume_count
        try:
            data = np.asarray(image.dataobj[..., self.first_volume : last])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise RecordingError(
                f"{self.file}: expected {last} whole volumes, found a torn or damaged "
                f"file ({error}). Copy it again"
            ) from error
        data = np.moveaxis(data, -1, 0)
        if data.dtype != np.int16:
            limits = np.iinfo(np.int16)
            if not (np.isfinite(data).all() and data.min() >= limits.min):
                raise _range_error(self.file)
            if data.max() > limits.max:
                raise _range_error(self.file)
            data = np.rint(data)
        return np.ascontiguousarray(data, dtype=np.int16)

    def confounds(self, names: Sequence[str]) -> tuple[dict[str, float], ...]:
        """Read the named confounds of every volume.

        They are columns of ``_desc-confounds_timeseries.tsv`` beside the run, a line a
        volume, as fMRIPrep writes them.

        Raises:
            RecordingError: The file or a column is missing, or holds no number.
        """
        if not names:
            return ({},) * self.volume_count
        stem = self.file.name.removesuffix("_bold.nii.gz")
        file = self.file.with_name(f"{stem}_desc-confounds_timeseries.tsv")
        return confounds_from_table(_text(file), names, self.volume_count, file)

    def __iter__(self) -> Iterator[Int16[np.ndarray, "x y z"]]:
        return iter(self.volumes())


@final
@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The runs of one participant and the mask that they share."""

    folder: Path
    runs: tuple[RecordedRun, ...]
    mask: VoxelMask


def open_recording(folder: Path, runs: Sequence[str] | None = None) -> Recording:
    """Open a folder of recorded runs without reading their images.

    Args:
        folder: In BIDS or in PyMVPA's Haxby layout; which, is seen from its files.
        runs: Identifiers of the runs wanted, in any order; all by default.

    Returns:
        Runs in the order of the recording. A BIDS run is named by its file up to
        ``_bold``, a Haxby run ``run-00`` to ``run-11``.

    Raises:
        RecordingError: A file or run is missing, damaged or contradicts another.
        BackendError: nibabel is missing.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder}: expected a folder, found none")
    is_haxby = (folder / "attributes.txt").is_file()
    found = _haxby_runs(folder) if is_haxby else _bids_runs(folder)
    mask = _read_mask(_mask_file(folder, is_haxby=is_haxby))
    known = [run.run_id for run in found]
    for run_id in runs or ():
        if run_id not in known:
            raise RecordingError(
                f"{folder}: expected run {run_id}, found {', '.join(known)}"
            )
    if runs is not None:
        found = [run for run in found if run.run_id in runs]
    for run in found:
        if run.shape != mask.shape:
            raise RecordingError(
                f"{run.file}: expected volumes of {list(mask.shape)} as in the mask, "
                f"found {list(run.shape)}"
            )
    return Recording(folder, tuple(found), mask)


def _haxby_runs(folder: Path) -> list[RecordedRun]:
    bold, attributes = folder / "bold.nii.gz", folder / "attributes.txt"
    image = _open_image(bold, dimensions=4)
    rows = [line.split() for line in _text(attributes).splitlines() if line.strip()]
    try:
        pairs = [(int(label), int(run)) for label, run in rows]
    except ValueError as error:
        raise RecordingError(
            f"{attributes}: expected a label and a run a line, found {error}"
        ) from error
    if len(pairs) != image.shape[3]:
        raise RecordingError(
            f"{attributes}: expected {image.shape[3]} lines, one a volume, "
            f"found {len(pairs)}"
        )
    starts = [i for i, p in enumerate(pairs) if i == 0 or pairs[i - 1][1] != p[1]]
    found = []
    for first, last in zip(starts, [*starts[1:], len(pairs)], strict=True):
        labels = tuple(label for label, _ in pairs[first:last])
        found.append(
            RecordedRun(
                run_id=f"run-{pairs[first][1]:02}",
                tr_s=HAXBY_TR_S,
                shape=_shape(image),
                affine=np.asarray(image.affine, dtype=np.float64),
                events=_events_from_labels(labels, attributes),
                labels=labels,
                file=bold,
                first_volume=first,
            )
        )
    return found


def _events_from_labels(
    labels: tuple[int, ...], file: Path
) -> tuple[RecordedEvent, ...]:
    """Turn blocks of equal labels into events at the labels' (lagged) times."""
    starts = [i for i, x in enumerate(labels) if i == 0 or labels[i - 1] != x]
    events: list[RecordedEvent] = []
    for first, last in zip(starts, [*starts[1:], len(labels)], strict=True):
        label = labels[first]
        if not 0 <= label < len(HAXBY_NAMES):
            raise RecordingError(f"{file}: expected labels 0 to 8, found {label}")
        if label > 0:
            events.append(
                RecordedEvent(
                    onset_s=first * HAXBY_TR_S,
                    duration_s=(last - first) * HAXBY_TR_S,
                    trial_id=f"trial-{len(events):03}",
                    stimulus_id=HAXBY_NAMES[label],
                    trial_type=HAXBY_NAMES[label],
                    split="",
                )
            )
    return tuple(events)


class Sidecar(msgspec.Struct, frozen=True):
    """What is read of a run's `_bold.json`; it holds much more."""

    tr_s: float = msgspec.field(name="RepetitionTime")
    slice_times_s: tuple[float, ...] = msgspec.field(name="SliceTiming", default=())
    slice_direction: str = msgspec.field(name="SliceEncodingDirection", default="k")

    def along_z(self) -> tuple[float, ...]:
        """Return the slices' times along z; none where slices lie along another axis.

        BIDS lists them from the last slice where the direction is ``k-``.
        """
        if self.slice_direction == "k-":
            return self.slice_times_s[::-1]
        return self.slice_times_s if self.slice_direction == "k" else ()


def _bids_runs(folder: Path) -> list[RecordedRun]:
    files = sorted(folder.glob("sub-*/**/func/*_bold.nii.gz"))
    if not files:
        raise RecordingError(
            f"{folder}: expected sub-*/func/*_bold.nii.gz or attributes.txt, "
            "found no runs"
        )
    return [_bids_run(file) for file in files]


def _bids_run(file: Path) -> RecordedRun:
    stem = file.name.removesuffix("_bold.nii.gz")
    image = _open_image(file, dimensions=4)
    sidecar = file.with_name(f"{stem}_bold.json")
    try:
        said = msgspec.json.decode(_text(sidecar), type=Sidecar)
        tr_s = said.tr_s
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordingError(
            f"{sidecar}: expected a JSON object with RepetitionTime in seconds, "
            f"found: {error}"
        ) from error
    if not (math.isfinite(tr_s) and tr_s > 0):
        raise RecordingError(
            f"{sidecar}: expected a positive RepetitionTime, found {tr_s}"
        )
    return RecordedRun(
        run_id=stem,
        tr_s=tr_s,
        shape=_shape(image),
        affine=np.asarray(image.affine, dtype=np.float64),
        events=_bids_events(file.with_name(f"{stem}_events.tsv")),
        labels=(None,) * int(image.shape[3]),
        file=file,
        slice_times_s=said.along_z(),
    )


def _bids_events(file: Path) -> tuple[RecordedEvent, ...]:
    rows = list(csv.DictReader(_text(file).splitlines(), delimiter="\t"))
    events: list[RecordedEvent] = []
    for number, row in enumerate(rows):
        try:
            onset_s, duration_s = float(row["onset"]), float(row["duration"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordingError(
                f"{file}: expected onset and duration in line {number + 2}, "
                f"found {error!r}"
            ) from error
        # BIDS writes n/a for what is unknown.
        row = {k: "" if v in (None, "n/a") else v for k, v in row.items()}
        events.append(
            RecordedEvent(
                onset_s=onset_s,
                duration_s=duration_s,
                trial_id=row.get("trial_id") or f"trial-{number:03}",
                stimulus_id=row.get("stim_id") or row.get("stim_file") or "",
                trial_type=row.get("trial_type") or "",
                split=row.get("split") or "",
            )
        )
    names = [event.trial_id for event in events]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordingError(
            f"{file}: expected each trial_id once, found {twice} twice"
        )
    return tuple(events)


def _mask_file(folder: Path, *, is_haxby: bool) -> Path:
    if is_haxby:
        return folder / "mask.nii.gz"
    files = sorted((folder / "derivatives" / "masks").glob("**/mask.nii.gz"))
    if len(files) != 1:
        raise RecordingError(
            f"{folder}: expected one derivatives/masks/**/mask.nii.gz, "
            f"found {len(files)}"
        )
    return files[0]


def _read_mask(file: Path) -> VoxelMask:
    image = _open_image(file, dimensions=3)
    try:
        volume = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RecordingError(
            f"{file}: expected a whole mask, found a torn or damaged file ({error}). "
            "Copy it again"
        ) from error
    if not (volume > 0).any():
        raise RecordingError(f"{file}: expected at least one voxel above 0, found none")
    return VoxelMask.from_volume(volume.reshape(_shape(image)) > 0)


def _open_image(file: Path, dimensions: int) -> Any:
    """Open an image's header; nibabel has no types."""
    try:
        import nibabel as nib
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise BackendError(
            "nibabel: expected the extra scanner, found it missing. "
            "Install neuroflow-rt[scanner]"
        ) from error
    if not file.is_file():
        raise RecordingError(f"{file}: expected a file, found none")
    try:
        image = nib.load(file)
    except (ImageFileError, OSError, EOFError, zlib.error) as error:
        raise RecordingError(
            f"{file}: expected a NIfTI image, found a torn or damaged file ({error}). "
            "Copy it again"
        ) from error
    if len(image.shape) != dimensions:
        raise RecordingError(
            f"{file}: expected {dimensions} dimensions, found {list(image.shape)}"
        )
    return image


def _shape(image: Any) -> tuple[int, int, int]:
    x, y, z = (int(size) for size in image.shape[:3])
    return x, y, z


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecordingError(f"{file}: expected a file, found none") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{file}: expected UTF-8 text, found {error}") from error


def _range_error(file: Path) -> RecordingError:
    return RecordingError(
        f"{file}: expected values within int16, found others. Rescale the recording"
    )


def timeline(run: RecordedRun) -> Iterator[RecordedEvent | int]:
    """Return the run's events and volume indices in the order a server gets them.

    A volume exists when its acquisition has ended; an event comes at its onset, and
    before a volume that ends at the same instant.
    """
    events = sorted(run.events, key=lambda event: event.onset_s)
    position = 0
    for index in range(run.volume_count):
        end = end_s(index, run.tr_s)
        while position < len(events) and events[position].onset_s <= end:
            yield events[position]
            position += 1
        yield index
