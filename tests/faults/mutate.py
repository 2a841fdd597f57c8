"""Messages as no decent peer would send them: valid ones, changed, or none at all.

Every draw comes from one seeded generator. Half of what is changed gets the right CRC
again, because what fails the CRC never reaches the checks behind it.
"""

import random
import zlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec

from bci_bridge import messages as m
from bci_bridge import wire
from bci_bridge.wire import encode

Frames = list[bytes]

TYPE_BYTES = bytes([0x80, 0x90, 0xA0, *range(0xC0, 0xE0), 0xE0, 0xFF, 0x00, 0x7F])
"""First bytes of every kind of msgpack value, the one that is never used included."""

CLAIMS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
    b"\xda\xff\xff",
)
"""Arrays, maps, strings, binaries and extensions that say they are huge."""

BAD_TEXT = (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80")
"""No UTF-8: bare bytes, a cut sequence, a surrogate, beyond the last, overlong."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 63, 64, 65, 399, 400, 464, 10**6, 10**6 + 1,
    2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63), 0.0, -0.0, 0.5, 1e-320, 1e308,
    float("inf"), float("-inf"), float("nan"), "", "a", "x" * 128, "x" * 129, "x" * 600,
    "..", "../x", "/", "a b", "\0", "é", "\U0001f9e0", "VOLUME", "HELLO", "scanner",
    "stimulus", "operator", "observer", "run-1", "f4", "O", "live", [], [1], [1, 1, 1],
    [0, 0, 0], [3, 4, 2], [1024, 1024, 1024], [-1, 2, 3], [[1]], {}, {"a": 1}, b"",
    b"\0" * 4, ["kind"], ["no such field"], [1, 2, 3], "0" * 64,
)  # fmt: skip


def valid_records(run: str, stream: str) -> list[m.Header]:
    """One message of every kind, each within all its ranges."""
    every: dict[str, Any] = {"run": run, "stream": stream}
    sha256 = "0" * 64
    answers: dict[str, Any] = {
        "input": "OK", "timing": "LIVE", "decision": "ANSWER", "status": "OK",
    }  # fmt: skip
    plain: list[m.Header] = [
        m.Hello(**every, role="scanner"),
        m.Hello(**every, role="stimulus"),
        m.Hello(**every, role="operator"),
        m.Hello(**every, role="observer"),
        m.Welcome(**every, publish="tcp://127.0.0.1:1", replay="tcp://127.0.0.1:2"),
        m.RunStart(
            **every, shape=(3, 4, 2), tr_s=1, expected_volumes=400, budget_s=1,
            affine=(1.0,) * 16, bundle_sha256=sha256,
        ),
        m.RunEnd(**every, count=3),
        m.Volume(
            **every, volume_index=1, acquired_ns=1, dtype="i2", shape=(3, 4, 2)
        ),
        m.Missing(**every, volume_index=1, reason="lost"),
        m.Event(**every, trial_id="t-1", onset_s=1.0, duration_s=0.5, stimulus_id="a"),
        m.Trigger(**every, volume_index=1, pulsed_ns=1),
        m.Shown(**every, what="a.jpg", shown_ns=1, trial_id="t-1"),
        m.Ack(**every, received=1, durable=1),
        m.Reject(**every, reason="BUSY"),
        m.Heartbeat(**every),
        m.Goodbye(**every),
        m.ReplayRequest(**every, from_index=0),
        m.ReplayDone(**every, next_index=0, outcome_count=0, has_ended=True),
        m.DecisionNote(**every, what="SERVER_STOPPED"),
        m.RigNote(
            **every, backend="ort", precision="f32", threads=1, processors=2,
            abstain_below=0, cpu=("x",), versions={"numpy": "2"},
        ),
    ]  # fmt: skip
    answered = [
        _filled(kind, every, answers)
        for kind in (m.VolumeOutcome, m.TrialOutcome, m.Update, m.RunEnded)
    ]
    return [*plain, *answered]


def _filled(kind: type[m.Header], every: dict[str, Any], words: dict[str, Any]) -> Any:
    """Build a record from its own description, so that a new field needs nothing here.

    Every required field gets the first of a few values that its type accepts.
    """
    given = dict(every)
    for field in msgspec.structs.fields(kind):
        if not field.required:
            continue
        tried = [words.get(field.name), 0, "a", "0" * 64, 0.5, [], {}, False, None]
        for value in tried:
            try:
                given[field.name] = msgspec.convert(value, field.type)
            except msgspec.ValidationError:
                continue
            break
    return kind(**given)


class Mutator:
    """An endless source of ill-formed, ill-meant and now and then valid messages."""

    def __init__(self, seed: int, *, run: str = "run-1", stream: str = "s") -> None:
        self.dice = random.Random(seed)
        self._records = valid_records(run, stream)
        self._built = [msgspec.to_builtins(record) for record in self._records]
        self._values = [*VALUES, run, stream]
        self._alike: dict[type, list[Any]] = {}
        for value in self._values:
            self._alike.setdefault(type(value), []).append(value)
        self._headers = [encode(record).header[:-4] for record in self._records]
        self._keys = sorted({key for built in self._built for key in built})
        inputs = (
            m.RunStart, m.RunEnd, m.Volume, m.Missing, m.Event, m.Trigger, m.Shown,
        )  # fmt: skip
        self._inputs = [
            built
            for built, record in zip(self._built, self._records, strict=True)
            if isinstance(record, inputs)
        ]
        self.aim: dict[str, Any] = {}
        """Run, stream and sequence that the receiver would take next; given to most
        messages, so that not only the first check of a receiver is met."""
        self._ways: list[tuple[Callable[[], Frames], int]] = [
            (self._fields, 10), (self._flip, 3), (self._msgpack, 4), (self._cut, 1),
            (self._insert, 1), (self._splice, 1), (self._noise, 1), (self._parts, 1),
            (self._valid, 1),
        ]  # fmt: skip
        self._bag = [way for way, weight in self._ways for _ in range(weight)]

    def draw(self) -> Frames:
        """Give the frames of one message."""
        return self.dice.choice(self._bag)()

    def _body(self) -> tuple[bytearray, bytes]:
        """A valid header without its CRC, and its payload."""
        number = self.dice.randrange(len(self._records))
        record = self._records[number]
        if isinstance(record, m.Volume):
            envelope = encode(record, self.dice.randbytes(48))
            return bytearray(envelope.header[:-4]), envelope.payload
        return bytearray(self._headers[number]), b""

    def _sealed(self, body: bytes | bytearray, payload: bytes) -> Frames:
        crc = zlib.crc32(payload, zlib.crc32(body))
        return [bytes(body) + crc.to_bytes(4, "little"), payload]

    def _maybe_sealed(self, body: bytearray, payload: bytes) -> Frames:
        if self.dice.random() < 0.5:
            return self._sealed(body, payload)
        return [bytes(body) + self.dice.randbytes(4), payload]

    def _valid(self) -> Frames:
        return self._sealed(*self._body())

    def _fields(self) -> Frames:
        """Other values in a decoded record, with the right CRC and length again."""
        dice = self.dice
        built = dict(dice.choice(self._inputs if dice.random() < 0.6 else self._built))
        if self.aim and dice.random() < 0.8:
            built |= self.aim
        if built["kind"] == "RUN_START" and dice.random() < 0.5:
            built["run"] = f"run-{dice.getrandbits(32)}"
        for _ in range(dice.choice((0, 1, 1, 1, 2, 4))):
            draw = dice.random()
            key = dice.choice(self._keys if draw < 0.3 else list(built))
            if draw > 0.95:
                built.pop(key, None)
            else:
                built[key] = self._value(built.get(key))
        payload = b""
        if built.get("kind") == "VOLUME" and dice.random() < 0.9:
            payload = dice.randbytes(dice.choice((0, 2, 47, 48, 48, 48, 96)))
        if dice.random() < 0.9:
            built["nbytes"] = len(payload)
        try:
            body = b"\x92" + msgspec.msgpack.encode(built) + b"\xc4\x04"
        except (OverflowError, UnicodeEncodeError):
            return self._noise()
        return self._sealed(body, payload)

    def _value(self, before: Any) -> Any:
        dice = self.dice
        draw = dice.random()
        if draw < 0.4 and isinstance(before, int):
            return before + dice.choice((-65, -2, -1, 0, 1, 2, 3, 64, 65))
        if draw < 0.1:
            return dice.getrandbits(dice.choice((8, 16, 32, 63, 64)))
        if draw < 0.15:
            return "".join(
                chr(dice.randrange(0xD000)) for _ in range(dice.randrange(9))
            )
        if draw < 0.6:
            return dice.choice(self._alike.get(type(before), self._values))
        return dice.choice(self._values)

    def _flip(self) -> Frames:
        body, payload = self._body()
        changed = bytearray(payload)
        for _ in range(self.dice.randint(1, 4)):
            where = changed if changed and self.dice.random() < 0.2 else body
            where[self.dice.randrange(len(where))] ^= self.dice.randint(1, 255)
        return self._maybe_sealed(body, bytes(changed))

    def _cut(self) -> Frames:
        body, payload = self._body()
        del body[self.dice.randrange(len(body)) :]
        return self._maybe_sealed(body, payload[: self.dice.randint(0, len(payload))])

    def _insert(self) -> Frames:
        body, payload = self._body()
        at = self.dice.randint(0, len(body))
        body[at:at] = self.dice.randbytes(self.dice.choice((1, 2, 4, 16, 300)))
        return self._maybe_sealed(body, payload)

    def _splice(self) -> Frames:
        (one, payload), (other, _) = self._body(), self._body()
        at = self.dice.randint(0, len(one))
        return self._maybe_sealed(one[:at] + other[self.dice.randrange(99) :], payload)

    def _noise(self) -> Frames:
        size = self.dice.choice((0, 1, 6, 7, 8, 40, 300, 1023, 1024, 1025, 5000))
        return [self.dice.randbytes(size), self.dice.randbytes(size % 97)]

    def _parts(self) -> Frames:
        """Any number of frames but two."""
        body, payload = self._body()
        count = self.dice.choice((0, 1, 3, 4, 16, 200))
        return [*self._sealed(body, payload), *[b"x"] * 200][:count]

    def _msgpack(self) -> Frames:
        """Break the encoding where msgpack can be broken, mostly with the right CRC."""
        dice = self.dice
        body, payload = self._body()
        at = dice.randrange(1, len(body))
        match dice.randrange(6):
            case 0:
                body[at] = dice.choice(TYPE_BYTES)
            case 1:
                body[at:at] = dice.choice(CLAIMS)
            case 2:
                body[at:] = dice.choice(CLAIMS)
            case 3:
                opening = dice.choice((b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x92"))
                body[at:] = opening * dice.choice((10, 100, 300, 900))
            case 4:
                text = dice.choice(BAD_TEXT)
                body[at : at + len(text)] = text
            case _:
                # A key a second time, or one more key than the map says.
                key = dice.choice((b"\xa3run", b"\xa4kind", b"\xa6nbytes", b"\xa4crit"))
                body[at:at] = key + dice.choice(
                    (b"\xc0", b"\xa5OTHER", b"\x05", b"\x90")
                )
                if body[1] & 0xF0 == 0x80 and dice.random() < 0.7:
                    body[1] = min(body[1] + 1, 0x8F)
        return (
            self._sealed(body, payload)
            if dice.random() < 0.8
            else [
                bytes(body),
                payload,
            ]
        )


def deaf_to_utf8() -> "mock._patch[object]":
    """A wire that forgot what random bytes raise besides DecodeError."""
    never = type("Never", (Exception,), {})
    return mock.patch.object(wire, "UnicodeDecodeError", never, create=True)
