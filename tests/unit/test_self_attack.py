"""What a server makes of its own attacks that nobody answers, and of one let in."""

import contextlib
import socket
import threading
import time

import pytest
import zmq

from bci_bridge import self_attack, zap
from bci_bridge.endpoints import bound
from bci_bridge.gate import Gate
from bci_bridge.keyfolder import make_server
from bci_bridge.self_attack import ATTEMPTS, GREETING_BYTES
from bci_bridge.zap import PUBLISH, REPLAY
from runtime.errors import GuardError

ROUND = 4
"""Attacks on one socket."""


@pytest.fixture
def attacked(tmp_path, monkeypatch):
    """Let a gate attack a listening socket that says nothing, or what it is given."""
    monkeypatch.setattr(self_attack, "PATIENCE_S", 0.05)
    monkeypatch.setattr(self_attack, "PAUSE_S", 0.01)
    make_server(tmp_path / "keys")
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        gate = Gate(tmp_path / "keys", context)
        stack.callback(gate.close)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        place = f"tcp://127.0.0.1:{listening.getsockname()[1]}"

        def begin(*, is_proven, said=b""):
            if said:
                answering = threading.Thread(target=answer, args=(listening, said))
                answering.start()
                stack.callback(answering.join)
            gate.attack([("inputs", place, zmq.DEALER)], is_proven=is_proven)
            stack.callback(gate.stop_attack)
            return gate

        yield begin


def answer(listening, said):
    line, _ = listening.accept()
    with line:
        line.sendall(said)
        time.sleep(0.2)


def rounds(gate):
    """Go on until as many rounds are over as end a server that was never proven."""
    until = time.monotonic() + 20
    while gate._attack.unanswered < (ATTEMPTS + 2) * ROUND:
        assert time.monotonic() < until
        gate.check()
        time.sleep(0.01)


def test_silence_ends_a_server_that_was_never_proven(attacked):
    with pytest.raises(GuardError, match="found no answer to a key of the wrong role"):
        rounds(attacked(is_proven=False))


def test_silence_of_a_server_that_was_proven_is_told_and_ends_nothing(attacked):
    gate = attacked(is_proven=True)

    rounds(gate)

    assert gate.trouble == (
        "self-attack: no answer to a key of the wrong role at the inputs yet"
    )
    assert not gate.has_held()


def test_an_attack_that_is_let_in_ends_a_server_that_was_proven(attacked):
    gate = attacked(is_proven=True, said=bytes(GREETING_BYTES + 1))

    with pytest.raises(GuardError, match="found NULL at the inputs let in"):
        rounds(gate)


def test_a_socket_without_a_file_is_attacked_as_any_other(tmp_path):
    name = f"neuroflow-{tmp_path.name}-{time.monotonic_ns()}"
    make_server(tmp_path / "keys")
    with zmq.Context() as context:
        gate = Gate(tmp_path / "keys", context)
        line, place = bound(
            context,
            zmq.ROUTER,
            f"ipc://@{name}",
            high_water=10,
            lock=gate.lock(b"inputs"),
        )
        gate.attack([("outcomes", place, zmq.DEALER)])
        try:
            until = time.monotonic() + 20
            while not gate.has_held():
                assert time.monotonic() < until
                gate.check()
                time.sleep(0.01)
        finally:
            gate.stop_attack()
            line.close(linger=0)
            gate.close()

    assert gate.attacks_passed >= ROUND


@pytest.fixture
def guarded(tmp_path):
    """Let a gate attack a socket that asks for the keys and roles of a domain."""
    make_server(tmp_path / "keys")
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        gate = Gate(tmp_path / "keys", context)
        stack.callback(gate.close)

        def begin(domain, name, ours, theirs):
            line, place = bound(
                context,
                ours,
                "tcp://127.0.0.1:*",
                high_water=10,
                lock=gate.lock(domain),
            )
            stack.callback(line.close, linger=0)
            gate.attack([(name, place, theirs)])
            stack.callback(gate.stop_attack)
            until = time.monotonic() + 20
            while not gate.has_held():
                assert time.monotonic() < until
                gate.check()
                time.sleep(0.01)
            return gate

        yield begin


SOCKETS = [
    (PUBLISH, "publisher", zmq.PUB, zmq.SUB),
    (REPLAY, "replay", zmq.ROUTER, zmq.DEALER),
]


@pytest.mark.parametrize("socket", SOCKETS, ids=["publisher", "replay"])
def test_a_socket_that_asks_for_the_role_of_a_key_holds(guarded, socket):
    assert guarded(*socket).attacks_passed >= ROUND


@pytest.mark.parametrize("socket", SOCKETS, ids=["publisher", "replay"])
def test_a_socket_that_does_not_look_at_roles_never_holds(guarded, socket, monkeypatch):
    domain, name, *_ = socket
    monkeypatch.setitem(zap.DOMAINS, domain, None)

    with pytest.raises(GuardError) as raised:
        guarded(*socket)

    assert str(raised.value) == (
        "self-attack: expected a refusal, "
        f"found a key of the wrong role at the {name} let in"
    )
