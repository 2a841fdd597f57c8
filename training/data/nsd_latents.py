"""z_v of the dataset's pictures: computed from `imgBrick`, or taken from a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8

from runtime.errors import BackendError, RecordingError
from training.data.files import identity, open_latents, sampled_sha256
from training.data.manifest import VisualSource
from training.data.noted_pictures import noted_pictures
from training.data.nsd_design import PICTURES
from training.data.writer import TrialsWriter
from training.trials import let_go
from training.visual.backbone import VisualBackbone, compute_latents, copy_latents

Count = Callable[[int, int], None]
Pictures = Int64[np.ndarray, " images"]

_AT_ONCE = 64
"""Pictures of 425 pixels that are read together: 35 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class LatentsOf:
    """Where z_v comes from: a backbone and pictures, or a file."""

    source: VisualSource
    shape: tuple[int, int]
    dtype: str
    write: Callable[[TrialsWriter, Pictures, Count], None]
    inputs: dict[str, str]
    """The file, and what that is now; pictures are compared as they are read."""


def latents_of_backbone(backbone: VisualBackbone, stimuli: Path) -> LatentsOf:
    """Compute z_v from ``nsd_stimuli.hdf5``, in float16."""

    def write(writer: TrialsWriter, pictures: Pictures, count: Count) -> None:
        with _ImgBrick(stimuli) as brick:
            compute_latents(
                writer,
                backbone,
                noted_pictures(
                    writer, stimuli.name, lambda rows: brick.read(pictures[rows])
                ),
                len(pictures),
                on_image=count,
            )

    return LatentsOf(backbone.source, backbone.shape, "float16", write, {})


def brick_length(stimuli: Path, shown: Pictures) -> int:
    """Return how many pictures `imgBrick` has; as published where it is not there.

    Args:
        stimuli: ``nsd_stimuli.hdf5``, or where that would be.
        shown: Positions in it.

    Raises:
        RecordingError: The file is damaged, or has fewer pictures than were shown.
        BackendError: h5py is missing.
    """
    if not stimuli.is_file():
        return PICTURES
    with _ImgBrick(stimuli) as brick:
        return brick.length(int(shown.max()))


def latents_of_file(file: Path, shown: Pictures, bricks: int) -> LatentsOf:
    """Take z_v from a file: a row per picture of `imgBrick`, or per picture shown.

    Every row that is to be written is looked at, before hours of sessions are read.

    Args:
        file: float16 or float32 ``[images, tokens, width]``.
        shown: `imgBrick` position of each row that is to be written.
        bricks: Pictures of `imgBrick`; see `brick_length`.

    Raises:
        RecordingError: Another type, number of axes or number of rows, or a value that
            is not finite.
    """
    array = open_latents(file)
    if len(array) not in (bricks, len(shown)):
        raise RecordingError(
            f"{file}: rows: expected {bricks}, one per picture of imgBrick, or "
            f"{len(shown)}, one per picture shown (training pictures by number, then "
            f"test pictures), found {len(array)}"
        )
    is_brick = len(array) != len(shown)
    _require_finite(file, array, shown if is_brick else np.arange(len(shown)))
    source = VisualSource(
        name="file", detail=f"{file.name}, sampled sha256 {sampled_sha256(file)}"
    )

    def write(writer: TrialsWriter, pictures: Pictures, count: Count) -> None:
        def read(rows: slice) -> Float[np.ndarray, "images tokens width"]:
            return np.asarray(array[pictures[rows]] if is_brick else array[rows])

        copy_latents(writer, read, len(pictures), count)

    _, tokens, width = array.shape
    inputs = {f"latents {file.name}": identity(file)}
    return LatentsOf(source, (tokens, width), array.dtype.name, write, inputs)


def _require_finite(
    file: Path,
    array: Float[np.ndarray, "rows tokens width"],
    rows: Int64[np.ndarray, " images"],
) -> None:
    for first in range(0, len(rows), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        bad = np.argwhere(~np.isfinite(array[some]))
        if bad.size:
            place, *rest = bad[0].tolist()
            raise RecordingError(
                f"{file}: row {int(some[place])}, from 0: expected finite values, "
                f"found another at {rest}. Compute its z_v again"
            )
        let_go(array)


@dataclass(frozen=True, slots=True)
class SharedPictures:
    """The test's pictures, kept as they are; the metrics of images resize them."""

    stimuli: Path

    def array(self, pictures: Pictures) -> tuple[str, tuple[int, ...]]:
        """Return type and shape of the array that they make.

        Raises:
            RecordingError: The file is missing or damaged.
        """
        with _ImgBrick(self.stimuli) as brick:
            return "uint8", (len(pictures), *brick.read(pictures[:1]).shape[1:])

    def write(self, writer: TrialsWriter, pictures: Pictures, count: Count) -> None:
        """Write them, some at a time."""
        with _ImgBrick(self.stimuli) as brick:
            for first in range(0, len(pictures), _AT_ONCE):
                some = brick.read(pictures[first : first + _AT_ONCE])
                writer.write_rows("test_pictures", first, some)
                count(first + len(some), len(pictures))


class _ImgBrick:
    """The dataset's pictures: uint8 ``imgBrick[picture, row, column, colour]``."""

    def __init__(self, file: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise BackendError(
                "h5py: expected the extra scanner, found it missing. "
                "Install neuroflow-rt[scanner]"
            ) from error
        if not file.is_file():
            raise RecordingError(f"{file}: expected the pictures, found no file")
        self._file = file
        try:
            self._opened = h5py.File(file, "r")
        except (OSError, RuntimeError) as error:
            raise self._damaged(error) from error
        if not isinstance(self._opened.get("imgBrick"), h5py.Dataset):
            self._opened.close()
            raise RecordingError(f"{file}: imgBrick: expected a data set, found none")

    def __enter__(self) -> "_ImgBrick":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _damaged(self, error: Exception) -> RecordingError:
        line = " ".join(str(error).split())
        return RecordingError(
            f"{self._file}: imgBrick: expected a whole HDF5 file, found it cut or "
            f"damaged ({line}). Copy it again"
        )

    def length(self, last: int) -> int:
        """Return how many pictures there are: of the right type, `last` among them."""
        brick = self._opened["imgBrick"]
        if brick.dtype != np.uint8 or brick.shape[3:] != (3,):
            raise RecordingError(
                f"{self._file}: imgBrick: expected uint8 [picture, row, column, 3], "
                f"found {brick.dtype} {list(brick.shape)}"
            )
        if last >= len(brick):
            raise RecordingError(
                f"{self._file}: imgBrick: expected pictures up to {last}, "
                f"found shape {brick.shape}"
            )
        return len(brick)

    def read(self, pictures: Pictures) -> UInt8[np.ndarray, "images height width 3"]:
        self.length(int(pictures.max()))
        brick = self._opened["imgBrick"]
        try:
            return np.stack([brick[int(picture)] for picture in pictures])
        except (OSError, RuntimeError) as error:
            raise self._damaged(error) from error
