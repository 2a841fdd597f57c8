"""Recorded runs, as the player, training and tests read them.

Two layouts: a BIDS folder (``sub-*/**/func/*_bold.nii.gz`` with its ``.json`` and
``_events.tsv``, a mask at ``derivatives/masks/**/mask.nii.gz``), and PyMVPA's Haxby
folder (``bold.nii.gz``, ``attributes.txt``, ``mask.nii.gz``); ``.nii`` will do, too.
Reads files only; images are read when asked for, not before. nibabel comes from the
extra `scanner`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import numpy as np

from runtime.errors import RecordingError
from runtime.image_file import (
    one_image,
    open_image,
    read_mask,
    require_same_space,
    shape_of,
)
from runtime.preprocess.mask import VoxelMask
from runtime.recording_bids import bids_files, bids_mask, bids_run
from runtime.recording_images import labels_of
from runtime.recording_run import (
    RecordedEvent,
    RecordedRun,
    text_of,
    timeline,
)

__all__ = [
    "HAXBY_NAMES",
    "HAXBY_TR_S",
    "RecordedEvent",
    "RecordedRun",
    "Recording",
    "open_recording",
    "regions_file",
    "timeline",
]

HAXBY_TR_S: Final = 2.5
"""The repetition time of Haxby et al. (2001); its header agrees."""
HAXBY_NAMES: Final = ("rest", *(f"category-{label}" for label in range(1, 9)))
"""Trial types by label; the folder does not name its categories."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The runs of one participant and the mask that they share."""

    folder: Path
    runs: tuple[RecordedRun, ...]
    mask: VoxelMask
    left_out: str = ""
    """Says which images are not among the runs, and why, and how many volumes of the
    runs are missing; empty where all are there."""

    @property
    def subject(self) -> str:
        """Whose runs they are, as BIDS names the participant: ``sub-01``."""
        return self.runs[0].run_id.split("_")[0]


def open_recording(
    folder: Path,
    runs: Sequence[str] | None = None,
    *,
    subject: str | None = None,
    task: str | None = None,
) -> Recording:
    """Open a folder of recorded runs without reading their images.

    Args:
        folder: In BIDS or in PyMVPA's Haxby layout; which, is seen from its files.
        runs: Identifiers of the runs wanted, in any order; all by default.
        subject: The participant of a BIDS folder, with or without ``sub-``; needed
            where the runs are those of several.
        task: Which task's runs of a BIDS folder; all by default.

    Returns:
        Runs in the order of the recording, of all sessions. A BIDS run is named by its
        file up to ``_bold``, a Haxby run ``run-00`` to ``run-11``.

    Raises:
        RecordingError: A file or run is missing, damaged or contradicts another; or
            there are several participants, and none is named.
        BackendError: nibabel is missing.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder}: expected a folder, found none")
    if _is_haxby(folder):
        _refuse_of_haxby(folder, subject=subject, task=task)
        found = _haxby_runs(folder, runs)
        file, left_out = one_image(folder, "mask"), ""
    else:
        whose, files, left_out = bids_files(folder, runs, subject, task)
        found = [bids_run(folder, file) for file in files]
        file = bids_mask(folder, whose)
    mask, affine = read_mask(file)
    for run in found:
        if run.shape != mask.shape:
            raise RecordingError(
                f"{run.file}: expected volumes of {list(mask.shape)} as in the mask, "
                f"found {list(run.shape)}{_of_one_task(found)}"
            )
        if not _is_haxby(folder):
            require_same_space(run.file, run.affine, run.shape, affine, file)
    masked = tuple(replace(run, mask=mask) for run in found)
    said = "; ".join(line for line in (left_out, _missing_of(found)) if line)
    return Recording(folder, masked, mask, said)


def regions_file(recording: Recording) -> Path:
    """Return where a recording's volume of regions belongs: beside its mask.

    Raises:
        RecordingError: It is there twice.
    """
    folder = recording.folder
    place = folder if _is_haxby(folder) else bids_mask(folder, recording.subject).parent
    return one_image(place, "rois")


def _missing_of(runs: Sequence[RecordedRun]) -> str:
    """Say how many volumes are passed over, in one line; empty where none is."""
    unused = sum(len(run.unused) for run in runs)
    missing = sum(len(run.missing) for run in runs) - unused
    of = sum(run.volume_count for run in runs)
    said = (
        f"{missing} of {of} volumes missing, as MissingVolumes says" * (missing > 0),
        f"{unused} of {of} volumes passed over, as UnusedVolumes says" * (unused > 0),
    )
    return "; ".join(part for part in said if part)


def _of_one_task(runs: Sequence[RecordedRun]) -> str:
    """Return what helps where runs of several tasks are not of one grid."""
    tasks = {labels_of(run.file).get("task") for run in runs}
    if len(tasks) < 2:
        return ""
    return ". Take the runs of one task: by --task where there is that, or by name"


def _is_haxby(folder: Path) -> bool:
    return (folder / "attributes.txt").is_file()


def _refuse_of_haxby(folder: Path, **asked: str | None) -> None:
    for name, found in asked.items():
        if found is not None:
            raise RecordingError(
                f"{folder}: {name}: expected none in a folder with attributes.txt, "
                f"which holds one participant, found {found}"
            )


def _haxby_runs(folder: Path, runs: Sequence[str] | None) -> list[RecordedRun]:
    bold, attributes = one_image(folder, "bold"), folder / "attributes.txt"
    image = open_image(bold, dimensions=4)
    rows = [line.split() for line in text_of(attributes).splitlines() if line.strip()]
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
                shape=shape_of(image),
                affine=np.asarray(image.affine, dtype=np.float64),
                events=_events_from_labels(labels, attributes),
                labels=labels,
                file=bold,
                first_volume=first,
            )
        )
    known = [run.run_id for run in found]
    for run_id in runs or ():
        if run_id not in known:
            raise RecordingError(
                f"{folder}: expected run {run_id}, found {', '.join(known)}"
            )
    return found if runs is None else [run for run in found if run.run_id in runs]


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
