"""Laws of the spool: a cut leaves the intact prefix, a flip no other message."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bci_bridge.messages import Event, RunStart, Volume
from bci_bridge.spool import Spool
from bci_bridge.spool_format import PREFIX_BYTES, Note, note_bytes, record_at
from bci_bridge.wire import Envelope, encode

START = RunStart(
    run="run-1", shape=(1, 1, 1), tr_s=1.0, expected_volumes=8, budget_s=0.5
)


def _envelope(sequence):
    header = {"run": "run-1", "stream": "scanner", "sequence": sequence}
    if sequence % 3 == 1:
        return encode(
            Event(trial_id=f"t-{sequence}", onset_s=1.0, duration_s=0.0, **header)
        )
    volume = Volume(
        volume_index=sequence, acquired_ns=0, dtype="i2", shape=(1, 1, 5), **header
    )
    return encode(volume, bytes([sequence]) * 10)


ENVELOPES = [_envelope(sequence) for sequence in range(12)]


def _written():
    """One segment with all messages, and where each of its records ends."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.begin(START, "scanner", "scanner", lambda: "secret")
        (path,) = Path(folder).glob("*.spool")
        ends = [path.stat().st_size]
        for envelope in ENVELOPES:
            assert spool.append(envelope)
            ends.append(path.stat().st_size)
        spool.close()
        return path.read_bytes(), ends


SEGMENT, ENDS = _written()


@contextmanager
def _opened(data):
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "00000000.spool").write_bytes(data)
        spool = Spool(folder)
        try:
            yield spool
        finally:
            spool.close()
    finally:
        shutil.rmtree(folder)


def _held(spool):
    return [spool.read(sequence) for sequence in range(spool.first, spool.next)]


@given(st.integers(0, len(SEGMENT)))
@settings(max_examples=60)
def test_a_cut_anywhere_gives_back_exactly_the_intact_prefix(cut):
    intact = sum(end <= cut for end in ENDS) - 1

    with _opened(SEGMENT[:cut]) as spool:
        held, cut_bytes = _held(spool), spool.cut_bytes

    assert held == ENVELOPES[: max(intact, 0)]
    assert cut_bytes == cut - (ENDS[intact] if intact >= 0 else 0)


@given(st.integers(0, len(SEGMENT) - 1), st.integers(1, 255))
@settings(max_examples=60)
def test_a_flipped_byte_never_gives_another_message(place, flip):
    damaged = bytearray(SEGMENT)
    damaged[place] ^= flip
    intact = sum(end <= place for end in ENDS) - 1

    with _opened(bytes(damaged)) as spool:
        held = _held(spool)

    assert held == ENVELOPES[: max(intact, 0)]


@given(st.integers(0, len(ENVELOPES)), st.integers(0, 200))
@settings(max_examples=30)
def test_what_is_appended_after_a_cut_follows_the_prefix(count, torn):
    data = SEGMENT[: ENDS[count]] + SEGMENT[ENDS[count] :][:torn]

    with _opened(data) as spool:
        spool.begin(START, "scanner", "scanner", lambda: "another")
        for envelope in ENVELOPES[spool.next :]:
            assert spool.append(envelope)
        held, lease = _held(spool), spool.held.lease

    assert held == ENVELOPES
    # A spool without a message is nobody's: the run begins anew in it.
    assert lease == ("secret" if count or torn >= ENDS[1] - ENDS[0] else "another")


@given(st.integers(0, len(ENVELOPES) - 2))
def test_what_follows_a_gap_is_not_given_back(gap):
    data = SEGMENT[: ENDS[gap]] + SEGMENT[ENDS[gap + 1] :]

    with _opened(data) as spool:
        held = _held(spool)

    assert held == ENVELOPES[:gap]


@given(st.binary(max_size=200), st.integers(0, 40))
def test_any_bytes_are_no_record(data, begin):
    assert record_at(memoryview(data), begin) is None


@given(
    st.lists(
        st.sampled_from(
            [*ENVELOPES, Note(start=START, role="scanner", stream="s", lease="")]
        ),
        max_size=8,
    )
)
def test_records_are_read_as_they_were_written(records):
    data = b"".join(
        b"".join(
            [SEGMENT[ENDS[n] : ENDS[n + 1]]]
            if isinstance(record, Envelope) and (n := ENVELOPES.index(record)) >= 0
            else note_bytes(record)
        )
        for record in records
    )
    found, place = [], 0
    while (read := record_at(memoryview(data), place)) is not None:
        found.append(read[0])
        assert read[1] >= place + PREFIX_BYTES
        place = read[1]

    assert found == records
    assert place == len(data)
