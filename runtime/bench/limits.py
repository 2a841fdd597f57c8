"""What this machine can do at best: products at the model's shapes, and memory.

The libraries are those of the engines; the clock is an argument. A limit is what the
best of them reaches here, not a number of a data sheet.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Annotated, Any, Final, final

import msgspec
import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.bench.work import Sizes
from runtime.engines.openvino import import_library, one_line
from runtime.engines.openvino_weights import rounded
from runtime.errors import BackendError
from runtime.timing import Clock

Product = tuple[int, int, int]
"""Rows, inputs and outputs of one matrix product."""

TRIAD_BYTES: Final = 256 * 1024**2
"""Of each array: several times the largest cache of a desktop processor."""
TRIES: Final = 5
"""Of each way in a round: a limit is what the machine can do at best, and what a
neighbour takes from one try is not the machine's."""
_COLUMNS: Final = 4096
"""Of the matrix that BLAS reads: its vector stays in the first cache."""
_CHUNK: Final = 32 * 1024
"""Numbers at a time, so that a product stays in the cache until it is added to."""


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate with the way in which it was reached."""

    per_s: Annotated[float, msgspec.Meta(ge=1, le=1e18)]
    by: str


def block_products(sizes: Sizes) -> tuple[Product, ...]:
    """Return the matrix products of one block of the velocity field."""
    m, d, hidden = sizes.tokens, sizes.width, sizes.mlp_ratio * sizes.width
    return (m, d, 3 * d), (m, d, d), (m, d, hidden), (m, hidden, d)


def flop(products: Sequence[Product]) -> int:
    """Return the floating point operations of matrix products."""
    return sum(2 * rows * inputs * outputs for rows, inputs, outputs in products)


def numpy_products(products: Sequence[Product], seed: int = 0) -> Callable[[], object]:
    """Return a call that does the products in float32 by numpy's BLAS.

    It returns them, in buffers that the next call writes again.
    """
    rng = np.random.default_rng(seed)
    parts = [
        (_normal(rng, m, k), _normal(rng, k, n), np.empty((m, n), np.float32))
        for m, k, n in products
    ]

    def call() -> list[Float32[np.ndarray, "rows outputs"]]:
        return [np.matmul(x, w, out=out) for x, w, out in parts]

    return call


def _normal(
    rng: np.random.Generator, rows: int, columns: int
) -> Float32[np.ndarray, "rows columns"]:
    return rng.standard_normal((rows, columns), dtype=np.float32)


def openvino_products(
    products: Sequence[Product],
    *,
    precision: str,
    threads: int,
    seed: int = 0,
    are_convolutions: bool = False,
) -> Callable[[], object]:
    """Return a call that does the products by OpenVINO, weights packed beforehand.

    It returns them, in buffers that the next call writes again; of one seed the same
    as `numpy_products` does. Convolutions of one tap are other kernels for the same
    products, on some processors the faster ones. In bfloat16 they take and give it, as
    one product gives it to the next in a graph: no conversion is in the limit. Its
    numbers are then bits that numpy has no name for.

    Raises:
        BackendError: The library is missing or refuses.
    """
    openvino = import_library()
    ops = openvino.opset13
    rng = np.random.default_rng(seed)
    inputs, outputs, values = [], [], []
    kind = "bf16" if precision == "bf16" else "f32"
    for m, k, n in products:
        port = ops.parameter([1, m, k], getattr(openvino.Type, kind))
        x = ops.convert(port, "f32")
        values.append(_tensor(openvino, _normal(rng, m, k)[None], kind))
        # A constant operand is what an engine has: the library may pack it once.
        w = _normal(rng, k, n)
        if are_convolutions:
            kernel = ops.constant(np.ascontiguousarray(w.T)[:, :, None])
            turned = ops.transpose(x, [0, 2, 1])
            out = ops.convolution(turned, kernel, [1], [0], [0], [1])
            out = ops.transpose(out, [0, 2, 1])
        else:
            out = ops.matmul(x, ops.constant(w), transpose_a=False, transpose_b=False)
        inputs.append(port)
        outputs.append(ops.result(ops.convert(out, kind)))
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(threads),
    }
    try:
        model = openvino.Model(outputs, inputs, "products")
        request = (
            openvino.Core().compile_model(model, "CPU", config).create_infer_request()
        )
        for i, value in enumerate(values):
            request.set_input_tensor(i, value)
    except RuntimeError as error:
        raise BackendError(f"openvino: {one_line(error)}") from error

    def call() -> list[Shaped[np.ndarray, "rows outputs"]]:
        request.infer()
        return [request.get_output_tensor(i).data[0] for i in range(len(values))]

    return call


def _tensor(library: Any, values: Float32[np.ndarray, "..."], kind: str) -> Any:
    if kind == "f32":
        return library.Tensor(values)
    tensor = library.Tensor(library.Type.bf16, values.shape)
    tensor.data.view(np.uint16)[:] = rounded(values)
    return tensor


def best(
    candidates: dict[str, Callable[[], object]], amount: float, clock: Clock
) -> Rate:
    """Return the highest rate that any of several ways reaches.

    Args:
        candidates: Calls that all do the same amount of work, by name.
        amount: Of work in one call (operations, bytes).
        clock: Monotonic nanoseconds.

    Raises:
        BackendError: There is no way at all.
    """
    rates = []
    for name, call in candidates.items():
        for _ in range(TRIES):
            begin = clock()
            call()
            rates.append(Rate(per_s=amount * 1e9 / max(clock() - begin, 1), by=name))
    if not rates:
        raise BackendError("limits: expected at least one library, found none")
    return max(rates, key=lambda rate: rate.per_s)


@final
class Memory:
    """Arrays far larger than the caches, and the ways to move them."""

    def __init__(self, threads: int, bytes_each: int = TRIAD_BYTES) -> None:
        """Allocate and touch the arrays.

        Args:
            threads: That share the work; numpy's loops let each other run. BLAS has
                threads of its own, as many as its process was told when it started.
            bytes_each: Of each of three arrays.
        """
        self.count = bytes_each // 4
        self._a, self._b, self._c = (
            np.full(self.count, value, np.float32) for value in (0.0, 1.0, 2.0)
        )
        edges = np.linspace(0, self.count, threads + 1).astype(int)
        self._parts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        self._pool = ThreadPoolExecutor(threads)
        columns = min(_COLUMNS, self.count)
        rows = self.count // columns
        self._matrix = self._b[: rows * columns].reshape(rows, columns)
        self._vector = np.ones(columns, np.float32)
        self._product = np.empty(rows, np.float32)

    def triad(self) -> int:
        """Do ``a = b + 3 c``; return the bytes moved, counted as STREAM counts.

        McCalpin (1995), "Memory bandwidth and machine balance": two reads, one write.
        """
        self._all(self._triad)
        return 3 * 4 * self.count

    def read(self) -> int:
        """Read one array once, as an engine reads weights; return the bytes."""
        self._all(self._read)
        return 4 * self.count

    def gemv(self) -> int:
        """Multiply one array, as a matrix, by a vector; return the matrix's bytes.

        The way in which BLAS reads weights, with the prefetching that its authors
        chose: numpy's loops alone reach half of it on some machines.
        """
        np.matmul(self._matrix, self._vector, out=self._product)
        return int(self._matrix.nbytes)

    def _triad(self, part: slice) -> None:
        for begin in range(part.start, part.stop, _CHUNK):
            piece = slice(begin, min(begin + _CHUNK, part.stop))
            np.multiply(self._c[piece], np.float32(3), out=self._a[piece])
            np.add(self._a[piece], self._b[piece], out=self._a[piece])

    def _read(self, part: slice) -> None:
        for begin in range(part.start, part.stop, _CHUNK):
            self._b[begin : min(begin + _CHUNK, part.stop)].max()

    def _all(self, work: Callable[[slice], None]) -> None:
        waiting: list[Future[None]] = [self._pool.submit(work, p) for p in self._parts]
        for one in waiting:
            one.result()

    def bandwidth(self, clock: Clock) -> Rate:
        """Return the highest of the ways' rates in bytes per second."""
        found = []
        ways = {"triad": self.triad, "read": self.read, "gemv": self.gemv}
        for name, move in ways.items():
            for _ in range(TRIES):
                begin = clock()
                moved = move()
                found.append(Rate(per_s=moved * 1e9 / max(clock() - begin, 1), by=name))
        return max(found, key=lambda rate: rate.per_s)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
