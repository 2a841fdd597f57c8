"""Laws of the wire: what is sent arrives; any bytes are a message or a PeerError."""

import contextlib
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_bridge import messages
from bci_bridge.arrays import arrays_from_bytes, volume_from
from bci_bridge.wire import (
    OUTCOME_HEADER_BYTES,
    checked,
    decode,
    encode,
)
from runtime.errors import PeerError

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,20}\Z")
instants = st.integers(-(2**63), 2**63 - 1)
sides = st.integers(1, 5)
volumes = st.builds(
    messages.Volume,
    run=names,
    stream=names,
    sequence=st.integers(0, 2**63 - 1),
    sent_ns=instants,
    volume_index=st.integers(0, 10**6),
    acquired_ns=instants,
    dtype=st.sampled_from(["i2", "u2", "i4", "f4"]),
    shape=st.tuples(sides, sides, sides),
)
events = st.builds(
    messages.Event,
    run=names,
    stream=names,
    trial_id=names,
    onset_s=st.floats(-3600, 86400),
    duration_s=st.floats(0, 3600),
    stimulus_id=st.text(max_size=50),
    shown_ns=st.none() | instants,
)
flips = st.tuples(st.integers(0), st.integers(1, 255))
ends = st.builds(
    messages.RunEnd, run=names, count=st.integers(0, 10**6), aborted=st.booleans()
)


def _payload(record: messages.Volume, seed: int) -> bytes:
    n = int(np.prod(record.shape)) * messages.ITEM_BYTES[record.dtype]
    return np.random.default_rng(seed).bytes(n)


@settings(max_examples=150)
@given(volumes, st.integers(0, 100))
def test_what_was_sent_is_what_arrives(record, seed):
    payload = _payload(record, seed)

    arrived = decode(encode(record, payload).frames)

    assert msgspec.structs.replace(arrived.record, nbytes=0) == record
    assert volume_from(arrived).tobytes() == payload
    assert volume_from(arrived).shape == record.shape


@given(events | ends)
def test_a_record_in_range_is_accepted_and_arrives(record):
    assert decode(encode(checked(record)).frames).record == record


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_frames_are_a_message_or_a_peer_error(frames):
    with contextlib.suppress(PeerError):
        decode(frames)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_header_behind_a_right_crc_is_a_message_or_a_peer_error(body):
    header = b"\x92" + body + b"\xc4\x04"
    header += zlib.crc32(header).to_bytes(4, "little")

    with contextlib.suppress(PeerError):
        decode([header, b""], header_bytes=OUTCOME_HEADER_BYTES)


@settings(max_examples=500)
@given(volumes, st.lists(flips, min_size=1, max_size=4))
def test_no_mutation_of_up_to_four_bytes_passes_for_the_message(record, mutations):
    header, payload = encode(record, _payload(record, 0)).frames
    both = bytearray(header + payload)
    for position, flip in mutations:
        both[position % len(both)] ^= flip
    mutated = [bytes(both[: len(header)]), bytes(both[len(header) :])]
    if mutated == [header, payload]:
        return  # two mutations of one byte undid each other

    with pytest.raises(PeerError):
        decode(mutated)


@given(st.integers(1, 900))
def test_nesting_costs_nothing(depth):
    with pytest.raises(PeerError):
        decode([b"\x92" + b"\x91" * depth + b"\x00" * 6, b""])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_payload_is_arrays_or_a_peer_error(payload):
    with contextlib.suppress(PeerError):
        arrays_from_bytes(payload)
