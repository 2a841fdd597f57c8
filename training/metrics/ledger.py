"""The values behind an evaluation's figures: what participants are combined from.

Of a figure that is a mean over images, the values, trial by trial; of one that is not
(a correlation across images, a ratio), what it comes to in each draw of images. The
draws are the same for everybody who saw the same images, so that participants can be
drawn over them afterwards.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from runtime.errors import ArtifactError
from training.metrics.intervals import image_draws
from training.metrics.result import (
    EncodingFigures,
    ImageFigures,
    RetrievalFigures,
    SpreadFigures,
)

DRAWS: Final = 1000
SHARED_SEED: Final = 0

Row = ImageFigures | RetrievalFigures | EncodingFigures | SpreadFigures
Values = tuple[Float64[np.ndarray, " values"], Int64[np.ndarray, " values"]]


def row_name(row: Row) -> str:
    """Name a row of figures by what it is about, the same in every evaluation."""
    match row:
        case ImageFigures():
            parts = ["images", row.trials, row.source, row.decoder]
            if row.rendered == "elsewhere":
                parts.append("rendered elsewhere")
        case RetrievalFigures():
            mean = "without mean" if row.is_mean_subtracted else "with mean"
            parts = ["retrieval", row.trials, row.source, row.decoder, mean]
        case EncodingFigures():
            parts = ["encoding", row.trials]
        case SpreadFigures():
            parts = ["spread", row.source]
    return "/".join(parts)


def shared_draws(
    names: Sequence[str], draws: int = DRAWS
) -> Float64[np.ndarray, "draws images"]:
    """Return how often each image is in each draw, whatever the images' order.

    Whoever saw the same images gets the same draws.

    Args:
        names: Of the images, each once.
        draws: How many.
    """
    rank = np.argsort(np.argsort(np.array(names, dtype=np.str_), kind="stable"))
    counts = image_draws(len(names), np.random.default_rng(SHARED_SEED), draws)
    return np.asarray(counts[:, rank])


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Values and draws by name of row and figure, such as ``encoding/averaged/mse``."""

    images: Sequence[str]
    """Names of the images, which values cite by position."""
    pictures: Sequence[str] = ()
    """A hash of each image's pixels, where they are kept: of two data sets that number
    their pictures alike, it says which are the same."""
    values: dict[str, Values] = field(default_factory=dict)
    draws: dict[str, Float64[np.ndarray, " draws"]] = field(default_factory=dict)

    def keep(
        self,
        row: Row,
        figures: Mapping[str, Float64[np.ndarray, " values"]],
        about: Int64[np.ndarray, " values"],
    ) -> None:
        """Keep the values of a row's figures and which image each is about."""
        name = row_name(row)
        self.values.update(
            {f"{name}/{key}": (one, about) for key, one in figures.items()}
        )

    def keep_draws(
        self, row: Row, figures: Mapping[str, Float64[np.ndarray, " draws"]]
    ) -> None:
        """Keep what a row's figures come to in each of the shared draws."""
        name = row_name(row)
        self.draws.update({f"{name}/{key}": one for key, one in figures.items()})

    def encode(self) -> bytes:
        """Return it as .npz: arrays only, readable with `numpy.load`."""
        arrays: dict[str, np.ndarray] = {
            "image names": np.array(self.images, dtype=np.str_)
        }
        if self.pictures:
            arrays["image hashes"] = np.array(self.pictures, dtype=np.str_)
        for name, (values, about) in self.values.items():
            arrays[f"{name}/values"] = values
            arrays[f"{name}/images"] = about
        arrays |= {f"{name}/draws": one for name, one in self.draws.items()}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, array in arrays.items():
                part = io.BytesIO()
                np.lib.format.write_array(part, array, allow_pickle=False)
                # A fixed time: the same evaluation gives the same bytes.
                member = zipfile.ZipInfo(f"{name}.npy")
                member.compress_type = zipfile.ZIP_DEFLATED
                packed.writestr(member, part.getvalue())
        return stream.getvalue()


def decode_ledger(data: bytes, what: str) -> Ledger:
    """Read what `Ledger.encode` wrote.

    Args:
        data: The file's bytes.
        what: Name of the file, for messages.

    Raises:
        ArtifactError: It is another thing, damaged, or contradicts itself.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{what}: expected values of an evaluation (.npz), found another or "
            "damaged file. Evaluate again"
        ) from error
    names = arrays.pop("image names", np.empty(0))
    hashes = arrays.pop("image hashes", names[:0])
    if len(hashes) not in (0, len(names)):
        raise ArtifactError(
            f"{what}: expected a hash of each of {len(names)} images, found "
            f"{len(hashes)}"
        )
    ledger = Ledger([str(name) for name in names], [str(one) for one in hashes])
    for name, array in arrays.items():
        figure, _, kind = name.rpartition("/")
        if kind == "draws" and array.dtype == np.float64 and array.ndim == 1:
            ledger.draws[figure] = array
        elif kind == "values":
            about = arrays.get(f"{figure}/images", np.empty(0))
            _check(what, figure, array, about, len(names))
            ledger.values[figure] = (array, about)
        elif kind != "images":
            raise ArtifactError(
                f"{what}: expected draws, values and images of figures, found {name}"
            )
    return ledger


def _check(
    what: str, figure: str, values: np.ndarray, about: np.ndarray, images: int
) -> None:
    fits = (
        values.dtype == np.float64
        and about.dtype == np.int64
        and values.ndim == 1
        and values.shape == about.shape
        and len(values) > 0
        and about.min() >= 0
        and about.max() < images
    )
    if not fits:
        raise ArtifactError(
            f"{what}: {figure}: expected float64 values, each with its image of "
            f"{images}, found {values.dtype} {values.shape} and {about.dtype} "
            f"{about.shape}"
        )
