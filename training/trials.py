"""The trials that a model learns from: voxels, and which image was on the screen.

Latents are kept once per image and shared by its trials through an index, so that
repeats cost no memory. Every array may be a read-only memory map of tens of gigabytes
(`training.data`): rows are read when a batch asks for them, cast and centred there, and
let go of again.
"""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

from runtime.errors import ConfigError, TensorMismatchError
from training.config import ModelConfig
from training.provenance import Synthetic

_BLOCK_BYTES = 2**24
"""Read at a time, so that a memory map never lies in memory as a whole."""


@dataclass(frozen=True, slots=True)
class TrialSet:
    """Single trials with the visual latents of their images.

    Raises:
        TensorMismatchError: A wrong dtype or number of axes, lengths that do not fit,
            a value that is not finite, or an index without a row of latents.
    """

    voxels: Float32[np.ndarray, "trials voxels"]
    """One row per trial, normalised as at the scanner."""
    image: Int64[np.ndarray, " trials"]
    """The row of `latents` that belongs to each trial."""
    latents: Float[np.ndarray, "images tokens width"]
    """z_v, one per image; float32, or float16 that each batch casts to float32."""
    centre: Float32[np.ndarray, "tokens width"] | None = None
    """Subtracted from z_v when it is read; see `centred`."""
    stored_mean: Float32[np.ndarray, "tokens width"] | None = None
    """What `latent_mean` gives, where whoever wrote the arrays has computed it."""
    is_checked: bool = False
    """Whether every value is known to be finite, so that nothing is read to see it."""
    synthetic: Synthetic | None = None
    """What the last trials are that nobody measured; see `training.synthetic`."""

    def __post_init__(self) -> None:
        """Check the arrays against each other."""
        for field, dtypes, axes in (
            ("voxels", (np.float32,), 2),
            ("image", (np.int64,), 1),
            ("latents", (np.float32, np.float16), 3),
        ):
            array = getattr(self, field)
            if array.dtype not in dtypes or array.ndim != axes:
                wanted = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
                raise TensorMismatchError(
                    f"trials.{field}",
                    expected=f"{wanted} with {axes} axes",
                    found=f"{array.dtype} with shape {array.shape}",
                )
        if len(self.voxels) == 0:
            raise TensorMismatchError(
                "trials.voxels", expected="at least one trial", found="none"
            )
        if len(self.image) != len(self.voxels):
            raise TensorMismatchError(
                "trials.image",
                expected=f"one row per trial, {len(self.voxels)}",
                found=f"{len(self.image)}",
            )
        self._check_indices()
        for field in ("centre", "stored_mean"):
            mean = getattr(self, field)
            if mean is not None and mean.shape != self.latents.shape[1:]:
                raise TensorMismatchError(
                    f"trials.{field}",
                    expected=f"shape {self.latents.shape[1:]} as a row of latents",
                    found=f"{mean.shape}",
                )
        if not self.is_checked:
            check_finite("trials.voxels", self.voxels)
            check_finite("trials.latents", self.latents)

    def _check_indices(self) -> None:
        images = len(self.latents)
        outside = np.flatnonzero((self.image < 0) | (self.image >= images))
        if outside.size:
            trial = int(outside[0])
            raise TensorMismatchError(
                "trials.image",
                expected=f"rows of latents in [0, {images})",
                found=f"{self.image[trial]} at trial {trial}",
            )

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.voxels)

    def latent_mean(self) -> Float32[np.ndarray, "tokens width"]:
        """Return the mean of z_v over the images of these trials, each counted once.

        Of the latents as they are stored, whatever is subtracted when they are read.
        """
        if self.stored_mean is not None:
            return self.stored_mean
        return mean_of_rows(self.latents, np.unique(self.image))

    def centred(self) -> "TrialSet":
        """Return the same trials with `latent_mean` subtracted whenever z_v is read."""
        return replace(self, centre=self.latent_mean())

    @property
    def measured(self) -> int:
        """How many trials were measured; they come first."""
        return len(self) - (0 if self.synthetic is None else self.synthetic.trials)

    def subset(self, rows: Int64[np.ndarray, " chosen"]) -> "TrialSet":
        """Return some trials, their voxels copied; z_v is centred as before."""
        return replace(
            self,
            voxels=take_rows(self.voxels, rows),
            image=self.image[rows],
            stored_mean=None,
            is_checked=True,
            synthetic=None,
        )

    def voxel_rows(
        self, chosen: Int64[np.ndarray, " batch"]
    ) -> Float32[np.ndarray, "batch voxels"]:
        """Return the voxels of some trials, copied."""
        return take_rows(self.voxels, chosen)

    def stored_z_v(
        self, chosen: Int64[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch tokens width"]:
        """Return z_v of some trials as it is stored: perhaps float16, not centred."""
        return take_rows(self.latents, self.image[chosen])

    def z_v(
        self, chosen: Int64[np.ndarray, " batch"]
    ) -> Float32[np.ndarray, "batch tokens width"]:
        """Return z_v of some trials, cast and centred."""
        rows = self.stored_z_v(chosen).astype(np.float32, copy=False)
        return rows if self.centre is None else rows - self.centre

    def check_fits(self, config: ModelConfig) -> None:
        """Compare the shapes with a model's.

        Raises:
            TensorMismatchError: Another number of voxels, tokens or features.
        """
        vae = config.vae
        if self.voxels.shape[1] != vae.voxels:
            raise TensorMismatchError(
                "trials.voxels",
                expected=f"{vae.voxels} voxels as vae.voxels",
                found=f"{self.voxels.shape[1]}",
            )
        if self.latents.shape[1:] != (vae.tokens, vae.width):
            raise TensorMismatchError(
                "trials.latents",
                expected=f"{vae.tokens} tokens of width {vae.width} as in vae",
                found="{} of width {}".format(*self.latents.shape[1:]),
            )

    def digest(self) -> str:
        """Return a sha256 that tells sets of trials apart.

        Covers every shape, the whole index and 16 rows of the large arrays: enough to
        refuse the wrong data when a run resumes, cheap for tens of gigabytes.
        """
        shapes = [self.voxels.shape, self.image.shape, self.latents.shape]
        digest = hashlib.sha256(repr(shapes).encode())
        digest.update(np.ascontiguousarray(self.image).tobytes())
        for array in (self.voxels, self.latents):
            rows = np.linspace(0, len(array) - 1, 16).astype(int)
            digest.update(np.ascontiguousarray(array[rows]).tobytes())
            let_go(array)
        return digest.hexdigest()


def epoch_order(trials: int, seed: int, epoch: int) -> Int64[np.ndarray, " trials"]:
    """Return the order of an epoch: a function of its arguments and nothing else."""
    # Seeds are any integers in a configuration; entropy must not be negative.
    rng = np.random.Generator(np.random.PCG64([seed % 2**64, epoch]))
    return rng.permutation(trials).astype(np.int64)


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """Which trials make up which step.

    A function of the step alone, so that a resumed run sees the batches that the
    uninterrupted one would have seen. The incomplete last batch of an epoch is dropped.

    Raises:
        ConfigError: Fewer trials than one batch.
    """

    trials: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse an epoch without a batch."""
        if self.trials < self.batch:
            raise ConfigError(
                f"batch: expected at most the {self.trials} trials, found {self.batch}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch."""
        return self.trials // self.batch

    def at(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return the trials of a step, counted from 0."""
        epoch, i = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.trials, self.seed, epoch)
        return order[i * self.batch : (i + 1) * self.batch]


def blocks(array: Shaped[np.ndarray, "rows ..."]) -> Iterator[slice]:
    """Return slices of rows that cover an array, each of a few megabytes."""
    row_bytes = max(array[:1].nbytes, 1)
    step = max(_BLOCK_BYTES // row_bytes, 1)
    for first in range(0, len(array), step):
        yield slice(first, min(first + step, len(array)))


def take_rows(
    array: Shaped[np.ndarray, "rows ..."], rows: Int64[np.ndarray, " chosen"]
) -> Shaped[np.ndarray, "chosen ..."]:
    """Return a copy of some rows, and leave nothing of a memory map in this process.

    All rows are asked for before the first is waited for: from a disk that is several
    times as fast as one after the other.
    """
    mapped = _mapped(array)
    if mapped is not None and hasattr(mmap, "MADV_WILLNEED"):
        start = _address(array) - _address(np.frombuffer(mapped, dtype=np.uint8))
        size = array.strides[0]
        for row in np.unique(rows):
            first = start + int(row) * size
            page = first - first % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, first + size - page)
    taken = np.asarray(array[rows])
    let_go(array)
    return taken


def let_go(array: Shaped[np.ndarray, "..."]) -> None:
    """Take what was read of a read-only memory map out of this process' memory.

    The kernel keeps the pages as long as it has room; without this, a process that has
    seen a whole epoch would hold the whole file. Other arrays are left alone.
    """
    mapped = _mapped(array)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _mapped(array: Shaped[np.ndarray, "..."]) -> mmap.mmap | None:
    """Return the map under an array, where it is read-only and so may be dropped."""
    if not isinstance(array, np.memmap) or array.mode != "r":
        return None
    mapped = getattr(array, "_mmap", None)
    return mapped if isinstance(mapped, mmap.mmap) else None


def _address(array: Shaped[np.ndarray, "..."]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def mean_of_rows(
    array: Float[np.ndarray, "rows tokens width"], rows: Int64[np.ndarray, " chosen"]
) -> Float32[np.ndarray, "tokens width"]:
    """Return the mean of some rows, whatever their order, a few megabytes at a time.

    What each float64 sum rounds away is summed too (Knuth's TwoSum): values from pixels
    are quantised, and a mean halfway between two float32 would else fall to either side
    by the order of the rows.
    """
    total, lost = np.zeros((2, *array.shape[1:]))
    step = max(_BLOCK_BYTES // max(array[:1].nbytes, 1), 1)
    for first in range(0, len(rows), step):
        for row in array[rows[first : first + step]].astype(np.float64):
            larger = total + row
            kept = larger - total
            lost += (total - (larger - kept)) + (row - kept)
            total = larger
        let_go(array)
    return np.asarray((total + lost) / len(rows), dtype=np.float32)


def check_finite(name: str, array: Shaped[np.ndarray, "rows ..."]) -> None:
    """Refuse an array with NaN or infinities, reading it block by block.

    Raises:
        TensorMismatchError: It names the first such value's place.
    """
    for block in blocks(array):
        bad = np.argwhere(~np.isfinite(array[block]))
        if bad.size:
            row, *rest = (int(i) for i in bad[0])
            at = ", ".join(map(str, (block.start + row, *rest)))
            raise TensorMismatchError(
                name, expected="finite values", found=f"another at [{at}]"
            )
        let_go(array)
