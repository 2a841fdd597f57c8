"""Laws of the protocol, over random conversations on a virtual clock."""

import copy
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from bci_bridge import actions as do
from bci_bridge.messages import (
    Event,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    RunEnd,
    RunStart,
    Volume,
)
from bci_bridge.protocol import Protocol
from bci_bridge.wire import encode
from runtime.errors import PeerError

NOW = 10**12
START = RunStart(shape=(1, 1, 1), tr_s=1.0, expected_volumes=8, budget_s=0.5)
indices = st.integers(0, 9)
records = st.one_of(
    st.builds(Hello, role=st.sampled_from(["scanner", "stimulus", "observer"])),
    st.just(START),
    st.builds(RunEnd, count=indices, aborted=st.booleans()),
    st.builds(
        Volume,
        volume_index=indices,
        acquired_ns=st.just(NOW),
        dtype=st.just("i2"),
        shape=st.just((1, 1, 1)),
    ),
    st.builds(Missing, volume_index=indices),
    st.builds(
        Event,
        trial_id=st.sampled_from("ab"),
        onset_s=st.just(0.0),
        duration_s=st.just(0.0),
    ),
    st.just(Heartbeat()),
    st.just(Goodbye()),
)
steps = st.tuples(
    st.sampled_from([b"p", b"q"]),
    records,
    st.sampled_from(["scanner", "stimulus"]),
    st.sampled_from(["run-1", "run-2"]),
    st.integers(0, 4) | st.none(),
    st.integers(0, 2 * 10**9),
)


def _state(protocol: Protocol) -> object:
    """All that a protocol knows, as plain values."""
    run = protocol.ledger.run
    acquisitions = None if run is None else vars(run.acquisitions)
    return copy.deepcopy(
        (
            protocol.state,
            {
                peer: (known.role, known.stream, known.seen_ns)
                for peer, known in protocol._peers.items()
            },
            None if run is None else (run.start, protocol._scanner, run.heard.crcs),
            acquisitions,
        )
    )


def _said(protocol, peer, record, stream, run, sequence, now):
    if sequence is None:
        sequence = protocol.ledger.expected(stream)
        if isinstance(record, RunStart):
            sequence = 0
    payload = b"\0\0" if isinstance(record, Volume) else b""
    record = structs.replace(record, stream=stream, run=run, sequence=sequence)
    return protocol.receive(peer, encode(record, payload), now)


def _converse(conversation):
    protocol, now, actions = Protocol(), NOW, []
    for peer, record, stream, run, sequence, wait_ns in conversation:
        now += wait_ns
        before = _state(protocol)
        try:
            actions += _said(protocol, peer, record, stream, run, sequence, now)
        except PeerError:
            assert _state(protocol) == before
        actions += protocol.tick(now)
    return protocol, actions


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=30))
def test_what_is_refused_changes_nothing(conversation):
    _converse(conversation)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(indices, st.sampled_from(["volume", "missing", "wait"])), max_size=20
    ),
    st.sampled_from(["live", "catchup"]),
)
def test_every_acquisition_up_to_the_end_has_exactly_one_outcome(story, pace):
    protocol, now = Protocol(), NOW
    actions = list(
        protocol.receive(b"p", encode(Hello(role="scanner", stream="scanner")), now)
    )
    start = structs.replace(START, pace=pace)
    actions += _said(protocol, b"p", start, "scanner", "run-1", 0, now)
    for index, what in story:
        if what == "wait":
            now += index * 10**8
            actions += protocol.tick(now)
            continue
        record = (
            Missing(volume_index=index)
            if what == "missing"
            else Volume(
                volume_index=index, acquired_ns=now, dtype="i2", shape=(1, 1, 1)
            )
        )
        actions += _said(protocol, b"p", record, "scanner", "run-1", None, now)
    count = protocol.next_index + 1
    end = RunEnd(count=count)
    actions += _said(protocol, b"p", end, "scanner", "run-1", None, now)

    outcomes = [
        a.volume_index if isinstance(a, do.SkipVolume) else a.record.volume_index
        for a in actions
        if isinstance(a, do.AddVolume | do.SkipVolume)
    ]

    assert outcomes == list(range(count))
    assert isinstance(actions[-1], do.EndRun)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 20),
    st.floats(-2, 2) | st.floats(-1e4, 1e4),
    st.sampled_from([0.05, 0.5, 1.0, 3.0]),
)
def test_one_wrong_instant_of_a_punctual_scanner_costs_two_volumes_at_most(
    wrong, by_s, budget_s
):
    start = structs.replace(START, expected_volumes=40, budget_s=budget_s)
    protocol, now, lost = Protocol(), NOW, 0
    hello = Hello(role="scanner", stream="scanner")
    protocol.receive(b"p", encode(hello), now)
    _said(protocol, b"p", start, "scanner", "run-1", 0, now)
    for index in range(40):
        acquired_ns = now + round(by_s * 10**9) * (index == wrong)
        volume = Volume(
            volume_index=index, acquired_ns=acquired_ns, dtype="i2", shape=(1, 1, 1)
        )
        _said(protocol, b"p", volume, "scanner", "run-1", None, now)
        for _ in range(2):
            lost += len(protocol.tick(now)) // 2  # of a note and an outcome
            now += 10**9 // 2

    assert lost <= 2


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30))
def test_whatever_is_used_was_logged_before(conversation):
    _, actions = _converse(conversation)

    logged: Counter[int] = Counter()
    for action in actions:
        if isinstance(action, do.Log):
            logged[action.envelope.crc32] += 1
        if isinstance(action, do.AddVolume):
            assert logged[action.envelope.crc32]
