"""The pictures of a BIDS folder: ``stimuli/*.png`` and which of them are a gallery."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from runtime.errors import RecordingError
from runtime.patch_dct import PatchDct
from training.pictures import read_picture


@dataclass(frozen=True, slots=True, eq=False)
class Stimuli:
    """All pictures of an experiment, in the order of ``gallery.tsv``."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    """Category of each."""
    in_gallery: tuple[bool, ...]
    """Whether retrieval may answer with it."""
    pixels: UInt8[np.ndarray, "images height width 3"]

    def row(self, stimulus_id: str) -> int:
        """Return the position of a picture.

        Raises:
            RecordingError: It is none of the experiment's pictures.
        """
        try:
            return self.ids.index(stimulus_id)
        except ValueError:
            raise RecordingError(
                f"stimulus: expected one of the {len(self.ids)} pictures, "
                f"found {stimulus_id}"
            ) from None

    def gallery_rows(self) -> list[int]:
        """Return the positions of the gallery's pictures."""
        return [row for row, wanted in enumerate(self.in_gallery) if wanted]

    def latents(self, backbone: PatchDct) -> Float32[np.ndarray, "images tokens width"]:
        """Return z_v of every picture."""
        return np.stack([backbone.tokens_from_image(image) for image in self.pixels])


@dataclass(frozen=True, slots=True)
class StimulusTable:
    """``gallery.tsv``: the pictures, their categories, and which are a gallery."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    in_gallery: tuple[bool, ...]


def table_file(folder: Path) -> Path:
    """Return where a BIDS folder has its table of pictures."""
    return folder / "stimuli" / "gallery.tsv"


def open_stimuli(folder: Path) -> Stimuli:
    """Read the pictures of a BIDS folder.

    Raises:
        RecordingError: The table or a picture is missing or damaged.
    """
    found, place = read_table(folder), table_file(folder).parent
    pixels = _stacked([place / f"{name}.png" for name in found.ids])
    return Stimuli(found.ids, found.labels, found.in_gallery, pixels)


def read_table(folder: Path) -> StimulusTable:
    """Read the table of a BIDS folder's pictures, and none of them.

    Raises:
        RecordingError: The table is missing or damaged.
    """
    table = table_file(folder)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise RecordingError(
            f"{table}: expected the table of stimuli, found {error.strerror}"
        ) from error
    missing = {"stim_id", "category", "in_gallery"} - set(rows[0] if rows else {})
    if missing:
        raise RecordingError(
            f"{table}: expected columns stim_id, category and in_gallery, "
            f"found no {', '.join(sorted(missing))}"
        )
    for line, row in enumerate(rows, start=2):
        if None in row.values():
            raise RecordingError(
                f"{table}: expected a category and in_gallery in line {line}, "
                "found too few columns"
            )
    return StimulusTable(
        ids=tuple(row["stim_id"] for row in rows),
        labels=tuple(row["category"] for row in rows),
        in_gallery=tuple(row["in_gallery"] in ("1", "true", "True") for row in rows),
    )


def _stacked(files: list[Path]) -> UInt8[np.ndarray, "images height width 3"]:
    pictures = [read_picture(file) for file in files]
    height, width, _ = pictures[0].shape
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise RecordingError(
                f"{file}: expected {width} x {height} pixels as the first picture, "
                f"found {picture.shape[1]} x {picture.shape[0]}"
            )
    return np.stack(pictures)
