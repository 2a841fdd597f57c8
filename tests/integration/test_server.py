"""A played recording through real sockets: one outcome each, in order, on record."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from neuroflow_client import Client, TrialOutcome, Update, VolumeOutcome

from bci_bridge import outcomes as outcomes_of
from bci_bridge import recorder
from bci_bridge.messages import Heartbeat
from bci_bridge.player import play, run_start_from
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from bci_bridge.server import ServeConfig, serve
from bci_bridge.wire import encode
from runtime.errors import BackendError, PeerError, UsageError
from runtime.recording import open_recording
from tests.integration.lines import dealer, lossy_line
from tests.integration.tiny import SHAPE, MeanDecoder, PlayedEvent, PlayedRun

ROOT = Path(__file__).parents[2]
RECORDED = ROOT.parent / "shared" / "data" / "haxby2001"


def test_a_played_run_gets_one_outcome_per_volume_and_per_trial(running):
    server = running()
    events = (PlayedEvent("t-1", 0.0), PlayedEvent("t-2", 3.2), PlayedEvent("t-3", 28))

    n_sent = play(PlayedRun("run-1", 30, events), server.address, None)
    outcomes = list(Client(server.address, run="run-1"))

    volumes = [o for o in outcomes if isinstance(o, VolumeOutcome)]
    trials = [o for o in outcomes if isinstance(o, TrialOutcome)]
    assert n_sent == 30
    assert [o.volume_index for o in volumes] == list(range(30))
    assert [o.label for o in volumes] == [str(index) for index in range(30)]
    assert [(o.trial_id, o.label) for o in trials] == [
        ("t-1", "1"), ("t-2", "5"), ("t-3", "29"),
    ]  # fmt: skip


def test_between_volumes_trials_that_wait_are_estimated_where_a_run_asks(
    running, tmp_path
):
    server = running()
    # Answers one after the other: if one is slow, the next one corrects what it cost.
    early = [PlayedEvent(f"t-{n}", n / 10) for n in range(8)]
    events = (*early, PlayedEvent("last", 2.0))
    run = PlayedRun("run-1", 30, events, tr_s=0.1)
    start = structs.replace(run_start_from(run), updates=True)

    play(run, server.address, 1.0, run_start=start)
    outcomes = list(Client(server.address, run="run-1"))
    records = [one.envelope.record for one in read_recording(tmp_path / "outcomes")]

    updates = [o for o in outcomes if isinstance(o, Update)]
    trials = {o.trial_id: o for o in outcomes if isinstance(o, TrialOutcome)}
    assert [o.volume_index for o in outcomes if isinstance(o, VolumeOutcome)] == list(
        range(30)
    )
    assert set(trials) == {event.trial_id for event in events}
    # Of the first nobody knew yet how long an answer takes. How many there are of the
    # others depends on how busy the machine is.
    assert {"last"} <= {o.trial_id for o in updates} <= set(trials) - {"t-0"}
    assert len({(o.trial_id, o.after_volume) for o in updates}) == len(updates)
    for one in updates:
        assert one.outcome_index < trials[one.trial_id].outcome_index
        assert one.confidence is None
        assert one.label == str(one.after_volume)
    on_record = [one for one in records if isinstance(one, outcomes_of.Update)]
    assert [one.outcome_index for one in on_record] == [
        one.outcome_index for one in updates
    ]


def _run(run_id="run-1", count=3, tr_s=1.0, **changes):
    start = run_start_from(PlayedRun(run_id, count, tr_s=tr_s), speed=None)
    return structs.replace(start, **changes)


def _volume(value, dtype=np.int16):
    return np.full(SHAPE, value, dtype)


def _inputs(address, run="run-1"):
    return [
        (outcome.volume_index, outcome.input, outcome.reason)
        for outcome in Client(address, run=run)
        if isinstance(outcome, VolumeOutcome)
    ]


def test_every_message_is_on_record_once_and_before_what_it_led_to(running, tmp_path):
    server = running()

    play(PlayedRun("run-1", 20, (PlayedEvent("t-1", 0.0),)), server.address, None)
    published = list(Client(server.address, run="run-1"))
    server.stop()
    logged = sorted(
        (
            entry
            for log in ("inputs", "outcomes")
            for entry in read_recording(tmp_path / log)
        ),
        key=lambda entry: entry.log_ns,
    )
    records = [entry.envelope.record for entry in logged if entry.topic != "run"]

    kinds = Counter(type(record).__name__ for record in records)
    assert kinds == {
        "RunStart": 1, "Volume": 20, "Event": 1, "Shown": 1, "RunEnd": 1,
        "VolumeOutcome": 20, "TrialOutcome": 1, "RunEnded": 1,
    }  # fmt: skip
    place = {
        (type(record).__name__, record.volume_index): position
        for position, record in enumerate(records)
        if hasattr(record, "volume_index")
    }
    for index in range(20):
        assert place["Volume", index] < place["VolumeOutcome", index]
    logged = [r.outcome_index for r in records if hasattr(r, "outcome_index")]
    assert logged == list(range(len(published) + 1))


def test_a_skipped_a_reported_and_an_unfinished_volume_are_missing(running):
    server = running()

    with Sender(server.address, _run(count=6)) as sender:
        sender.volume(1, _volume(1), 0)
        sender.missing(2, "reconstruction failed")
        sender.volume(3, _volume(3), 0)
        sender.close(5)

    assert _inputs(server.address) == [
        (0, "MISSING", "SKIPPED"), (1, "OK", ""), (2, "MISSING", "SOURCE"),
        (3, "OK", ""), (4, "MISSING", "SKIPPED"),
    ]  # fmt: skip


def test_silence_beyond_the_live_deadline_is_a_missing_volume(running):
    server = running()
    run = _run(count=3, tr_s=0.05, pace="live", budget_s=0.05)

    with Sender(server.address, run) as sender:
        sender.volume(0, _volume(0), time.monotonic_ns())
        outcomes = iter(Client(server.address))
        found = [next(outcomes) for _ in range(3)]
        outcomes.close()

    assert [o.input for o in found] == ["OK", "MISSING", "MISSING"]
    assert found[1].reason == "DEADLINE"
    assert found[1].decided_ns > found[1].deadline_ns
    assert found[1].timing == "LATE"


@pytest.mark.parametrize("offset_s", [-7200, 0, 3600])
def test_a_scanner_with_another_clock_is_as_punctual_and_its_offset_is_known(
    running, offset_s
):
    server, offset_ns = running(), offset_s * 10**9

    def scanners_clock():
        return time.monotonic_ns() + offset_ns

    run = _run(count=4, pace="live", budget_s=5.0)
    with Sender(server.address, run, clock_ns=scanners_clock) as sender:
        sender.event("t-1", 0.0, 1.0)
        for index in range(4):
            sender.volume(index, _volume(index), scanners_clock())
            sender.pump(50)
    outcomes = list(Client(server.address, run="run-1"))

    assert [o.timing for o in outcomes] == ["LIVE"] * 5
    assert [o.degraded for o in outcomes] == [()] * 5
    for outcome in outcomes:
        error_ns = abs(outcome.clock_offset_ns - offset_ns)
        assert error_ns <= outcome.clock_uncertainty_ns < 10**9


def test_what_cannot_be_decoded_is_invalid_and_the_run_goes_on(running):
    class Fussy(MeanDecoder):
        def add_volume(self, volume_index, volume):
            if volume_index == 2:
                raise BackendError("engine: expected to run, found that it does not")
            return super().add_volume(volume_index, volume)

    decoder = Fussy()
    server = running(decoder)

    with Sender(server.address, _run(count=5)) as sender:
        sender.volume(0, _volume(np.nan, np.float32), 0)
        sender.volume(1, np.zeros((1, 1, 1), np.int16), 0)
        sender.volume(2, _volume(2), 0)
        sender.volume(3, _volume(3), 0)
        sender.volume(3, _volume(4), 0)

    assert _inputs(server.address) == [
        (0, "INVALID", "NOT_FINITE"), (1, "INVALID", "SHAPE_MISMATCH"),
        (2, "INVALID", "DECODER_FAILED"), (3, "OK", ""),
    ]  # fmt: skip
    assert decoder.used == [None, None, None, 3]
    assert [refusal.reason for refusal in sender.refusals] == ["DUPLICATE_VOLUME"]


def test_a_line_that_loses_one_message_in_three_loses_nothing(running):
    server = running()

    with lossy_line(server.address, every=3) as address:
        play(PlayedRun("run-1", 40), address, None)

    assert [index for index, what, _ in _inputs(server.address) if what == "OK"] == (
        list(range(40))
    )


def test_garbage_is_counted_and_disturbs_nobody(running):
    server = running()
    host, port = server.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
    header, payload = encode(Heartbeat()).frames
    with dealer(server.address) as rogue:
        for frames in ([b"x"], [header, b"more"], [header[:-1] + b"\0", payload]):
            rogue.send_multipart(frames)
            assert rogue.poll(5000)
            rogue.recv_multipart()

    play(PlayedRun("run-1", 3), server.address, None)
    report = server.stop()

    assert report.rejected == {"BAD_PARTS": 1, "BAD_SIZE": 1, "BAD_CRC": 1}
    assert report.outcomes == {"VolumeOutcome": 3, "RunEnded": 1}


def test_a_run_for_another_bundle_or_shape_is_refused(running):
    server = running()

    with pytest.raises(PeerError) as wrong_bundle:
        Sender(server.address, _run(bundle_sha256="f" * 64))
    with pytest.raises(PeerError, match="BAD_GEOMETRY"):
        Sender(server.address, _run(shape=(9, 9, 9)))
    play(PlayedRun("run-1", 1), server.address, None)

    assert str(wrong_bundle.value) == (
        f"WRONG_BUNDLE: bundle: expected {'f' * 64}, found {'b' * 64}"
    )


def test_a_stopped_server_ends_the_run_and_answers_its_trials(running):
    server = running()
    client = iter(Client(server.address))

    sender = Sender(server.address, _run(), outage_s=0.3)
    sender.event("t-1", 0.0, 1.0)
    sender.volume(0, _volume(0), 0)
    first = next(client)
    report = server.stop()
    rest = list(client)
    with pytest.raises(BackendError, match="expected acknowledgements"):
        sender.close()

    assert first.volume_index == 0
    assert [(o.trial_id, o.decision) for o in rest] == [("t-1", "ABSTAIN")]
    assert report.outcomes == {"VolumeOutcome": 1, "TrialOutcome": 1, "RunEnded": 1}


def test_without_recording_the_sender_does_not_wait_for_the_disk(running):
    server = running(recording=None)

    play(PlayedRun("run-1", 3), server.address, None)

    assert len(_inputs(server.address)) == 3
    assert server.stop().recording == "OFF"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "tcp://0.0.0.0:5760",
            "address 'tcp://0.0.0.0:5760': expected a loopback address, found 0.0.0.0. "
            "Other interfaces need keys, which this server does not have. "
            "Make them with: neuroflow keys make, and give --keys",
        ),
        (
            "tcp://*:5760",
            "address 'tcp://*:5760': expected a loopback address, found *. "
            "Other interfaces need keys, which this server does not have. "
            "Make them with: neuroflow keys make, and give --keys",
        ),
        (
            "udp://127.0.0.1:1",
            "address 'udp://127.0.0.1:1': expected tcp://127.0.0.1:PORT or ipc://PATH",
        ),
        (
            "tcp://127.0.0.1:99999",
            "address 'tcp://127.0.0.1:99999': expected a port below 65536 or *",
        ),
    ],
)
def test_an_address_that_is_not_allowed_is_one_clear_line(address, message):
    with pytest.raises(UsageError) as caught:
        serve(ServeConfig(address=address), MeanDecoder(), lambda: True)

    assert str(caught.value) == message


def test_a_port_in_use_is_one_clear_line(running):
    server = running()

    with pytest.raises(BackendError) as caught:
        serve(ServeConfig(address=server.address), MeanDecoder(), lambda: True)

    assert str(caught.value) == (
        f"address {server.address}: expected a free port, found it in use. "
        "Stop the other program or give another --address."
    )


def test_no_server_is_one_clear_line():
    with pytest.raises(BackendError) as caught:
        Sender("tcp://127.0.0.1:9", _run(), timeout_s=0.2)

    assert str(caught.value) == (
        "server tcp://127.0.0.1:9: expected an answer within 0.2 s, found none. "
        "Is it running? If so, does it ask for keys?"
    )


@pytest.mark.recording
def test_a_recorded_run_arrives_volume_by_volume(running):
    if not RECORDED.is_dir():
        pytest.skip(f"no recorded data at {RECORDED}")
    run = open_recording(RECORDED).runs[0]
    server = running(MeanDecoder(run.shape))

    n_sent = play(run, server.address, None)
    outcomes = Client(server.address, run=run.run_id)
    found = [o for o in outcomes if isinstance(o, VolumeOutcome)]

    means = [float(volume.mean()) for volume in run.volumes()]
    assert n_sent == run.volume_count == len(found)
    assert [o.quality["mean"] for o in found] == means
    assert {o.input for o in found} == {"OK"}


def test_an_ipc_address_serves_as_well(running, tmp_path):
    address = f"ipc://{tmp_path}/in"
    server = running(
        address=address, publish=f"ipc://{tmp_path}/pub", replay=f"ipc://{tmp_path}/re"
    )

    play(PlayedRun("run-1", 3), server.address, None)

    assert len(_inputs(address)) == 3


def test_sigterm_ends_the_process_with_status_0(tmp_path):
    program = (
        "import bci_bridge.server as s, bci_bridge.signals as g\n"
        "from tests.integration.tiny import MeanDecoder\n"
        "with g.stop_on_signals() as stop:\n"
        "    s.serve(s.ServeConfig(address='tcp://127.0.0.1:*'), MeanDecoder(), stop,\n"
        "            lambda found: print(found.address, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"},
    )
    with process:
        address = process.stdout.readline().strip()
        play(PlayedRun("run-1", 2), address, None)
        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == 0


def test_a_full_disk_is_flagged_and_decoding_goes_on(running, tmp_path, monkeypatch):
    def full(fd, parts):
        if str(tmp_path) in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, b"".join(parts))

    server = running()
    with Sender(server.address, _run(count=3)) as sender, monkeypatch.context() as disk:
        sender.volume(0, _volume(0), 0)
        outcomes = iter(Client(server.address))
        next(outcomes)
        outcomes.close()
        disk.setattr(recorder.os, "writev", full)
        sender.volume(1, _volume(1), 0)
        sender.close(2)
    outcomes = list(Client(server.address, run="run-1"))

    assert [o.input for o in outcomes] == ["OK", "OK"]
    assert [o.degraded for o in outcomes] == [(), ("RECORDING_DEGRADED",)]
    assert server.stop().recording == "DEGRADED"
