"""Regions of the dataset's cortex, or of volumes of one's own, voxel by voxel.

A region volume holds a whole number a voxel: 0 and below for no region, else a label.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from runtime.errors import RecordingError, UsageError
from runtime.preprocess.mask import VoxelMask
from training.data.nsd_volume import read_volume

COLLECTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "prf-visualrois": ("V1", "V1", "V2", "V2", "V3", "V3", "hV4"),
        "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
        "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
        "floc-places": ("OPA", "PPA", "RSC"),
        "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
        "streams": (
            "early",
            "midventral",
            "midlateral",
            "midparietal",
            "ventral",
            "lateral",
            "parietal",
        ),
    }
)
"""The dataset's own volumes and what their labels from 1 on mean (its manual, "ROIs").
Ventral and dorsal V1, V2 and V3 are taken together."""

Regions = dict[str, Bool[np.ndarray, " voxels"]]


def read_regions(folder: Path, mask: VoxelMask, wanted: Sequence[str] = ()) -> Regions:
    """Read which voxels of a mask belong to which region.

    Args:
        folder: Of the dataset's own volumes, ``.../func1pt8mm/roi``.
        mask: Which voxels.
        wanted: NAME of one of the dataset's own or NAME=FILE; where FILE.nii.gz has a
            FILE.tsv beside it (index and name), its labels have these names. None takes
            all of the dataset's own that are there.

    Returns:
        By name, in the order of volumes and labels; regions without a voxel in the mask
        are left out. A voxel may be in several.

    Raises:
        UsageError: No such volume, or a name without file that is not the dataset's.
        RecordingError: A volume is damaged, of another shape, or a name stands twice.
    """
    found: Regions = {}
    for text in wanted or _there(folder):
        name, is_file, given = text.partition("=")
        file = Path(given) if is_file else _own(folder, name)
        if not name or not file.is_file():
            raise UsageError(
                f"--roi: expected NAME=FILE, or one of {', '.join(COLLECTIONS)} of the "
                f"dataset, found {text} ({file} is no file)"
            )
        labels = _labels(file, mask)
        names = COLLECTIONS.get(name) if not is_file else None
        one = _named(file, name, labels, dict(enumerate(names or (), start=1)))
        if twice := sorted(one.keys() & found.keys()):
            raise RecordingError(
                f"{file}: regions: expected every name once, found {twice[0]} in "
                "another volume too"
            )
        found |= one
    return found


def _there(folder: Path) -> list[str]:
    return [name for name in COLLECTIONS if _own(folder, name).is_file()]


def _own(folder: Path, name: str) -> Path:
    return folder / f"{name}.nii.gz"


def _labels(file: Path, mask: VoxelMask) -> Int64[np.ndarray, " voxels"]:
    volume, _ = read_volume(file, "volume of regions")
    if volume.shape != mask.shape:
        raise RecordingError(
            f"{file}: shape: expected {list(mask.shape)} as the mask's, found "
            f"{list(volume.shape)}"
        )
    values = np.asarray(volume, dtype=np.float64)[mask.volume()]
    if not np.array_equal(values, np.rint(values)):
        raise RecordingError(
            f"{file}: values: expected whole numbers, a label a voxel, found others"
        )
    whole: Int64[np.ndarray, " voxels"] = values.astype(np.int64)
    return whole


def _named(
    file: Path,
    name: str,
    labels: Int64[np.ndarray, " voxels"],
    known: dict[int, str],
) -> Regions:
    table = file.with_name(f"{file.name.removesuffix('.gz').removesuffix('.nii')}.tsv")
    if not known and table.is_file():
        known = _read_names(table)
    present = [int(label) for label in np.unique(labels) if label > 0]
    if known and (strange := [label for label in present if label not in known]):
        raise RecordingError(
            f"{file}: labels: expected those with a name, {sorted(known)}, found "
            f"{strange[0]}"
        )
    found: Regions = {}
    for label in present:
        one = known.get(label, name if present == [1] else f"{name} {label}")
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
