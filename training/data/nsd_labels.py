"""Categories of the dataset's pictures, which the dataset itself does not give."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from runtime.errors import RecordingError

_HEAD = ["picture", "category"]


def read_labels(file: Path, pictures: Int64[np.ndarray, " images"]) -> tuple[str, ...]:
    """Read the category of each picture.

    Args:
        file: Columns ``picture`` (position in `imgBrick`, from 0) and ``category``,
            separated by a tab; more pictures than those that were shown may be in it.
        pictures: Whose categories, in this order.

    Raises:
        RecordingError: The file is missing or another, or a picture has no category or
            two.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(
            f"{file}: expected a table of categories, found no file that can be read "
            f"as text"
        ) from error
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows or rows[0] != _HEAD:
        raise RecordingError(
            f"{file}: expected the columns {' and '.join(_HEAD)}, separated by a tab, "
            f"found {' and '.join(rows[0])[:60] if rows else 'none'}"
        )
    known: dict[int, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not row[0].isdecimal() or not row[1].strip():
            raise RecordingError(
                f"{file}: line {number}: expected a picture's number and its category, "
                f"found {' '.join(row)[:60]}"
            )
        picture, category = int(row[0]), row[1].strip()
        if known.setdefault(picture, category) != category:
            raise RecordingError(
                f"{file}: expected one category a picture, found {known[picture]} and "
                f"{category} of picture {picture}"
            )
    missing = [int(one) for one in pictures if int(one) not in known]
    if missing:
        raise RecordingError(
            f"{file}: expected a category of all {len(pictures)} pictures that were "
            f"shown, found none of {len(missing)}, picture {missing[0]} among them"
        )
    return tuple(known[int(one)] for one in pictures)
