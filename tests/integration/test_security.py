"""A server with keys, over real sockets: who is let in, and when the server ends."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.utils.monitor
from msgspec import structs
from neuroflow_client import Client, RefusedError, SilenceError, VolumeOutcome
from neuroflow_client.frames import request

from bci_bridge import gate, self_attack, zap
from bci_bridge.endpoints import Lock, bound
from bci_bridge.keyfolder import (
    make_device,
    make_server,
    read_credentials,
    read_key_pair,
    revoke_device,
)
from bci_bridge.keyring import Credentials, KeyPair
from bci_bridge.messages import (
    Heartbeat,
    Hello,
    Missing,
    Reject,
    ReplayRequest,
    Welcome,
)
from bci_bridge.player import play, run_start_from
from bci_bridge.sender import Sender
from bci_bridge.server import Endpoints, ServeConfig, ServeReport, serve
from bci_bridge.wire import OUTCOME_HEADER_BYTES, decode, encode
from runtime.errors import ArtifactError, BackendError, NeuroFlowError, PeerError
from tests.integration.hostile import heard_by, keyed, storm
from tests.integration.lines import dealer
from tests.integration.tiny import SHAPE, MeanDecoder, PlayedEvent, PlayedRun

pytestmark = pytest.mark.slow

ROLES = {
    "player": ("scanner", "stimulus"),
    "scanner": ("scanner",),
    "scanner-2": ("scanner",),
    "stimulus": ("stimulus",),
    "watcher": ("observer",),
    "watcher-2": ("observer",),
    "chief": ("operator",),
}
KINDS = {"address": zmq.DEALER, "publish": zmq.SUB, "replay": zmq.DEALER}


class Rig:
    """A folder of keys and a server in a thread that uses it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self._log = folder, log
        self.error: NeuroFlowError | None = None
        self.report: ServeReport | None = None
        self.endpoints: Endpoints | None = None
        self.troubles: list[str] = []
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._body, name="guarded-server")

    def start(self) -> "Rig":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def stop(self) -> ServeReport:
        self._stopping.set()
        self.ended()
        assert self.report is not None
        return self.report

    def ended(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(10)
            assert not self._thread.is_alive()

    def close(self) -> None:
        self._stopping.set()
        self.ended()

    @property
    def address(self) -> str:
        assert self.endpoints is not None, self.error
        return self.endpoints.address

    def credentials(self, name: str) -> Credentials:
        found = read_credentials(
            self.folder / f"{name}.key", self.folder / "server.pub"
        )
        assert found is not None
        return found

    def client(self, name: str, **options: object) -> Client:
        return Client(
            self.address,
            key_file=str(self.folder / f"{name}.key"),
            server_key_file=str(self.folder / "server.pub"),
            **options,
        )

    def revoke(self, name: str) -> None:
        revoke_device(self.folder, name, datetime.now(UTC))
        time.sleep(2.5 * zap.WATCH_MS / 1000)

    def _body(self) -> None:
        config = ServeConfig(
            address="tcp://127.0.0.1:*", keys=str(self.folder), recording=str(self._log)
        )
        try:
            self.report = serve(
                config,
                MeanDecoder(),
                self._stopping.is_set,
                self._is_ready,
                on_trouble=self.troubles.append,
            )
        except NeuroFlowError as error:
            self.error = error
        finally:
            self._ready.set()

    def _is_ready(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._ready.set()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "keys"
    for name, roles in ROLES.items():
        make_device(folder, name, roles)
    return folder


@pytest.fixture
def rig(keys: Path, tmp_path: Path) -> Iterator[Rig]:
    """A folder of keys; `start` the server when it is as the test wants it."""
    shutil.copytree(keys, tmp_path / "keys")
    made = Rig(tmp_path / "keys", tmp_path / "log")
    yield made
    made.close()


def _run(run_id: str = "run-1", count: int = 3, **changes: object):
    start = run_start_from(PlayedRun(run_id, count), speed=None)
    return structs.replace(start, **changes)


def _volume(value: int):
    return np.full(SHAPE, value, np.int16)


def _answer(peer: "zmq.Socket[bytes]", timeout_ms: int = 3000):
    assert peer.poll(timeout_ms), "no answer"
    return decode(peer.recv_multipart(), header_bytes=OUTCOME_HEADER_BYTES).record


def _unknown(rig: Rig) -> Credentials:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    pair = KeyPair(name="nobody", public_key=public, secret_key=secret)
    return Credentials(pair=pair, server_key=rig.credentials("player").server_key)


def _said(sender: Sender, say) -> None:
    """Say one more thing and end the run."""
    with sender:
        say()
        sender.close()


def test_a_player_and_a_client_with_keys_meet_as_they_do_without(rig):
    rig.start()
    events = (PlayedEvent("t-1", 0.0), PlayedEvent("t-2", 3.2))

    play(
        PlayedRun("run-1", 20, events),
        rig.address,
        None,
        credentials=rig.credentials("player"),
    )
    outcomes = list(rig.client("watcher", run="run-1"))
    report = rig.stop()

    volumes = [o.volume_index for o in outcomes if isinstance(o, VolumeOutcome)]
    assert volumes == list(range(20))
    assert report.outcomes == {"VolumeOutcome": 20, "TrialOutcome": 2, "RunEnded": 1}
    assert report.rejected == {}
    assert report.self_attacks >= 12


def test_stimulus_software_has_a_key_of_its_own(rig):
    rig.start()
    with (
        Sender(rig.address, _run(), credentials=rig.credentials("scanner")) as scanner,
        Sender(
            rig.address,
            _run(),
            role="stimulus",
            credentials=rig.credentials("stimulus"),
        ) as stimulus,
    ):
        stimulus.event("t-1", 0.0, 1.0)
        scanner.volume(0, _volume(0), 0)
        stimulus.close()

    assert rig.stop().outcomes["TrialOutcome"] == 1


def test_an_operator_may_be_and_say_everything(rig):
    rig.start()
    events = (PlayedEvent("t-1", 0.0),)

    play(PlayedRun("run-1", 3, events), rig.address, None,
         credentials=rig.credentials("chief"))  # fmt: skip

    assert len(list(rig.client("chief", run="run-1"))) == 4


def test_raw_peers_without_a_key_hear_a_greeting_and_no_more(rig):
    rig.start()

    for where in ("address", "publish", "replay"):
        for said in (self_attack.NULL, self_attack.PLAIN):
            heard, has_hung_up = heard_by(getattr(rig.endpoints, where), *said)
            assert has_hung_up
            assert len(heard) <= 64
    assert rig.stop().rejected == {}


def test_half_a_handshake_is_given_up_after_a_second(rig):
    rig.start()
    halves = (b"", self_attack.NULL[0][:11], b"\xff" + bytes(8) + b"\x7f")

    with ThreadPoolExecutor(len(halves)) as peers:
        begin = time.monotonic()
        found = list(peers.map(lambda said: heard_by(rig.address, said), halves))

    assert [has_hung_up for _, has_hung_up in found] == [True] * 3
    assert time.monotonic() - begin < 2.5


def test_a_client_without_security_or_with_a_password_is_never_heard(rig):
    rig.start()
    for password in (None, "secret"):
        with dealer(rig.address) as peer:
            if password is not None:
                peer.disconnect(rig.address)
                peer.plain_username = peer.plain_password = password.encode()
                peer.connect(rig.address)
            # Refused already, it has nobody to send to.
            with suppress(zmq.Again):
                hello = Hello(role="scanner", stream="s")
                peer.send_multipart(encode(hello).frames, zmq.NOBLOCK)
            assert not peer.poll(300)
    with pytest.raises(BackendError, match="Is it running"):
        Sender(rig.address, _run(), timeout_s=0.3)
    with pytest.raises(SilenceError):
        list(Client(rig.address, timeout_s=0.3))

    assert rig.stop().rejected == {}


@pytest.mark.timeout(60)
def test_a_client_that_is_refused_before_it_speaks_waits_no_longer_than_it_was_told(
    rig, monkeypatch
):
    revoke_device(rig.folder, "chief", datetime.now(UTC))
    rig.start()

    def late(*arguments, **named):
        time.sleep(0.5)
        return request(*arguments, **named)

    monkeypatch.setattr("neuroflow_client.client.request", late)
    with pytest.raises(SilenceError, match=r"sign of life within 0\.3 s, found none"):
        list(rig.client("chief", timeout_s=0.3))


def test_a_key_that_is_not_in_force_is_let_in_nowhere(rig):
    revoke_device(rig.folder, "chief", datetime.now(UTC))
    rig.start()

    for key in (_unknown(rig), rig.credentials("chief")):
        for where, kind in KINDS.items():
            assert not _is_let_in(getattr(rig.endpoints, where), key, kind)


def _is_let_in(address: str, credentials: Credentials, kind: int) -> bool:
    context = zmq.Context()
    try:
        peer = context.socket(kind)
        monitor = peer.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        peer.curve_publickey = credentials.pair.public_key.encode()
        peer.curve_secretkey = credentials.pair.secret_key.encode()
        peer.curve_serverkey = credentials.server_key.encode()
        peer.connect(address)
        assert monitor.poll(3000), "no end of the handshake"
        found = zmq.utils.monitor.recv_monitor_message(monitor)["event"]
        peer.disable_monitor()
        return found == zmq.EVENT_HANDSHAKE_SUCCEEDED
    finally:
        context.destroy(linger=0)


def test_only_observers_and_operators_hear_outcomes(rig):
    rig.start()

    for where in ("publish", "replay"):
        address, kind = getattr(rig.endpoints, where), KINDS[where]
        for name in ("scanner", "stimulus", "player"):
            assert not _is_let_in(address, rig.credentials(name), kind)
        for name in ("watcher", "chief"):
            assert _is_let_in(address, rig.credentials(name), kind)
    with pytest.raises(RefusedError) as caught:
        list(rig.client("scanner"))
    assert str(caught.value) == (
        f"server {rig.address}: UNAUTHORISED: key 'scanner' may not be observer"
    )


def test_the_wrong_server_key_is_one_clear_line_at_both_ends(rig, tmp_path):
    make_server(tmp_path / "other")
    rig.start()
    key, other = rig.folder / "player.key", tmp_path / "other" / "server.pub"

    with pytest.raises(BackendError) as sender:
        Sender(
            rig.address, _run(), timeout_s=0.4, credentials=read_credentials(key, other)
        )
    with pytest.raises(SilenceError) as client:
        list(
            Client(
                rig.address,
                timeout_s=0.4,
                key_file=str(rig.folder / "watcher.key"),
                server_key_file=str(other),
            )
        )

    ending = "Is it running? If so, is this key allowed, and is the server's key right?"
    assert str(sender.value) == (
        f"server {rig.address}: expected an answer within 0.4 s, found none. {ending}"
    )
    assert str(client.value) == (
        f"server {rig.address}: expected a sign of life within 0.4 s, "
        f"found none. {ending}"
    )


def test_a_key_cannot_claim_a_role_that_is_not_its_own(rig):
    rig.start()
    claims = [
        ("stimulus", "scanner"),
        ("watcher", "scanner"),
        ("watcher", "stimulus"),
        ("scanner", "operator"),
    ]

    for name, role in claims:
        with pytest.raises(PeerError) as caught:
            Sender(rig.address, _run(), role=role, credentials=rig.credentials(name))
        assert str(caught.value) == f"UNAUTHORISED: key {name!r} may not be {role}"
    assert rig.stop().rejected["UNAUTHORISED"] == len(claims)


def test_a_scanner_without_the_role_of_stimulus_software_may_not_send_events(rig):
    rig.start()

    sender = Sender(rig.address, _run(), credentials=rig.credentials("scanner"))
    with pytest.raises(PeerError) as caught:
        _said(sender, lambda: sender.event("t-1", 0.0, 1.0))

    assert str(caught.value) == "UNAUTHORISED: key 'scanner' may not send EVENT"


def test_a_key_revoked_in_mid_run_is_refused_from_its_next_message(rig):
    rig.start()
    sender = Sender(rig.address, _run(), credentials=rig.credentials("scanner"))
    sender.volume(0, _volume(0), 0)
    # Only what has been read came under a key in force.
    assert next(iter(rig.client("watcher"))).volume_index == 0
    rig.revoke("scanner")

    with pytest.raises(PeerError) as caught:
        _said(sender, lambda: sender.volume(1, _volume(1), 0))
    report = rig.stop()

    assert str(caught.value) == "UNAUTHORISED: expected a key in force, found another"
    assert report.outcomes == {"VolumeOutcome": 1, "RunEnded": 1}


def test_a_revoked_subscriber_hears_no_more_and_the_others_miss_nothing(rig):
    rig.start()
    heard: list[int] = []

    def listen() -> None:
        heard.extend(o.volume_index for o in rig.client("watcher-2"))

    listener = threading.Thread(target=listen, name="listener")
    player = rig.credentials("player")
    with keyed(rig.endpoints.publish, rig.credentials("watcher"), zmq.SUB) as spy:
        spy.setsockopt(zmq.SUBSCRIBE, b"")
        with Sender(rig.address, _run(count=40), credentials=player) as sender:
            listener.start()
            for index in range(20):
                sender.volume(index, _volume(index), 0)
            assert spy.poll(3000)
            rig.revoke("watcher")
            while spy.poll(100):
                spy.recv_multipart()
            for index in range(20, 40):
                sender.volume(index, _volume(index), 0)
        listener.join(10)
        assert not spy.poll(600)

    assert heard == list(range(40))


def test_a_revoked_observer_is_refused_at_the_replay_socket(rig):
    rig.start()
    request = encode(ReplayRequest()).frames
    with keyed(rig.endpoints.replay, rig.credentials("watcher")) as peer:
        peer.send_multipart(request)
        before = _answer(peer)
        rig.revoke("watcher")
        peer.send_multipart(request)
        after = _answer(peer)

    assert type(before).__name__ == "ReplayDone"
    assert isinstance(after, Reject)
    assert after.reason == "UNAUTHORISED"


def test_a_key_made_while_the_server_runs_is_let_in(rig):
    rig.start()
    make_device(rig.folder, "late", ("scanner", "observer"))
    time.sleep(2.5 * zap.WATCH_MS / 1000)

    play(PlayedRun("run-1", 2), rig.address, None, credentials=rig.credentials("late"))

    assert len(list(rig.client("late", run="run-1"))) == 2


def test_a_routing_id_in_use_cannot_be_taken_by_another_key(rig):
    rig.start()
    hello = encode(Hello(role="scanner", stream="scanner")).frames
    owner, thief = rig.credentials("scanner"), rig.credentials("scanner-2")

    with keyed(rig.address, owner, name=b"the-scanner") as first:
        first.send_multipart(hello)
        assert isinstance(_answer(first), Welcome)
        with keyed(rig.address, thief, name=b"the-scanner") as second:
            second.send_multipart(hello)
            assert not second.poll(300)
        first.send_multipart(encode(Heartbeat()).frames)
        first.send_multipart(encode(Missing(volume_index=0, stream="scanner")).frames)
        assert _answer(first).reason == "ILLEGAL_STATE"


def test_a_routing_id_left_behind_is_not_another_keys_to_go_on_with(rig):
    rig.start()
    hello = encode(Hello(role="scanner", stream="scanner")).frames
    owner, thief = rig.credentials("scanner"), rig.credentials("scanner-2")

    with keyed(rig.address, owner, name=b"the-scanner") as first:
        first.send_multipart(hello)
        assert isinstance(_answer(first), Welcome)
    time.sleep(0.2)
    with keyed(rig.address, thief, name=b"the-scanner") as second:
        for record in (Heartbeat(), Hello(role="scanner", stream="scanner")):
            second.send_multipart(encode(record).frames)
            refusal = _answer(second)
            assert refusal.reason == "UNAUTHORISED"
            assert refusal.detail == "the routing id is another key's"


def test_a_damaged_list_keeps_the_server_from_starting(rig):
    (rig.folder / "allowed.json").write_bytes(b'{"version": 1, "devices": [')

    rig.start()

    assert isinstance(rig.error, ArtifactError)
    assert str(rig.error) == (
        f"{rig.folder / 'allowed.json'}: damaged: Input data was truncated"
    )


def test_a_list_damaged_later_lets_nobody_in_and_throws_nobody_out(rig):
    rig.start()
    file = rig.folder / "allowed.json"
    good = file.read_bytes()
    with Sender(rig.address, _run(), credentials=rig.credentials("scanner")) as sender:
        sender.volume(0, _volume(0), 0)
        file.write_bytes(good[:-9])
        time.sleep(2.5 * zap.WATCH_MS / 1000)
        with keyed(rig.address, rig.credentials("watcher")) as waiting:
            waiting.send_multipart(encode(Hello(role="observer")).frames)
            assert not waiting.poll(400)
            sender.volume(1, _volume(1), 0)
            file.write_bytes(good)
            # Whoever waited outside comes in by itself.
            assert isinstance(_answer(waiting), Welcome)
        sender.volume(2, _volume(2), 0)

    assert rig.stop().outcomes["VolumeOutcome"] == 3
    assert [line.startswith(f"{file}: damaged: ") for line in rig.troubles] == [True]


def test_a_dead_handler_ends_the_server_and_lets_nobody_in_meanwhile(rig, monkeypatch):
    rig.start()

    def broken(request, rules):
        raise RuntimeError("a bug")

    monkeypatch.setattr(zap, "answer", broken)
    with keyed(rig.address, rig.credentials("scanner")) as peer:
        peer.send_multipart(encode(Hello(role="scanner", stream="s")).frames)
        assert not peer.poll(300)
    rig.ended()

    assert isinstance(rig.error, BackendError)
    assert str(rig.error) == (
        "authentication: expected its thread to run, found it dead: "
        "RuntimeError('a bug'). Start the server again"
    )


def test_without_a_handler_a_socket_lets_nobody_in(rig):
    pair = read_key_pair(rig.folder / "server.key")
    with zmq.Context() as context:
        inputs, endpoint = bound(
            context,
            zmq.ROUTER,
            "tcp://127.0.0.1:*",
            high_water=8,
            lock=Lock(pair, zap.INPUTS),
        )
        with inputs, keyed(endpoint, rig.credentials("chief")) as peer:
            peer.send(b"hello")
            assert not inputs.poll(300)


def _all_are_let_in(request, rules):
    key = zap.z85_from_bytes(request[6])
    return [zap.VERSION, request[1], b"200", b"OK", key.encode(), b""]


# Ingress and publisher attack themselves at the same time; either may be first. On a
# busy machine the first key's attack may run out of time, and the next one tells.
_A_KEY_LET_IN = [
    f"self-attack: expected a refusal, found {key} at the {where} let in"
    for key in ("an unknown key", "a key of the wrong role")
    for where in ("inputs", "publisher")
]


def test_a_server_that_lets_an_unknown_key_in_never_becomes_ready(rig, monkeypatch):
    monkeypatch.setattr(zap, "answer", _all_are_let_in)

    rig.start()

    assert rig.endpoints is None
    assert str(rig.error) in _A_KEY_LET_IN


def test_a_server_whose_sockets_ask_for_no_key_never_becomes_ready(rig, monkeypatch):
    monkeypatch.setattr(gate.Gate, "lock", lambda self, domain: None)

    rig.start()

    assert rig.endpoints is None
    assert str(rig.error) in [
        f"self-attack: expected a refusal, found NULL at the {where} let in"
        for where in ("inputs", "publisher")
    ]


def test_a_server_that_does_not_look_at_roles_never_becomes_ready(rig, monkeypatch):
    monkeypatch.setattr("bci_bridge.protocol.check_authority", lambda *_: None)

    rig.start()

    assert rig.endpoints is None
    assert str(rig.error) == (
        "self-attack: expected a refusal, "
        "found a key of the wrong role at the inputs let in"
    )


def test_a_server_that_fails_a_later_attack_ends_and_ends_its_run(rig, monkeypatch):
    monkeypatch.setattr(self_attack, "PERIOD_S", 0.3)
    rig.start()
    sender = Sender(
        rig.address, _run(), outage_s=0.5, credentials=rig.credentials("scanner")
    )
    sender.volume(0, _volume(0), 0)
    monkeypatch.setattr(zap, "answer", _all_are_let_in)
    rig.ended()
    with pytest.raises(BackendError):
        sender.close()

    assert str(rig.error) in _A_KEY_LET_IN


def test_attacks_go_on_while_a_run_goes_on(rig, monkeypatch):
    monkeypatch.setattr(self_attack, "PERIOD_S", 0.05)
    rig.start()

    play(
        PlayedRun("run-1", 20, tr_s=0.05),
        rig.address,
        1.0,
        credentials=rig.credentials("player"),
    )
    report = rig.stop()

    assert report.self_attacks > 24
    assert report.rejected == {}
    assert report.outcomes["VolumeOutcome"] == 20


def test_a_storm_of_hostile_connections_costs_a_run_nothing(rig):
    rig.start()
    found = []
    attackers = threading.Thread(
        target=lambda: found.append(storm(rig.address, 2000)), name="storm"
    )
    attackers.start()

    play(
        PlayedRun("run-1", 40, tr_s=0.05),
        rig.address,
        1.0,
        run_start=run_start_from(PlayedRun("run-1", 40, tr_s=0.05), budget_s=1.0),
        credentials=rig.credentials("player"),
    )
    attackers.join()
    outcomes = list(rig.client("watcher", run="run-1"))
    report = rig.stop()

    assert [o.input for o in outcomes] == ["OK"] * 40
    assert {o.timing for o in outcomes} == {"LIVE"}
    assert report.rejected == {}
    assert found[0]["let in"] == 0
    assert sum(found[0].values()) > 1800


def _places(scheme, folder):
    if scheme == "ipc":
        return [f"ipc://{folder}/{name}" for name in ("in", "pub", "re")]
    return ["tcp://[::1]:*"] * 3


@pytest.mark.parametrize("scheme", ["ipc", "ipv6"])
def test_keys_work_over_ipc_and_ipv6(tmp_path, scheme):
    if scheme == "ipv6" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    folder = tmp_path / "keys"
    make_device(folder, "player", ("scanner", "stimulus", "observer"))
    ready, stopping = threading.Event(), threading.Event()
    found: list[Endpoints] = []
    address, publish, replay = _places(scheme, tmp_path)
    config = ServeConfig(
        address=address, publish=publish, replay=replay, keys=str(folder)
    )
    server = threading.Thread(
        target=lambda: serve(
            config,
            MeanDecoder(),
            stopping.is_set,
            lambda listening: (found.append(listening), ready.set()),
        )
    )
    server.start()
    with ExitStack() as stack:
        stack.callback(lambda: (stopping.set(), server.join(10)))
        assert ready.wait(10)
        key, public = folder / "player.key", folder / "server.pub"
        play(
            PlayedRun("run-1", 2),
            found[0].address,
            None,
            credentials=read_credentials(key, public),
        )
        client = Client(
            found[0].address,
            run="run-1",
            key_file=str(key),
            server_key_file=str(public),
        )
        assert len(list(client)) == 2


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as line:
            line.bind(("::1", 0))
    except OSError:
        return False
    return True
