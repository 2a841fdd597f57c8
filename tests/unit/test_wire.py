import struct
import zlib

import msgspec
import numpy as np
import pytest

from bci_bridge.arrays import arrays_from_bytes, bytes_from_arrays, volume_from
from bci_bridge.messages import (
    ConfigurationNote,
    Heartbeat,
    StateNote,
    Volume,
    kind_of,
)
from bci_bridge.schema import message_types
from bci_bridge.wire import (
    OUTCOME_HEADER_BYTES,
    decode,
    decode_checked,
    encode,
)
from runtime.errors import PeerError
from tests.faults.mutate import valid_records

VALUES = np.arange(24, dtype="<i2").reshape(2, 3, 4)
VOLUME = Volume(
    run="run-1",
    stream="scanner",
    sequence=7,
    volume_index=6,
    acquired_ns=123,
    dtype="i2",
    shape=(2, 3, 4),
)


def _sealed(record: dict[str, object], payload: bytes = b"") -> list[bytes]:
    """Build frames by hand, as another implementation would."""
    body = b"\x92" + msgspec.msgpack.encode(record) + b"\xc4\x04"
    crc = zlib.crc32(body + payload)
    return [body + struct.pack("<I", crc), payload]


def test_a_volume_arrives_as_it_was_sent():
    sent = encode(VOLUME, VALUES.tobytes())

    arrived = decode(sent.frames)

    assert arrived == sent
    assert arrived.record.nbytes == 48
    np.testing.assert_array_equal(volume_from(arrived), VALUES)
    assert not volume_from(arrived).flags.writeable


def test_the_last_four_bytes_are_the_crc_of_all_that_is_before_them():
    sent = encode(VOLUME, VALUES.tobytes())

    expected = zlib.crc32(sent.header[:-4] + sent.payload)

    assert sent.header[-4:] == struct.pack("<I", expected)
    assert sent.crc32 == expected


def test_the_header_is_plain_msgpack_of_two():
    record, crc = msgspec.msgpack.decode(encode(VOLUME, VALUES.tobytes()).header)

    assert record["kind"] == "VOLUME"
    assert len(crc) == 4


def test_a_volume_header_is_far_below_its_cap():
    assert len(encode(VOLUME, VALUES.tobytes()).header) < 300


def test_an_unknown_field_is_ignored():
    frames = _sealed({"kind": "HEARTBEAT", "colour": "red"})

    assert decode(frames).record == Heartbeat()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([b"x"], "BAD_PARTS: expected 2 frames, found 1"),
        ([b""] * 3, "BAD_PARTS: expected 2 frames, found 3"),
        (
            [b"\x92" * 2000, b""],
            "BAD_SIZE: expected a header of 7 to 1024 bytes, found 2000",
        ),
        (
            [b"\xdd\xff\xff\xff\xff\xff\xff", b""],
            "BAD_HEADER: Expected `array` of length 2, got 4294967295",
        ),
        (
            _sealed({"kind": "HEARTBEAT", "crit": ["colour"], "colour": "red"}),
            "UNKNOWN_CRITICAL: expected known fields, found ['colour']",
        ),
        (
            _sealed({"kind": "HEARTBEAT", "version": 2}),
            "BAD_VERSION: expected version 1, found 2",
        ),
        (
            _sealed({"kind": "HEARTBEAT", "nbytes": 5}),
            "BAD_SIZE: expected a payload of 5 bytes, found 0",
        ),
        (
            _sealed({"kind": "SHUTDOWN"}),
            "BAD_HEADER: Invalid value 'SHUTDOWN' - at `$[0].kind`",
        ),
    ],
)
def test_what_is_not_a_message_is_a_peer_error(frames, message):
    with pytest.raises(PeerError) as caught:
        decode(frames)

    assert str(caught.value) == message


def test_a_torn_volume_is_a_peer_error_that_names_the_sizes():
    header, payload = encode(VOLUME, VALUES.tobytes()).frames

    with pytest.raises(PeerError) as caught:
        decode([header, payload[:-1]])

    assert str(caught.value) == "BAD_SIZE: expected a payload of 48 bytes, found 47"


def test_a_volume_of_another_size_than_its_shape_is_a_peer_error():
    with pytest.raises(PeerError) as caught:
        decode(encode(VOLUME, b"12").frames)

    assert str(caught.value) == (
        "BAD_SIZE: expected 48 bytes for i2 of shape (2, 3, 4), found 2"
    )


@pytest.mark.parametrize("side", [0, -1, 1025, 2**31, 2**64 - 1])
@pytest.mark.parametrize("axis", range(3))
def test_a_side_that_no_volume_has_is_refused_whatever_its_payload(side, axis):
    shape = list(VOLUME.shape)
    shape[axis] = side
    record = msgspec.to_builtins(VOLUME) | {"shape": shape, "nbytes": 48}

    with pytest.raises(PeerError, match=r"^BAD_HEADER: ") as caught:
        decode(_sealed(record, bytes(48)))

    assert f"$[0].shape[{axis}]" in str(caught.value)


LADEN = {
    "VOLUME", "VOLUME_OUTCOME", "TRIAL_OUTCOME", "UPDATE", "RUN_ENDED", "STATE",
    "CONFIGURATION",
}  # fmt: skip
KINDS = {
    kind_of(record): record
    for record in (
        *valid_records("run-1", "s"),
        StateNote(),
        ConfigurationNote(sha256="0" * 64),
    )
}


def test_each_kind_is_tried_with_a_payload():
    assert set(KINDS) == {kind.__struct_config__.tag for kind in message_types()}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - LADEN))
def test_a_payload_of_a_kind_that_has_none_is_refused_before_its_crc(kind):
    header, _ = encode(KINDS[kind], b"1234").frames

    with pytest.raises(PeerError) as caught:
        decode([header, b"4321"], header_bytes=OUTCOME_HEADER_BYTES)

    assert str(caught.value) == (
        f"BAD_SIZE: expected no payload of {kind}, found 4 bytes"
    )
    # What is in a log already can be read.
    assert decode_checked([header, b"1234"]).payload == b"1234"


@pytest.mark.parametrize("kind", sorted(LADEN))
def test_a_payload_of_a_kind_that_has_one_arrives(kind):
    sent = encode(KINDS[kind], bytes(48))

    assert decode(sent.frames, header_bytes=OUTCOME_HEADER_BYTES) == sent


def test_a_flipped_payload_bit_is_a_crc_error():
    header, payload = encode(VOLUME, VALUES.tobytes()).frames
    flipped = bytes([payload[0] ^ 1]) + payload[1:]

    with pytest.raises(PeerError, match="BAD_CRC"):
        decode([header, flipped])


def test_a_dtype_outside_the_list_is_a_peer_error():
    record = msgspec.to_builtins(VOLUME) | {"dtype": "O", "nbytes": 0}

    with pytest.raises(PeerError, match="BAD_HEADER"):
        decode(_sealed(record))


def test_arrays_survive_the_payload():
    arrays = {"z_v": np.float32([[1, 2]]), "image": np.zeros((2, 2, 3), np.uint8)}

    again = arrays_from_bytes(bytes_from_arrays(arrays))

    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype


def test_a_payload_that_is_not_safetensors_is_a_peer_error():
    with pytest.raises(PeerError):
        arrays_from_bytes(b"\xff" * 40)
