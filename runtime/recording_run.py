"""One recorded run: its events, and its images, which stay in the file until asked for.

Reads NIfTI with nibabel, from the extra `scanner`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from runtime.arrays import Float64, Int64, Shaped
from runtime.confounds import confounds_from_table
from runtime.errors import RecordingError
from runtime.image_file import DAMAGE, image_stem, open_image
from runtime.preprocess.mask import VOLUME_DTYPES, VoxelMask
from runtime.preprocess.timing import end_s


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
    subject: str = ""
    """As in BIDS, without ``sub-``; like session and task empty where the recording
    does not say."""
    session: str = ""
    task: str = ""
    mask: VoxelMask | None = field(default=None, repr=False)
    """Where every value must be finite; None: everywhere."""
    missing: frozenset[int] = field(default=frozenset(), repr=False)
    """Volumes of which the recording says that they never came, or that no server used
    them: what the file has in their places is passed over, and a live decoder would be
    told MISSING."""
    unused: frozenset[int] = field(default=frozenset(), repr=False)
    """Of `missing`, those that came, too late or as none that could be decoded."""

    @property
    def volume_count(self) -> int:
        """Number of volumes."""
        return len(self.labels)

    @property
    def measured(self) -> Int64[np.ndarray, " volumes"]:
        """Indices of the volumes that are not missing, in order."""
        is_there = [i for i in range(self.volume_count) if i not in self.missing]
        return np.array(is_there, dtype=np.int64)

    def volumes(self) -> Shaped[np.ndarray, "times x y z"]:
        """Read the run's images in a type that the wire has.

        Integers keep their values, as int16, uint16 or int32. Real numbers, and what
        the file scales, are float32; what is not finite outside `mask`, as software
        writes around a brain, is 0.

        Raises:
            RecordingError: The file is torn, holds a value in the mask that is not
                finite, or no numbers that can be sent.
            BackendError: nibabel is missing.
        """
        image = open_image(self.file, dimensions=4)
        last = self.first_volume + self.volume_count
        try:
            data = np.asarray(image.dataobj[..., self.first_volume : last])
        except DAMAGE as error:
            raise RecordingError(
                f"{self.file}: expected {last} whole volumes, found a torn or damaged "
                f"file ({error}). Copy it again"
            ) from error
        dtype = _sent_as(data, self.file)
        # Beyond float32 is infinite there, and found below.
        with np.errstate(over="ignore"):
            volumes = np.array(np.moveaxis(data, -1, 0), dtype=dtype, order="C")
        volumes[sorted(self.missing)] = 0
        if volumes.dtype.kind == "f":
            self._make_finite(volumes)
        return volumes

    def _make_finite(self, volumes: Shaped[np.ndarray, "times x y z"]) -> None:
        """Write 0 where a value outside the mask is not finite.

        Raises:
            RecordingError: One in the mask is not.
        """
        decoded = None if self.mask is None else self.mask.volume()
        for index, volume in enumerate(volumes):
            bad = ~np.isfinite(volume)
            if not bad.any():
                continue
            places = np.argwhere(bad if decoded is None else bad & decoded)
            if len(places):
                x, y, z = places[0].tolist()
                raise RecordingError(
                    f"{self.file}: volume {index}, voxel [{x}, {y}, {z}]: expected a "
                    f"finite value within the mask, found {volume[x, y, z]:g}, and "
                    f"{len(places) - 1} more in this volume. Leave such voxels out of "
                    "the mask, or mend the recording"
                )
            volume[bad] = 0

    def confounds(self, names: Sequence[str]) -> tuple[dict[str, float], ...]:
        """Read the named confounds of every volume.

        They are columns of ``_desc-confounds_timeseries.tsv`` beside the run, a line a
        volume, as fMRIPrep writes them. A missing volume's are 0, whatever its line.

        Raises:
            RecordingError: The file or a column is missing, or holds no number.
        """
        if not names:
            return ({},) * self.volume_count
        stem = image_stem(self.file).removesuffix("_bold")
        file = self.file.with_name(f"{stem}_desc-confounds_timeseries.tsv")
        return confounds_from_table(
            text_of(file), names, self.volume_count, file, self.missing
        )

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "x y z"]]:
        return iter(self.volumes())


def _sent_as(data: np.ndarray, file: Path) -> str:
    """Return which of `VOLUME_DTYPES` holds some values without rounding integers.

    Raises:
        RecordingError: None does.
    """
    if data.dtype.kind == "f":
        return "float32"
    if data.dtype.kind in "iu":
        if data.dtype.name in VOLUME_DTYPES:
            return data.dtype.name
        # Without a volume there is no value either.
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        for name in ("int16", "int32"):
            limits = np.iinfo(name)
            if limits.min <= low and high <= limits.max:
                return name
        found = f"integers from {low} to {high}"
    else:
        found = data.dtype.name
    raise RecordingError(
        f"{file}: expected real numbers, or integers within int32, found {found}. "
        "Rescale the recording"
    )


def timeline(run: RecordedRun) -> Iterator[RecordedEvent | int]:
    """Return the run's events and volume indices in the order a server gets them.

    A volume exists when its acquisition has ended; an event comes at its onset, and
    before a volume that ends at the same instant. Missing volumes have their places,
    too, where they are to be skipped.
    """
    events = sorted(run.events, key=lambda event: event.onset_s)
    position = 0
    for index in range(run.volume_count):
        end = end_s(index, run.tr_s)
        while position < len(events) and events[position].onset_s <= end:
            yield events[position]
            position += 1
        yield index


def text_of(file: Path) -> str:
    """Read a text.

    Raises:
        RecordingError: The file is missing, or no UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecordingError(f"{file}: expected a file, found none") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{file}: expected UTF-8 text, found {error}") from error
