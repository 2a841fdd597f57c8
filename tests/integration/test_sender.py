"""A sender through outages and its own death: nothing lost, twice, or waited for."""

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zmq
from msgspec import UNSET, structs
from neuroflow_client import Client, TrialOutcome, VolumeOutcome

from bci_bridge import delivery, recorder
from bci_bridge.messages import Event, Goodbye, Hello, RunEnd, RunStart, Volume
from bci_bridge.player import play, run_start_from
from bci_bridge.sender import Sender
from bci_bridge.unfinished import finish_spool, held_run
from bci_bridge.window import WINDOW
from bci_bridge.wire import encode
from runtime.errors import ArtifactError, BackendError, PeerError, UsageError
from tests.integration.restarting import crash, restarting, said
from tests.integration.tiny import SHAPE, PlayedEvent, PlayedRun
from verbs.play import play_recording

pytestmark = pytest.mark.slow


def _run(run_id="run-1", count=1000, **changes):
    start = run_start_from(PlayedRun(run_id, count), speed=None)
    return structs.replace(start, **changes)


def _volume(value):
    return np.full(SHAPE, value, np.int16)


def _send(sender, indices, pump_ms=0):
    for index in indices:
        sender.volume(index, _volume(index), index)
        sender.pump(pump_ms)


def _held(folder):
    held = held_run(folder)
    assert held is not None
    return held.run, held.is_finished


def _pump_until(sender, is_done):
    until_s = time.monotonic() + 10
    while not is_done():
        assert time.monotonic() < until_s, "it never came"
        sender.pump(10)


def _indices(log):
    return [record.volume_index for record in log if isinstance(record, Volume)]


def _is_whole(log):
    kinds = Counter(type(record).__name__ for record in log)
    in_order = [record.sequence for record in log] == list(range(len(log)))
    return in_order and kinds["RunStart"] == kinds["RunEnd"] == 1


def test_an_outage_holds_nobody_up_and_is_made_up_for(tmp_path):
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        _send(sender, range(5))
        server.down()
        # The server is away until all is said: whoever waited for it would never end.
        _send(sender, range(5, 400))
        away = len(server.log)
        server.up()
        _pump_until(sender, lambda: len(server.log) == 401)
        sender.close()

    assert away <= 6
    assert _is_whole(server.log)
    assert _indices(server.log) == list(range(400))


def test_an_outage_without_a_spool_is_waited_for_in_memory():
    with restarting() as server:
        sender = Sender(server.address, _run())
        server.down()
        _send(sender, range(3 * WINDOW))
        server.up()
        sender.close()

    assert sender.spool_state == "OFF"
    assert _indices(server.log) == list(range(3 * WINDOW))


def test_a_server_that_is_away_for_too_long_is_one_clear_line(tmp_path):
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path, outage_s=0.2)
        server.down()
        with pytest.raises(BackendError) as caught, sender:
            _send(sender, range(100), pump_ms=20)
        server.up()
        finish_spool(server.address, tmp_path)

    assert str(caught.value) == (
        f"server {server.address}: expected acknowledgements, "
        "found none that is new for 0.2 s"
    )
    assert _is_whole(server.log)
    assert len(_indices(server.log)) > 3


def test_what_a_power_cut_took_from_the_server_is_sent_again(tmp_path):
    with restarting(lag=20) as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        _send(sender, range(60))
        _pump_until(sender, lambda: len(server.log) == 61)
        before = said(server.log)
        server.down(power_cut=True)
        left = len(server.log)
        server.up()
        _send(sender, range(60, 80))
        sender.close()

    assert left == 41
    assert said(server.log)[:61] == before
    assert _indices(server.log) == list(range(80))
    assert _is_whole(server.log)


def test_a_run_that_a_power_cut_took_whole_begins_again():
    with restarting(lag=20) as server:
        sender = Sender(server.address, _run())
        _send(sender, range(10))
        _pump_until(sender, lambda: len(server.log) == 11)
        server.down(power_cut=True)
        left = len(server.log)
        server.up()
        _send(sender, range(10, 30))
        sender.close()

    assert left == 0
    assert _is_whole(server.log)
    assert _indices(server.log) == list(range(30))


def test_a_server_that_forgot_the_run_is_one_clear_line():
    with restarting() as server:
        sender = Sender(server.address, _run())
        _send(sender, range(3))
        server.down(forgets=True)
        server.up()
        with pytest.raises(PeerError) as caught, sender:
            _pump_until(sender, lambda: False)

    assert str(caught.value) == (
        "WRONG_RUN: expected a server that goes on with run 'run-1', "
        "found one that knows no run"
    )


def test_a_killed_sender_does_not_begin_a_run_again_that_the_server_forgot(tmp_path):
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        _send(sender, range(3))
        crash(sender)
        server.down(forgets=True)
        n_before = len(server.log)
        server.up()
        with pytest.raises(PeerError, match="found one that knows no run"):
            Sender(server.address, _run(), spool=tmp_path)

    assert len(server.log) == n_before
    assert _held(tmp_path) == ("run-1", False)


def test_a_server_that_leaves_everything_unanswered_is_connected_anew(monkeypatch):
    monkeypatch.setattr(delivery, "SILENCE_NS", 100_000_000)
    with restarting() as server:
        sender = Sender(server.address, _run())
        before = sender._line._socket.getsockopt(zmq.ROUTING_ID)
        server.down()
        _send(sender, range(3))
        deadline_s = time.monotonic() + 0.3
        while time.monotonic() < deadline_s:
            sender.pump(10)
        server.up()
        _pump_until(sender, lambda: len(server.log) == 4)
        after = sender._line._socket.getsockopt(zmq.ROUTING_ID)
        sender.close()

    assert before != after
    assert _is_whole(server.log)


def test_a_killed_sender_is_gone_on_with_at_once(tmp_path):
    with restarting(lag=7) as server:
        first = Sender(server.address, _run(), spool=tmp_path)
        first.event("t-1", 0.0, 1.0)
        first.event("t-2", 3.0, 1.0)
        _send(first, range(40))
        first.missing(40)
        crash(first)
        begin_s = time.monotonic()
        second = Sender(server.address, _run(), spool=tmp_path)
        taken_over_s = time.monotonic() - begin_s
        resumed = second.resumed
        _send(second, range(resumed.volumes, 50))
        second.close()

    assert taken_over_s < 4.5  # the lease, which no clock here ever ends, is 5 s
    assert (resumed.volumes, resumed.last_index) == (41, 39)
    assert (resumed.last_acquired_ns, resumed.has_ended) == (39, False)
    assert resumed.trials == {"t-1", "t-2"}
    assert _is_whole(server.log)
    assert _indices(server.log) == [*range(40), *range(41, 50)]


def test_a_sender_killed_before_its_farewell_was_heard_ends_only_once(tmp_path):
    with restarting() as server:
        first = Sender(server.address, _run(), spool=tmp_path)
        _send(first, range(3))
        server.down()
        first._say(RunEnd(count=3))
        crash(first)
        server.up()
        second = Sender(server.address, _run(), spool=tmp_path)
        has_ended = second.resumed.has_ended
        second.close()

    assert has_ended
    assert _is_whole(server.log)


def test_server_and_sender_may_both_die(tmp_path):
    with restarting(lag=5) as server:
        for attempt in range(6):
            sender = Sender(server.address, _run(), spool=tmp_path)
            begin = 0 if sender.resumed is None else sender.resumed.volumes
            _send(sender, range(begin, begin + 15))
            if attempt % 2:
                server.down(power_cut=True)
                _send(sender, range(begin + 15, begin + 20))
                server.up()
            crash(sender)
        assert finish_spool(server.address, tmp_path) == "run-1"

    assert _is_whole(server.log)
    assert _indices(server.log) == list(range(3 * 15 + 3 * 20))
    assert server.log[-1].aborted


def test_a_run_that_was_killed_at_its_start_begins_once(tmp_path):
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        crash(sender)
        sender = Sender(server.address, _run(), spool=tmp_path)
        _send(sender, range(2))
        sender.close()

    kinds = [type(record) for record in server.log]
    assert kinds == [RunStart, Volume, Volume, RunEnd]


def test_the_next_run_uses_the_spool_of_the_last(tmp_path):
    with restarting() as server:
        for run_id in ("run-1", "run-2"):
            with Sender(server.address, _run(run_id), spool=tmp_path) as sender:
                _send(sender, range(3))
            assert sender.resumed is None
            assert _held(tmp_path) == (run_id, True)
        assert finish_spool(server.address, tmp_path) == ""

    assert [record.run for record in server.log] == ["run-1"] * 5 + ["run-2"] * 5


def test_who_dies_before_it_found_the_server_is_followed_by_the_same_run(tmp_path):
    with restarting() as server:
        with Sender(server.address, _run("run-1"), spool=tmp_path) as sender:
            _send(sender, range(3))
        with pytest.raises(BackendError):
            Sender("tcp://127.0.0.1:9", _run("run-2"), spool=tmp_path, timeout_s=0.05)
        found = _held(tmp_path)
        with Sender(server.address, _run("run-2"), spool=tmp_path) as sender:
            _send(sender, range(3))

    assert found == ("run-2", False)
    assert [record.run for record in server.log] == ["run-1"] * 5 + ["run-2"] * 5


def test_another_run_must_wait_until_the_one_in_the_spool_is_finished(tmp_path):
    with restarting() as server:
        crash(Sender(server.address, _run("run-1"), spool=tmp_path))
        with pytest.raises(UsageError) as caught:
            Sender(server.address, _run("run-2"), spool=tmp_path)
        with pytest.raises(UsageError, match="found other tr_s"):
            Sender(server.address, _run("run-1", tr_s=0.5), spool=tmp_path)
        assert finish_spool(server.address, tmp_path) == "run-1"
        Sender(server.address, _run("run-2"), spool=tmp_path).close()

    assert str(caught.value) == (
        f"spool {tmp_path}: expected run 'run-2' of stream 'scanner', found run "
        "'run-1' of stream 'scanner' unfinished. Go on with that run, end it with "
        "bci_bridge.unfinished.finish_spool, or delete the folder to give up what the "
        "server does not have."
    )


def test_a_run_that_the_server_refuses_leaves_nothing_in_the_spool(running, tmp_path):
    server = running(recording=None)

    with pytest.raises(PeerError, match="BAD_GEOMETRY"):
        Sender(server.address, _run(shape=(9, 9, 9)), spool=tmp_path)

    assert held_run(tmp_path) is None


def test_a_server_that_has_more_than_the_spool_is_not_gone_on_with(tmp_path):
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        _send(sender, range(5))
        _pump_until(sender, lambda: len(server.log) == 6)
        crash(sender)
        (segment,) = tmp_path.glob("*.spool")
        whole = segment.read_bytes()
        segment.write_bytes(whole[:-1])
        with pytest.raises(ArtifactError, match="expected at most 5 messages"):
            Sender(server.address, _run(), spool=tmp_path)

    assert len(server.log) == 6


def test_a_disk_that_is_full_changes_the_state_and_nothing_else(tmp_path, monkeypatch):
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        _send(sender, range(2))
        states = [sender.spool_state]
        monkeypatch.setattr("bci_bridge.spool.os.writev", lambda fd, parts: 1)
        _send(sender, range(2, 40))
        states.append(sender.spool_state)
        sender.close()

    assert states == ["ON", "DEGRADED"]
    assert _is_whole(server.log)
    assert _indices(server.log) == list(range(40))


def test_stimulus_software_goes_on_with_its_events(tmp_path):
    with restarting() as server:
        scanner = Sender(server.address, _run(), spool=tmp_path / "scanner")
        options = {"role": "stimulus", "spool": tmp_path / "stimulus"}
        first = Sender(server.address, _run(), **options)
        first.event("t-1", 0.0, 1.0)
        crash(first)
        with Sender(server.address, _run(), **options) as second:
            second.event("t-2", 1.0, 1.0)
            trials = second.resumed.trials
        scanner.close()

    events = [record for record in server.log if isinstance(record, Event)]
    assert trials == {"t-1"}
    assert [(event.trial_id, event.sequence) for event in events] == [
        ("t-1", 0), ("t-2", 1),
    ]  # fmt: skip


class _KilledError(Exception):
    """Stands for SIGKILL where a process of its own would be slow."""


def test_a_player_goes_on_after_what_it_said(running, tmp_path, monkeypatch):
    server = running(recording=str(tmp_path / "log"))
    events = tuple(PlayedEvent(f"t-{n}", 5.0 * n) for n in range(8))
    run, sent = PlayedRun("run-1", 40, events), []
    for kill_at in (0, 13, 14, 27, None):
        if kill_at is not None:
            _kill_before(monkeypatch, kill_at)
            with pytest.raises(_KilledError):
                play(run, server.address, None, spool=tmp_path / "spool")
            monkeypatch.undo()
        else:
            sent.append(play(run, server.address, None, spool=tmp_path / "spool"))
    outcomes = list(Client(server.address, run="run-1"))

    volumes = [o.label for o in outcomes if isinstance(o, VolumeOutcome)]
    trials = [o.trial_id for o in outcomes if isinstance(o, TrialOutcome)]
    assert sent == [13]
    assert volumes == [str(index) for index in range(40)]
    assert trials == [f"t-{n}" for n in range(8)]


def _kill_before(monkeypatch, kill_at):
    volume = Sender.volume

    def fatal(sender, index, *arguments):
        if index == kill_at:
            crash(sender)
            sender._has_left = True
            raise _KilledError
        volume(sender, index, *arguments)

    monkeypatch.setattr(Sender, "volume", fatal)


@dataclass(frozen=True)
class _Recording:
    runs: tuple[PlayedRun, ...]
    left_out: str = ""


class _Breathing(PlayedRun):
    def confounds(self, names):
        return tuple(
            {name: 10.0 * k + index for k, name in enumerate(names)}
            for index in range(self.volume_count)
        )


def test_the_verb_sends_a_recordings_confounds_with_its_volumes(monkeypatch):
    recording = _Recording((_Breathing("run-1", 3),))
    monkeypatch.setattr("verbs.play.open_recording", lambda *_, **__: recording)

    with restarting() as server:
        play_recording(
            Path("x"),
            server.address,
            runs=(),
            speed=None,
            confounds=("breath", "pulse"),
        )
        play_recording(Path("x"), server.address, runs=(), speed=None, label="silent")

    told = [record.confounds for record in server.log if isinstance(record, Volume)]
    assert told[:3] == [{"breath": float(i), "pulse": 10.0 + i} for i in range(3)]
    assert told[3:] == [UNSET] * 3


def test_the_verb_goes_on_with_the_run_that_was_killed(tmp_path, monkeypatch, capsys):
    runs = tuple(PlayedRun(f"run-{n}", 6 + n) for n in range(3))
    monkeypatch.setattr("verbs.play.open_recording", lambda *_, **__: _Recording(runs))
    options = {"runs": (), "speed": None, "label": "x", "spool": tmp_path}

    with restarting() as server, monkeypatch.context() as death:
        _kill_before(death, 7)  # only run-2 has such a volume
        with pytest.raises(_KilledError):
            play_recording(Path("x"), server.address, **options)
        death.undo()
        monkeypatch.setattr(
            "verbs.play.open_recording", lambda *_, **__: _Recording(runs)
        )
        held = _held(tmp_path)
        play_recording(Path("x"), server.address, **options)

    assert held == ("run-2_x", False)
    assert held_run(tmp_path) is None
    assert [(r.run, r.volume_index) for r in server.log if isinstance(r, Volume)] == [
        (f"run-{n}_x", index) for n in range(3) for index in range(6 + n)
    ]
    assert capsys.readouterr().err.splitlines() == [
        "run-0: 6 volumes sent", "run-1: 7 volumes sent", "run-2: 1 volumes sent",
    ]  # fmt: skip


def test_what_memory_does_not_hold_is_sent_from_the_spool(tmp_path, monkeypatch):
    monkeypatch.setattr("bci_bridge.window.KEEP_BYTES", 500)
    with restarting() as server:
        sender = Sender(server.address, _run(), spool=tmp_path)
        server.down()
        _send(sender, range(200))
        in_memory = sum(
            sender._delivery._window.kept(sequence) is not None
            for sequence in range(201)
        )
        server.up()
        sender.close()

    assert 0 < in_memory < 20
    assert _is_whole(server.log)
    assert _indices(server.log) == list(range(200))


def test_without_a_spool_a_full_memory_waits_for_the_server(monkeypatch):
    monkeypatch.setattr("bci_bridge.window.KEEP_BYTES", 500)
    with restarting() as server:
        sender = Sender(server.address, _run(), outage_s=0.3)
        server.down()
        with pytest.raises(BackendError, match="none that is new for"):
            _send(sender, range(200))
        crash(sender)

    assert 0 < sender._said.volumes < 20


def test_a_run_that_begins_before_the_last_ones_end_is_on_disk_keeps_nobody_waiting(
    running, monkeypatch
):
    is_slow, sync = threading.Event(), recorder.os.fdatasync

    def held_up(descriptor):
        is_slow.wait(10)
        sync(descriptor)

    monkeypatch.setattr(recorder.os, "fdatasync", held_up)
    address = running().address
    first = Sender(address, _run("run-1"), stream="one", outage_s=5.0)
    _send(first, range(3))
    closed = threading.Event()
    ending = threading.Thread(target=lambda: (first.close(), closed.set()))
    ending.start()
    second, until_s = None, time.monotonic() + 10
    while second is None:
        assert time.monotonic() < until_s, "the first run never ended"
        with contextlib.suppress(PeerError):  # BUSY while the first run lasts
            second = Sender(address, _run("run-2"), stream="two")
    with second:
        is_waiting = ending.is_alive()
        is_slow.set()
        ending.join(4)

        assert is_waiting
        assert closed.is_set()


def test_a_rival_that_greets_a_server_first_is_waited_for():
    with restarting() as server:
        sender = Sender(server.address, _run())
        _send(sender, range(3))
        server.down()
        server.up()
        with zmq.Context() as context, context.socket(zmq.DEALER) as rival:
            rival.setsockopt(zmq.LINGER, 0)
            rival.connect(server.address)
            hello = Hello(role="scanner", stream="scanner", lease="another")
            rival.send_multipart(encode(hello).frames)
            assert rival.poll(5000)
            # Greeted anew, it hears that its stream has a sender.
            until_s = time.monotonic() + 0.5
            while time.monotonic() < until_s:
                sender.pump(20)
            rival.send_multipart(encode(Goodbye()).frames)
            _send(sender, range(3, 6))
            sender.close()

    assert _is_whole(server.log)
    assert _indices(server.log) == list(range(6))


def test_stimulus_software_started_again_goes_on_with_its_stream():
    def event(trial_id):
        with Sender(server.address, _run(), role="stimulus") as software:
            software.event(trial_id, 0.0, 1.0)

    with restarting() as server, Sender(server.address, _run()):
        for trial_id in ("t-1", "t-2", "t-3"):
            event(trial_id)

    events = [record for record in server.log if isinstance(record, Event)]
    assert [(one.trial_id, one.sequence) for one in events] == [
        ("t-1", 0), ("t-2", 1), ("t-3", 2),
    ]  # fmt: skip


def test_a_scanner_that_holds_nothing_of_its_run_is_refused():
    with restarting() as server:
        sender = Sender(server.address, _run())
        _send(sender, range(3))
        _pump_until(sender, lambda: len(server.log) == 4)
        sender._line.close()  # says GOODBYE, so that the stream is free
        with pytest.raises(ArtifactError) as caught:
            Sender(server.address, _run())

    assert str(caught.value) == (
        "run 'run-1': expected a server that has nothing of this stream, found 4 "
        "messages of an earlier sender. Go on with its spool, or name the run anew."
    )
