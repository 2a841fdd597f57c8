"""Tensors and ports of an ONNX file: constants as views of its bytes, never copied."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, final

from runtime.errors import BundleError
from runtime.protobuf import BYTES, FIXED32, FIXED64, VARINT, Message

DTYPES: Final = MappingProxyType(
    {
        1: ("float32", 4),
        2: ("uint8", 1),
        3: ("int8", 1),
        6: ("int32", 4),
        7: ("int64", 8),
        9: ("bool", 1),
        10: ("float16", 2),
        11: ("float64", 8),
        12: ("uint32", 4),
        13: ("uint64", 8),
        16: ("bfloat16", 2),
        17: ("float8e4m3fn", 1),
        19: ("float8e5m2", 1),
    }
)
"""Name and bytes of each element type that a tensor may have, by ONNX's number."""
MAX_ELEMENTS: Final = 2**34
MAX_DIMENSIONS: Final = 16


@final
@dataclass(frozen=True, slots=True)
class Placed:
    """Where the bytes of a tensor stand in a file beside the graph."""

    location: str
    offset: int
    length: int


@final
@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant; its numbers stand in one of `raw`, `typed` and `external`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: memoryview | None = field(default=None, repr=False)
    """Little-endian, C order."""
    typed: memoryview | tuple[int, ...] | None = field(default=None, repr=False)
    """Numbers of a typed field: the bytes of floats, or integers."""
    external: Placed | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return _product(self.shape)


@final
@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


def read_tensor(data: memoryview, what: str) -> Tensor:
    """Read a constant.

    Raises:
        BundleError: Malformed, or its bytes are not what its shape takes.
    """
    one = Message(
        data,
        what,
        single={2: VARINT, 8: BYTES, 9: BYTES, 12: BYTES, 14: VARINT},
        repeated={1: VARINT, 4: FIXED32, 5: VARINT, 7: VARINT, 10: FIXED64,
                  11: VARINT, 13: BYTES, 16: BYTES},
    )  # fmt: skip
    name = one.text(8)
    what = f"{what}: {name or 'constant'}"
    dtype, width = _dtype(one.number(2), what)
    shape = _shape(one.numbers(1), what)
    held = [n for n in (4, 5, 7, 9, 10, 11, 13) if one.has(n)]
    if len(held) > 1 or (13 in held) != (one.number(14) == 1):
        raise BundleError(f"{what}: expected its numbers once, found fields {held}")
    size = _product(shape) * width
    raw: memoryview | None = None
    typed: memoryview | tuple[int, ...] | None = None
    external: Placed | None = None
    found = size
    if 13 in held:
        external = _placed(one, what)
        found = external.length
    elif 9 in held:
        raw = one.raw(9)
        found = len(raw)
    elif 4 in held or 10 in held:
        data = memoryview(one.fixed(held[0]))
        typed, found = data, len(data)
    elif held:
        numbers = one.numbers(held[0])
        typed, found = numbers, len(numbers) * width
    elif size:
        found = 0
    if found != size:
        raise BundleError(
            f"{what}: expected {size} bytes for {dtype} {list(shape)}, found {found}"
        )
    return Tensor(name, dtype, shape, raw, typed, external)


def _placed(tensor: Message, what: str) -> Placed:
    entries: dict[str, str] = {}
    for data in tensor.raws(13):
        entry = Message(data, what, single={1: BYTES, 2: BYTES}, repeated={})
        if entry.text(1) in entries:
            raise BundleError(f"{what}: expected {entry.text(1)} once, found twice")
        entries[entry.text(1)] = entry.text(2)
    numbers = [entries.get(key, "") for key in ("offset", "length")]
    is_whole = all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers)
    if entries.keys() != {"location", "offset", "length"} or not is_whole:
        raise BundleError(
            f"{what}: expected location, offset and length of its bytes, found "
            f"{', '.join(f'{k} {v}' for k, v in sorted(entries.items())) or 'none'}"
        )
    return Placed(entries["location"], int(numbers[0]), int(numbers[1]))


def read_port(data: memoryview, what: str) -> Port:
    """Read an input or output.

    Raises:
        BundleError: Malformed, or no dense tensor of a fixed shape.
    """
    port = Message(
        data, what, single={1: BYTES, 2: BYTES, 3: BYTES}, repeated={4: BYTES}
    )
    what = f"{what}: {port.text(1)}"
    kind = Message(
        port.raw(2),
        what,
        single={1: BYTES, 4: BYTES, 5: BYTES, 6: BYTES, 8: BYTES, 9: BYTES},
        repeated={},
    )
    if not kind.has(1) or any(kind.has(n) for n in (4, 5, 8, 9)):
        raise BundleError(f"{what}: expected a dense tensor, found another type")
    tensor = Message(kind.raw(1), what, single={1: VARINT, 2: BYTES}, repeated={})
    shape = Message(tensor.raw(2), what, single={}, repeated={1: BYTES})
    sizes = []
    for entry in shape.raws(1):
        size = Message(entry, what, single={1: VARINT, 2: BYTES, 3: BYTES}, repeated={})
        if not size.has(1) or size.has(2):
            raise BundleError(f"{what}: expected fixed sizes, found a free dimension")
        sizes.append(size.number(1))
    dtype, _ = _dtype(tensor.number(1), what)
    return Port(port.text(1), dtype, _shape(tuple(sizes), what))


def _dtype(number: int, what: str) -> tuple[str, int]:
    if number not in DTYPES:
        raise BundleError(
            f"{what}: expected one of {', '.join(name for name, _ in DTYPES.values())},"
            f" found element type {number}"
        )
    return DTYPES[number]


def _shape(sizes: tuple[int, ...], what: str) -> tuple[int, ...]:
    is_sound = len(sizes) <= MAX_DIMENSIONS and all(size >= 0 for size in sizes)
    if not is_sound or _product(sizes) > MAX_ELEMENTS:
        raise BundleError(
            f"{what}: expected at most {MAX_ELEMENTS} elements in {MAX_DIMENSIONS} "
            f"dimensions, found {list(sizes[:MAX_DIMENSIONS])}"
        )
    return sizes


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
