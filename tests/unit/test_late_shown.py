"""What reached the participant may be told after the scanner has ended the run."""

import pytest
from msgspec import structs

from bci_bridge import actions as do
from bci_bridge.keyring import Device, z85_from_bytes
from bci_bridge.ledger import Ledger
from bci_bridge.messages import DecisionNote, Event, Hello, RunEnd, RunStart, Shown
from bci_bridge.protocol import Protocol
from bci_bridge.suspicion import Suspicion
from bci_bridge.wire import encode
from runtime.errors import PeerError
from tests.unit.test_protocol import NOW, SCANNER, SHAPE, STIMULUS, Rig

SHOWN = Shown(what="the last picture", shown_ns=5)


@pytest.fixture
def ended():
    """A run of one volume that its scanner has ended, and the stimulus side there."""
    rig = Rig().begin()
    rig.hello(STIMULUS, role="stimulus", stream="stimulus")
    rig.volume(0)
    rig.send(RunEnd(count=1))
    return rig


def from_stimulus(rig, record):
    return rig.send(record, peer=STIMULUS, stream="stimulus")


def test_it_is_logged_and_acknowledged_and_leads_to_nothing(ended):
    found = [from_stimulus(ended, SHOWN) for _ in range(2)]

    assert [[type(one).__name__ for one in actions] for actions in found] == [
        ["Log", "Acknowledge"],
        ["Log", "Acknowledge"],
    ]
    assert [actions[-1].received for actions in found] == [1, 2]
    assert ended.protocol.state == "ENDED"


@pytest.mark.parametrize("record", [Event(trial_id="t", onset_s=0, duration_s=1)])
def test_a_trial_is_still_none_of_a_run_that_is_over(ended, record):
    with pytest.raises(PeerError, match="ILLEGAL_STATE: Event while ENDED"):
        from_stimulus(ended, record)


def test_it_is_too_late_once_the_next_run_has_begun(ended):
    ended.give(SCANNER, ended.start, run="run-2", stream="scanner", sequence=0)

    with pytest.raises(PeerError, match="WRONG_RUN: expected 'run-2', found 'run-1'"):
        from_stimulus(ended, SHOWN)


def test_before_any_run_there_is_nothing_that_it_could_belong_to():
    rig = Rig()
    rig.hello(STIMULUS, role="stimulus", stream="stimulus")

    with pytest.raises(PeerError, match="ILLEGAL_STATE: Shown while IDLE"):
        from_stimulus(rig, SHOWN)


ROLES = {"scan": "scanner", "show": "stimulus", "other": "stimulus"}
KEYS = {
    name: Device(
        name=name, public_key=z85_from_bytes(name[:1].encode() * 32), roles=(role,)
    )
    for name, role in ROLES.items()
}


def told(protocol, key, record, payload=b""):
    """Take a message under a key; return what goes to the log."""
    device = KEYS[key]
    actions = protocol.receive(key.encode(), encode(record, payload), NOW, device)
    return [
        one.envelope if isinstance(one, do.Log) else encode(one.record)
        for one in actions
        if isinstance(one, do.Log | do.Note)
    ]


def test_a_server_that_begins_again_knows_whose_stream_it_was():
    start = RunStart(
        run="r", stream="scanner", shape=SHAPE, tr_s=1, expected_volumes=1, budget_s=1
    )
    end = RunEnd(run="r", stream="scanner", sequence=1, count=0)
    shown = structs.replace(SHOWN, run="r", stream="stimulus")
    first = Protocol()
    log = []
    for key, record in (
        ("scan", Hello(role="scanner", stream="scanner")),
        ("scan", start),
        ("scan", end),
        ("show", Hello(role="stimulus", stream="stimulus", run="r")),
        ("show", shown),
    ):
        log += told(first, key, record)
    ledger, suspicion, said = Ledger(), Suspicion(), []
    for envelope in log:
        said += suspicion.of(envelope.record, ledger)
        ledger.fold(envelope, NOW)
    second = Protocol(ledger=Ledger.from_note(ledger.note()), now_ns=NOW)
    told(second, "other", Hello(role="stimulus", stream="stimulus", run="r"))

    assert said == []
    assert [type(one.record) for one in log[-2:]] == [Shown, DecisionNote]
    with pytest.raises(PeerError, match="UNAUTHORISED: stream 'stimulus' is another"):
        told(second, "other", structs.replace(shown, sequence=1))


def test_a_volume_after_the_end_is_still_a_sign_of_a_change(ended):
    ledger, suspicion = ended.protocol.ledger, Suspicion()
    suspicion.of(structs.replace(ended.start, run="run-1", stream="scanner"), Ledger())
    late = structs.replace(SHOWN, run="run-1", stream="stimulus")
    event = Event(run="run-1", stream="stimulus", trial_id="t", onset_s=0, duration_s=1)

    assert suspicion.of(late, ledger) == []
    (found,) = suspicion.of(event, ledger)
    assert (found.expected, found.found) == ("none after the end", "one")
