"""The rows of a gallery, each of unit length, and a latent's cosines with them.

The mean of the training images is taken off on both sides: with it every image
resembles every other.
"""

from collections.abc import Callable, Iterator
from typing import Final, Protocol, final, runtime_checkable

import numpy as np

from runtime.arrays import Float32
from runtime.buffers import Inputs
from runtime.engine import Precision
from runtime.errors import BackendError, ParityError
from runtime.manifest import TensorSpec

Latent = Float32[np.ndarray, "tokens width"]
Latents = Float32[np.ndarray, "items tokens width"]
Row = Float32[np.ndarray, " k"]

LEAST_BYTES: Final = 32 * 1024**2
"""Of rows in float32 that are worth fewer bits: fewer stay in a cache."""


@runtime_checkable
class Rows(Protocol):
    """A gallery ready to be searched."""

    def cosines(self, z_v: Latent) -> Float32[np.ndarray, " items"]:
        """Return the cosine of a latent with every item, in gallery order.

        A latent with a number that is not finite gives some that are not.

        Raises:
            BackendError: What searches failed.
            TensorMismatchError: An engine searches, and it is not float32 or has
                another size.
        """
        ...


RowsOf = Callable[[Latents, Latent], Rows]
"""Of a gallery's latents and the mean that is taken off."""


def length_of(latent: Row) -> np.float32:
    """Return the length; of one without 1: it has cosine 0 with everything."""
    length = np.sqrt(np.square(latent).sum())
    return length if length > 0 else np.float32(1)


def unit_rows(latents: Latents, mean: Row) -> Iterator[Row]:
    """Yield each item's row, in a buffer that the next one is written to."""
    row = np.empty(mean.size, np.float32)
    for latent in latents:
        np.subtract(latent.ravel(), mean, out=row)
        row /= length_of(row)
        yield row


def query_of(numbers: int) -> Inputs:
    """Return the input of an engine that searches: a latent of so many numbers."""
    spec = TensorSpec(name="z_v", shape=(1, numbers), dtype="float32")
    return Inputs((spec,))


@final
class WholeRows:
    """Rows in float32, read by numpy's BLAS."""

    def __init__(self, latents: Latents, mean: Latent) -> None:
        """Copy a gallery's latents, item by item."""
        self._mean = mean.ravel()
        self._rows = np.empty((len(latents), mean.size), np.float32)
        for kept, row in zip(self._rows, unit_rows(latents, self._mean), strict=True):
            kept[:] = row
        # Written again by each search: fresh memory costs as much as the subtraction.
        self._query, self._squares = np.empty((2, mean.size), np.float32)

    def cosines(self, z_v: Latent) -> Float32[np.ndarray, " items"]:
        """Return the cosine of a latent with every item; see `Rows.cosines`."""
        np.subtract(z_v.ravel(), self._mean, out=self._query)
        np.square(self._query, out=self._squares)
        length = np.sqrt(self._squares.sum())
        cosines: Float32[np.ndarray, " items"] = self._rows @ self._query
        return cosines / (length if length > 0 else np.float32(1))


@final
class StandbyRows:
    """Rows of an engine, with numpy behind it."""

    def __init__(self, rows: Rows, latents: Latents, mean: Latent) -> None:
        """Put numpy behind an engine.

        Args:
            rows: Asked first.
            latents: Read again where it fails; not copied before.
            mean: Taken off on both sides.
        """
        self._rows, self._latents, self._mean = rows, latents, mean
        self.trouble = ""
        """Why the engine is no longer asked; empty while it is."""

    def cosines(self, z_v: Latent) -> Float32[np.ndarray, " items"]:
        """Return the cosine of a latent with every item; see `Rows.cosines`."""
        try:
            return self._rows.cosines(z_v)
        except BackendError as error:
            self._rows = WholeRows(self._latents, self._mean)
            self.trouble = f"{error}; numpy searches instead"
            return self._rows.cosines(z_v)


def are_in_8_bits(backend: str, precision: str, numbers: int) -> bool:
    """Say whether a gallery of so many numbers is searched in 8 bits.

    Large ones are, by OpenVINO, where its engines do not compute in float32.
    """
    is_large = 4 * numbers >= LEAST_BYTES
    return backend == "openvino" and precision != "f32" and is_large


def rows_by(backend: str, precision: Precision, threads: int | None) -> RowsOf:
    """Return what suits an engine's library and precision; see `are_in_8_bits`."""

    def opened(latents: Latents, mean: Latent) -> Rows:
        if not are_in_8_bits(backend, precision, latents.size):
            return WholeRows(latents, mean)
        from runtime.engines.openvino_rows import EightBitRows

        try:
            rows = EightBitRows(latents, mean, threads=threads)
        except ParityError:
            # Rows that 8 bits do not hold well enough are searched whole.
            return WholeRows(latents, mean)
        return StandbyRows(rows, latents, mean)

    return opened
