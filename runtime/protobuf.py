"""The wire format of protocol buffers, read strictly and without a schema library.

Pure: bytes in, fields out. Where the format lets a reader be lenient this one refuses,
so that no second reader of the same bytes can see another message in them. Source:
https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator, Mapping
from typing import Final, final

from runtime.errors import BundleError

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_MAX_FIELDS: Final = 4_000_000
"""Of one message. Twelve blocks by twenty steps of heun are 60,000 nodes."""
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}

Value = int | memoryview
"""An unsigned number of a varint, or the bytes of anything else."""


def read_varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    """Return an unsigned 64-bit number and the place behind it.

    Raises:
        BundleError: It does not end, or takes more than 64 bits.
    """
    number = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, at
        shift += 7
        if shift > 63:
            break
    raise BundleError(f"{what}: expected a number of at most 64 bits, found none")


def signed(number: int) -> int:
    """Return a varint as the int64 that it stands for."""
    return number - (1 << 64) if number >= 1 << 63 else number


def read_fields(data: memoryview, what: str) -> Iterator[tuple[int, int, Value]]:
    """Yield field number, wire type and value, in the order of the bytes.

    Raises:
        BundleError: A truncated field, an obsolete wire type, or too many fields.
    """
    at = count = 0
    end = len(data)
    while at < end:
        count += 1
        if count > _MAX_FIELDS:
            raise BundleError(
                f"{what}: expected at most {_MAX_FIELDS} fields, found more"
            )
        # Nearly all keys and sizes are one byte, and a graph has a million of them.
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = read_varint(data, at - 1, what)
        number, wire = key >> 3, key & 7
        value: Value
        if wire == VARINT:
            value, at = read_varint(data, at, what)
            yield number, wire, value
            continue
        if wire == BYTES:
            if at < end and data[at] < 0x80:
                size = data[at]
                at += 1
            else:
                size, at = read_varint(data, at, what)
        elif wire in _FIXED_BYTES:
            size = _FIXED_BYTES[wire]
        else:
            raise BundleError(f"{what}: expected a protobuf field, found type {wire}")
        if size > end - at:
            raise BundleError(
                f"{what}: expected {size} bytes in field {number}, found {end - at}"
            )
        yield number, wire, data[at : at + size]
        at += size


@final
class Message:
    """One message's fields, each of a declared number, wire type and multiplicity."""

    def __init__(
        self,
        data: memoryview,
        what: str,
        *,
        single: Mapping[int, int],
        repeated: Mapping[int, int],
    ) -> None:
        """Read a message.

        Args:
            data: Its bytes.
            what: Its name in an error.
            single: Wire type of each field that may stand there once.
            repeated: Wire type of each field that may stand there any number of times;
                of numbers, also all in one packed field.

        Raises:
            BundleError: Malformed, or another field, wire type or multiplicity.
        """
        self.what = what
        self._values: dict[int, list[Value]] = {}
        for number, wire, value in read_fields(data, what):
            wanted = single.get(number, repeated.get(number))
            is_packed = number in repeated and wire == BYTES
            if wanted is None or (wire != wanted and not is_packed):
                raise BundleError(
                    f"{what}: expected known fields, found field {number} of type "
                    f"{wire}"
                )
            values = self._values.setdefault(number, [])
            if values and number in single:
                raise BundleError(f"{what}: expected field {number} once, found twice")
            values.append(value)

    def has(self, number: int) -> bool:
        """Say whether the field is there."""
        return number in self._values

    def number(self, number: int, default: int = 0) -> int:
        """Return a single varint as int64."""
        for value in self._values.get(number, ()):
            if isinstance(value, int):
                return signed(value)
        return default

    def raw(self, number: int) -> memoryview:
        """Return a single field's bytes; none where it is missing."""
        return next(iter(self.raws(number)), memoryview(b""))

    def raws(self, number: int) -> list[memoryview]:
        """Return a repeated field's bytes, one item each."""
        return [v for v in self._values.get(number, ()) if not isinstance(v, int)]

    def text(self, number: int) -> str:
        """Return a single string.

        Raises:
            BundleError: It is not UTF-8, or not printable.
        """
        return _text(self.raw(number), self.what)

    def texts(self, number: int) -> tuple[str, ...]:
        """Return a repeated string.

        Raises:
            BundleError: One is not UTF-8, or not printable.
        """
        return tuple(_text(value, self.what) for value in self.raws(number))

    def numbers(self, number: int) -> tuple[int, ...]:
        """Return repeated varints as int64, packed or not.

        Raises:
            BundleError: A packed field is malformed.
        """
        found: list[int] = []
        for value in self._values.get(number, ()):
            if isinstance(value, int):
                found.append(signed(value))
                continue
            at = 0
            while at < len(value):
                one, at = read_varint(value, at, self.what)
                found.append(signed(one))
        return tuple(found)

    def fixed(self, number: int) -> bytes:
        """Return repeated fixed-width numbers as the bytes of them all."""
        return b"".join(self.raws(number))


def _text(data: memoryview, what: str) -> str:
    try:
        found = bytes(data).decode()
    except UnicodeDecodeError:
        found = "\0"
    # Names go into one-line errors and into libraries' logs.
    if not found.isprintable():
        raise BundleError(
            f"{what}: expected printable text, found {bytes(data)[:32]!r}"
        )
    return found
