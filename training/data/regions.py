"""Regions of cortex, voxel by voxel, from volumes of labels.

Such a volume holds a whole number a voxel: 0 and below for no region, else a label. A
voxel may be in regions of several volumes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from runtime.errors import RecordingError, UsageError
from runtime.image_file import image_stem, read_volume, require_same_space
from runtime.preprocess.mask import VoxelMask
from runtime.recording import Recording, regions_file

Regions = dict[str, Bool[np.ndarray, " voxels"]]


@dataclass(frozen=True, slots=True)
class LabelVolume:
    """A file of labels and what they mean."""

    file: Path
    name: str
    """Of labels without a name."""
    names: Mapping[int, str] = field(default_factory=dict)
    """By label; where there are none, ``FILE.tsv`` beside the image may say them
    (columns `index` and `name`)."""


def recorded_volumes(recording: Recording) -> dict[str, LabelVolume]:
    """Return a recording's own volume: ``rois`` beside the mask, if it is there.

    Raises:
        RecordingError: It is there twice.
    """
    file = regions_file(recording)
    return {"rois": LabelVolume(file, "rois")} if file.is_file() else {}


def chosen_volumes(
    wanted: Sequence[str], own: Mapping[str, LabelVolume]
) -> list[LabelVolume]:
    """Return the volumes that a user asked for; all of a dataset's own by default.

    Args:
        wanted: NAME of one of its own or NAME=FILE.
        own: Those that the dataset can have; their files may be missing.

    Raises:
        UsageError: No such volume, or a name without file that is not the dataset's.
    """
    if not wanted:
        return [volume for volume in own.values() if volume.file.is_file()]
    found = []
    for text in wanted:
        name, is_file, given = text.partition("=")
        volume = LabelVolume(Path(given), name) if is_file else own.get(name)
        if not name or volume is None or not volume.file.is_file():
            of_its_own = f", or one of {', '.join(own)} of the dataset" if own else ""
            missing = f" ({volume.file} is no file)" if volume is not None else ""
            raise UsageError(
                f"--roi: expected NAME=FILE{of_its_own}, found {text}{missing}"
            )
        found.append(volume)
    return found


def read_regions(
    volumes: Iterable[LabelVolume], mask: VoxelMask, recording: Recording | None = None
) -> Regions:
    """Read which voxels of a mask belong to which region.

    Args:
        volumes: Of labels.
        mask: Whose voxels.
        recording: Whose space they must be in; None asks for the same shape alone,
            because a dataset's own volumes may differ in their headers.

    Returns:
        By name, in the order of volumes and labels; regions without a voxel in the mask
        are left out.

    Raises:
        RecordingError: A volume is damaged, of another shape or in another space, or a
            name stands twice.
        BackendError: nibabel is missing.
    """
    found: Regions = {}
    for volume in volumes:
        one = _named(volume, _labels(volume.file, mask, recording))
        if twice := sorted(one.keys() & found.keys()):
            raise RecordingError(
                f"{volume.file}: regions: expected every name once, found {twice[0]} "
                "in another volume too"
            )
        found |= one
    return found


def _labels(
    file: Path, mask: VoxelMask, recording: Recording | None
) -> Int64[np.ndarray, " voxels"]:
    volume, affine = read_volume(file)
    if volume.shape != mask.shape:
        raise RecordingError(
            f"{file}: shape: expected {list(mask.shape)} as the mask's, found "
            f"{list(volume.shape)}"
        )
    if recording is not None:
        # Its runs are in the space of its mask: another is refused when it is opened.
        run = recording.runs[0]
        require_same_space(file, affine, mask.shape, run.affine, run.file)
    values = np.asarray(volume, dtype=np.float64)[mask.volume()]
    if not np.array_equal(values, np.rint(values)):
        raise RecordingError(
            f"{file}: values: expected whole numbers, a label a voxel, found others"
        )
    whole: Int64[np.ndarray, " voxels"] = values.astype(np.int64)
    return whole


def _named(volume: LabelVolume, labels: Int64[np.ndarray, " voxels"]) -> Regions:
    known = volume.names
    table = volume.file.with_name(f"{image_stem(volume.file)}.tsv")
    if not known and table.is_file():
        known = _read_names(table)
    present = [int(label) for label in np.unique(labels) if label > 0]
    if known and (strange := [label for label in present if label not in known]):
        raise RecordingError(
            f"{volume.file}: labels: expected those with a name, {sorted(known)}, "
            f"found {strange[0]}"
        )
    found: Regions = {}
    for label in present:
        alone = volume.name if present == [1] else f"{volume.name} {label}"
        one = known.get(label, alone)
        found[one] = found.get(one, np.zeros(len(labels), np.bool_)) | (labels == label)
    return found


def _read_names(table: Path) -> dict[int, str]:
    lines = table.read_text("utf-8", errors="replace").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    known: dict[int, str] = {}
    if rows and rows[0][:2] == ["index", "name"]:
        for row in rows[1:]:
            if len(row) < 2 or not row[0].strip().isdecimal():
                break
            known[int(row[0])] = row[1].strip()
    if not known or len(known) != len(rows) - 1:
        raise RecordingError(
            f"{table}: expected the columns index and name, a whole number and a name "
            "a line, found others"
        )
    return known
