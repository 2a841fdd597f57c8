"""What a key may say, and to whom a stream and a routing id belong."""

import contextlib

import pytest
from msgspec import structs

from bci_bridge.authority import SAYS, check_authority
from bci_bridge.endpoints import beside, check_address
from bci_bridge.keyring import Device, z85_from_bytes
from bci_bridge.leases import LEASE_NS, MAX_PEERS, MOST_OF_A_KEY
from bci_bridge.ledger import Ledger
from bci_bridge.messages import (
    Ack,
    Event,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    ReplayRequest,
    RunEnd,
    RunStart,
    Shown,
    Trigger,
)
from bci_bridge.protocol import ROLES, Protocol
from bci_bridge.self_attack import verdict_from
from bci_bridge.wire import encode
from runtime.errors import PeerError, UsageError

NOW = 10**13
START = RunStart(
    run="run-1",
    stream="scanner",
    shape=(1, 1, 1),
    tr_s=1.0,
    expected_volumes=9,
    budget_s=1.0,
)
SAID = {
    "scanner": [START, Missing(volume_index=0), Trigger(volume_index=0, pulsed_ns=0)],
    "stimulus": [
        Event(trial_id="t", onset_s=0.0, duration_s=0.0),
        Shown(what="x", shown_ns=0),
    ],
    "observer": [ReplayRequest()],
    "operator": [],
}


def _device(*roles, key=0):
    public = z85_from_bytes(bytes([key]) * 32)
    return Device(name=f"d{key}", public_key=public, roles=roles)


@pytest.mark.parametrize("role", SAID)
def test_a_key_says_what_its_role_says_and_nothing_else(role):
    for owner, records in SAID.items():
        for record in records:
            if role in (owner, "operator"):
                check_authority(_device(role), record)
            else:
                with pytest.raises(PeerError, match="UNAUTHORISED: key 'd0' may not"):
                    check_authority(_device(role), record)


@pytest.mark.parametrize("role", SAID)
def test_a_key_claims_its_own_roles_and_an_operator_claims_all(role):
    for claimed in SAID:
        hello = Hello(role=claimed, stream="s")
        if role in (claimed, "operator"):
            check_authority(_device(role), hello)
        else:
            with pytest.raises(PeerError, match=f"may not be {claimed}"):
                check_authority(_device(role), hello)


def test_every_message_that_counts_in_a_run_needs_a_role():
    assert set(ROLES) <= set(SAYS)
    with pytest.raises(PeerError, match="may not send ACK"):
        check_authority(
            _device("scanner", "stimulus", "observer"), Ack(received=0, durable=0)
        )


def test_signs_of_life_need_no_role_and_without_keys_nothing_does():
    for record in (Heartbeat(), Goodbye()):
        check_authority(_device(), record)
    for records in SAID.values():
        for record in records:
            check_authority(None, record)


class Keyed:
    """A protocol whose peers have keys."""

    def __init__(self):
        self.protocol, self.now = Protocol(), NOW

    def say(self, peer, record, device, **header):
        said = encode(structs.replace(record, **header))
        return self.protocol.receive(peer, said, self.now, device)

    def hello(self, peer, device, stream="scanner", role="scanner"):
        return self.say(peer, Hello(role=role, stream=stream), device)

    def missing(self, peer, device, sequence):
        header = {"run": "run-1", "stream": "scanner", "sequence": sequence}
        return self.say(peer, Missing(volume_index=sequence - 1), device, **header)


OWNER, THIEF = _device("scanner", key=1), _device("scanner", key=2)


@pytest.mark.parametrize(
    "record", [Heartbeat(), Goodbye(), START, Hello(role="scanner", stream="mine")]
)
def test_a_routing_id_is_one_keys_while_its_lease_lasts(record):
    rig = Keyed()
    rig.hello(b"p", OWNER)

    with pytest.raises(PeerError, match="UNAUTHORISED: the routing id is another key"):
        rig.say(b"p", record, THIEF)

    assert rig.protocol.streams == {"scanner"}


def test_a_routing_id_whose_lease_is_over_needs_a_hello_of_the_new_key():
    rig = Keyed()
    rig.hello(b"p", OWNER)
    rig.now += LEASE_NS

    with pytest.raises(PeerError, match="UNAUTHORISED"):
        rig.say(b"p", Heartbeat(), THIEF)
    rig.hello(b"p", THIEF)
    with pytest.raises(PeerError, match="UNAUTHORISED"):
        rig.say(b"p", Heartbeat(), OWNER)


def test_no_other_key_goes_on_with_a_stream_of_a_run():
    rig = Keyed()
    rig.hello(b"p", OWNER)
    rig.say(b"p", START, OWNER)
    rig.missing(b"p", OWNER, 1)
    rig.now += LEASE_NS
    rig.hello(b"q", THIEF)

    for sequence in (0, 1, 2):
        with pytest.raises(PeerError, match="UNAUTHORISED: stream 'scanner' is anoth"):
            rig.missing(b"q", THIEF, sequence)

    assert rig.protocol.next_index == 1


STIMULI = _device("stimulus", key=3)


def _begun(is_restarted):
    """A run under way: its ingress was just restarted, or its scanner is silent."""
    rig = Keyed()
    rig.hello(b"p", OWNER)
    rig.say(b"p", START, OWNER)
    if is_restarted:
        known = Ledger.from_note(rig.protocol.ledger.note())
        rig.protocol = Protocol(ledger=known, now_ns=rig.now)
    else:
        rig.now += LEASE_NS
    return rig


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_key_that_can_begin_no_run_leases_no_stream_of_another_key(is_restarted):
    rig = _begun(is_restarted)
    patient_ns = rig.protocol.deadline_ns()

    with pytest.raises(
        PeerError, match="UNAUTHORISED: stream 'scanner' is another key's"
    ):
        rig.hello(b"t", STIMULI, role="stimulus")

    assert rig.protocol.deadline_ns() == patient_ns
    rig.hello(b"p-2", OWNER)
    assert rig.missing(b"p-2", OWNER, 1)


def test_another_scanner_waits_while_the_runs_own_may_come_back():
    rig = _begun(is_restarted=True)

    with pytest.raises(PeerError, match="BUSY: run 'run-1' is under way"):
        rig.hello(b"q", THIEF)
    rig.now += LEASE_NS
    rig.hello(b"q", THIEF)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_the_runs_own_scanner_has_its_stream_back_from_another_key(is_restarted):
    rig = _begun(is_restarted)
    rig.now += LEASE_NS
    rig.hello(b"q", THIEF)

    rig.hello(b"p-2", OWNER)

    assert rig.missing(b"p-2", OWNER, 1)
    with pytest.raises(PeerError, match="NO_HELLO"):
        rig.say(b"q", Heartbeat(), THIEF)
    with pytest.raises(PeerError, match="BUSY"):
        rig.hello(b"q", THIEF)


def test_who_only_leased_the_stream_of_an_abandoned_run_keeps_nobody_from_the_next():
    rig = _begun(is_restarted=True)
    rig.now += LEASE_NS
    rig.hello(b"q", THIEF)
    rig.hello(b"r", _device("scanner", key=4), stream="other")
    start = structs.replace(START, run="run-2", stream="other")

    aborted = rig.say(b"r", start, _device("scanner", key=4))

    assert [type(action).__name__ for action in aborted] == ["Note", "EndRun"]


def test_no_other_scanner_ends_a_run():
    rig = Keyed()
    rig.hello(b"p", OWNER)
    rig.say(b"p", START, OWNER)
    rig.hello(b"q", THIEF, stream="pulse")

    with pytest.raises(PeerError, match="BUSY: the run's scanner is 'scanner'"):
        rig.say(b"q", RunEnd(count=65), THIEF, run="run-1", stream="pulse")

    assert rig.protocol.state == "RUNNING"
    assert rig.protocol.ledger.expected("pulse") == 0


def test_one_key_takes_up_a_share_of_the_room():
    rig, eye = Keyed(), _device("observer", key=5)
    for number in range(MOST_OF_A_KEY):
        rig.hello(b"o%d" % number, eye, role="observer")

    with pytest.raises(PeerError) as caught:
        rig.hello(b"one-more", eye, role="observer")

    assert str(caught.value) == "BUSY: 16 peers of this key are connected"
    rig.hello(b"o0", eye, role="observer")
    rig.hello(b"p", OWNER)
    rig.now += LEASE_NS
    rig.hello(b"one-more", eye, role="observer")


def test_who_was_silent_does_not_come_back_beyond_the_share_by_heartbeats():
    rig, eye = Keyed(), _device("observer", key=5)
    every = []
    for turn in range(4):
        rig.now += LEASE_NS
        for number in range(MOST_OF_A_KEY):
            every.append(b"o%d-%d" % (turn, number))
            rig.hello(every[-1], eye, role="observer")
        for one in every:
            with contextlib.suppress(PeerError):
                rig.say(one, Heartbeat(), eye)

    for one in every[:-MOST_OF_A_KEY]:
        with pytest.raises(PeerError, match="NO_HELLO"):
            rig.say(one, Heartbeat(), eye)
    rig.hello(b"p", OWNER)


def test_a_scanner_that_is_back_under_a_new_name_is_there_from_its_hello_on():
    rig = _begun(is_restarted=False)
    rig.hello(b"q", THIEF)
    rig.hello(b"r", _device("scanner", key=4), stream="other")
    back = Hello(role="scanner", stream="scanner", run="run-1")
    rig.say(b"p-2", back, OWNER)
    start = structs.replace(START, run="run-2", stream="other")

    with pytest.raises(PeerError, match="BUSY: run 'run-1' is under way"):
        rig.say(b"r", start, _device("scanner", key=4))


def test_a_sender_that_is_back_needs_no_more_room_than_it_had():
    rig = Keyed()
    back = Hello(role="scanner", stream="s0", lease="secret")
    for number in range(MAX_PEERS):
        device = _device("scanner", key=number // MOST_OF_A_KEY)
        hello = structs.replace(back, stream=f"s{number}")
        rig.say(b"p%d" % number, hello, device)

    with pytest.raises(PeerError, match="BUSY: 64 peers are connected"):
        rig.hello(b"q", _device("scanner", key=9), stream="another")
    rig.say(b"again", back, _device("scanner", key=0))

    assert len(rig.protocol.streams) == MAX_PEERS


def test_another_key_may_begin_the_next_run_when_the_first_scanner_is_gone():
    rig = Keyed()
    rig.hello(b"p", OWNER)
    rig.say(b"p", START, OWNER)
    rig.protocol.expel(frozenset({THIEF.public_key}))
    rig.hello(b"q", THIEF)
    start = structs.replace(START, run="run-2")

    aborted = rig.say(b"q", start, THIEF)
    begun = rig.say(b"q", start, THIEF)

    assert [type(action).__name__ for action in aborted] == ["Note", "EndRun"]
    assert rig.protocol.run_id == "run-2"
    assert [type(action).__name__ for action in begun][:2] == ["Log", "StartRun"]


def test_expelled_peers_are_forgotten_and_the_others_are_not():
    rig = Keyed()
    rig.hello(b"p", OWNER)
    rig.hello(b"q", THIEF, stream="other")

    rig.protocol.expel(frozenset({THIEF.public_key}))

    assert rig.protocol.streams == {"other"}


@pytest.mark.parametrize(
    "host",
    ["*", "0.0.0.0", "0", "0x0", "00.0.0.0", "[::]", "[0::0]", "[::ffff:0.0.0.0]",
     "eth0", "224.0.0.1", "example.org", "[::1", "::1]", "[fd00::5"],
)  # fmt: skip
def test_with_keys_an_address_is_one_interface_and_never_all(host):
    with pytest.raises(UsageError) as caught:
        check_address(f"tcp://{host}:5760", has_keys=True)

    assert str(caught.value) == (
        f"address 'tcp://{host}:5760': expected the IP address of one interface, "
        f"found {host}. Name the interface of the rig's own network."
    )


@pytest.mark.parametrize("host", ["10.0.0.5", "192.168.1.2", "[fd00::5]", "127.0.0.1"])
def test_with_keys_one_interface_is_allowed_and_the_other_sockets_stay_on_it(host):
    check_address(f"tcp://{host}:5760", has_keys=True)

    assert beside(f"tcp://{host}:5760") == f"tcp://{host}:*"
    assert beside("ipc:///run/x") == "tcp://127.0.0.1:*"


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


@pytest.mark.parametrize(
    ("heard", "has_hung_up", "verdict"),
    [
        (b"", True, "REFUSED"),
        (GREETING[:11], True, "REFUSED"),
        (GREETING, True, "REFUSED"),
        (GREETING, False, "UNANSWERED"),
        (GREETING.replace(b"CURVE", b"NULL\0"), True, "LET_IN"),
        (GREETING.replace(b"CURVE", b"PLAIN"), False, "LET_IN"),
        (GREETING + b"\x04\x05READY", False, "LET_IN"),
    ],
)
def test_more_than_a_greeting_that_names_curve_is_a_breach(heard, has_hung_up, verdict):
    assert verdict_from(heard, has_hung_up=has_hung_up) == verdict
