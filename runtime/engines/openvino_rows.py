"""A gallery that OpenVINO searches in 8 bits: a quarter of the memory, less to read.

A search does little else than read the gallery. Rows are rounded with a scale for each,
the query by the library with one for every 32 numbers, so that directions in which all
latents are long take little from the others.
"""

from typing import Any, Final, final

import numpy as np

from runtime.arrays import Float32
from runtime.buffers import Array
from runtime.engines.openvino import import_library, one_line
from runtime.engines.signal_stack import use_ordinary_signal_stack
from runtime.errors import BackendError, ParityError
from runtime.rows import Latent, Latents, query_of, unit_rows

LARGEST: Final = 127
MOST_OFF: Final = 1e-3
"""How far a cosine may be from its value in float32. With the 426,000 numbers of a row
of the paper's size it is 4e-5; few numbers, some of them far larger, may exceed it."""


@final
class EightBitRows:
    """Rows in 8 bits; see `runtime.rows.Rows`."""

    def __init__(self, latents: Latents, mean: Latent, *, threads: int | None) -> None:
        """Round a gallery's latents and compile the search.

        Args:
            latents: Of the gallery; not kept.
            mean: Taken off on both sides.
            threads: Of one search; None leaves the choice to the library.

        Raises:
            BackendError: The library is missing or refuses.
            ParityError: The cosines of the first item are not those of float32.
        """
        library = import_library()
        centre = mean.ravel()
        whole, scales, wanted = _rounded(latents, centre)
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            # Numbers of the query that share a scale when the library rounds it.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        self._products = np.zeros((1, len(latents)), np.float32)
        self._squares = np.zeros((1, 1), np.float32)
        try:
            model = _search(library, whole, scales, centre)
            compiled = library.Core().compile_model(model, "CPU", config)
            self._request = compiled.create_infer_request()
            for place, found in enumerate((self._products, self._squares)):
                bound = library.Tensor(found, shared_memory=True)
                self._request.set_output_tensor(place, bound)
        except RuntimeError as error:
            raise BackendError(f"openvino: gallery: {one_line(error)}") from error
        finally:
            use_ordinary_signal_stack()
        self._library, self._inputs = library, query_of(centre.size)
        # A copy: it would be lent to the library, and the gallery with it.
        off = float(np.abs(self.cosines(latents[0].copy()) - wanted).max())
        if not off <= MOST_OFF:
            raise ParityError(
                f"gallery: expected cosines in 8 bits within {MOST_OFF:g} of float32, "
                f"found {off:.3g}"
            )

    def cosines(self, z_v: Latent) -> Float32[np.ndarray, " items"]:
        """Return the cosine of a latent with every item; see `Rows.cosines`.

        Raises:
            BackendError: The library failed.
            TensorMismatchError: Another size or dtype.
        """
        try:
            self._inputs.take({"z_v": z_v.reshape(1, -1)}, self._bind)
            self._request.infer()
        except RuntimeError as error:
            raise BackendError(f"openvino: gallery: {one_line(error)}") from error
        length = np.sqrt(self._squares[0, 0])
        if not np.isfinite(length):
            # Rounded to 8 bits, what is no number could become one.
            return np.full(self._products.size, np.nan, np.float32)
        found: Float32[np.ndarray, " items"] = self._products[0] / (length or 1)
        return found

    def _bind(self, name: str, memory: Array) -> None:
        tensor = self._library.Tensor(memory, shared_memory=True)
        self._request.set_tensor(name, tensor)


def _rounded(latents: Latents, mean: Float32[np.ndarray, " k"]) -> tuple[Any, ...]:
    """Return rows in 8 bits, a scale for each, and the first item's true cosines."""
    whole = np.empty((len(latents), mean.size), np.int8)
    scales, wanted = np.empty((2, len(latents)), np.float32)
    first: Float32[np.ndarray, " k"] | None = None
    for item, row in enumerate(unit_rows(latents, mean)):
        first = row.copy() if first is None else first
        wanted[item] = first @ row
        scales[item] = np.abs(row).max() / LARGEST or 1
        row /= scales[item]
        np.rint(row, out=row)
        whole[item] = row
    return whole, scales, wanted


def _search(library: Any, whole: Any, scales: Any, mean: Any) -> Any:
    """Return the graph of z_v to products with every row, and z_v's squared length."""
    ops = library.opset13
    z_v = ops.parameter([1, mean.size], np.float32, name="z_v")
    query = ops.subtract(z_v, ops.constant(mean[None]))
    squares = ops.reduce_sum(ops.multiply(query, query), [1], True)
    rows = ops.multiply(
        ops.convert(ops.constant(whole), "f32"), ops.constant(scales[:, None])
    )
    products = ops.matmul(query, rows, False, True)
    return library.Model([ops.result(products), ops.result(squares)], [z_v], "gallery")
