"""A real server's recording, replayed: the same bits, or the difference is named."""

import time
from collections import Counter

import msgspec
import numpy as np
import pytest
from msgspec import structs
from neuroflow_client import Client

from bci_bridge import leases, protocol
from bci_bridge.configuration import Configuration
from bci_bridge.messages import ConfigurationNote, DecisionNote, Hello, RunEnd, Volume
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.player import play, run_start_from
from bci_bridge.recording_reader import Break
from bci_bridge.sender import Sender
from bci_bridge.survey import survey
from bci_bridge.wire import encode
from runtime.errors import BackendError, PeerError
from tests.integration.lines import dealer, lossy_line
from tests.integration.replaying import (
    EVENTS,
    RIG,
    entries_of,
    found_in,
    require_identity,
    rewritten,
    scanned,
)
from tests.integration.tiny import SHAPE, MeanDecoder, PlayedRun

pytestmark = pytest.mark.slow


def _run(run_id="run-1", count=3, tr_s=1.0, **changes):
    start = run_start_from(PlayedRun(run_id, count, tr_s=tr_s), speed=None)
    return structs.replace(start, **changes)


def _volume(value, dtype=np.int16):
    return np.full(SHAPE, value, dtype)


def test_a_run_is_done_with_what_its_frozen_configuration_says(running, tmp_path):
    server = running(rig=RIG)
    for name, is_rehearsal in (("run-1", True), ("run-2", False), ("run-3", False)):
        start = _run(name, count=2, is_rehearsal=is_rehearsal)
        play(PlayedRun(name, 2), server.address, None, run_start=start)
    server.stop()

    _, records = require_identity(tmp_path)

    cited = {}
    for record in records:
        if isinstance(record, VolumeOutcome | RunEnded):
            cited.setdefault(record.run, set()).add(record.configuration_sha256)
    notes = {
        entry.envelope.record.run: entry.envelope
        for entry in entries_of(tmp_path)
        if isinstance(entry.envelope.record, ConfigurationNote)
    }
    frozen = {
        run: msgspec.json.decode(note.payload, type=Configuration)
        for run, note in notes.items()
    }
    assert cited == {run: {note.record.sha256} for run, note in notes.items()}
    assert {run: one.sha256 for run, one in frozen.items()} == {
        run: note.record.sha256 for run, note in notes.items()
    }
    assert [one.is_rehearsal for one in frozen.values()] == [True, False, False]
    assert frozen["run-1"].versions == RIG.versions
    assert frozen["run-2"].sha256 == frozen["run-3"].sha256 != frozen["run-1"].sha256


def test_a_recording_from_before_a_fact_was_frozen_replays_identical(running, tmp_path):
    server = running(rig=RIG)
    start = _run(count=2, slice_times_us=(0, 500_000))
    play(PlayedRun("run-1", 2), server.address, None, run_start=start)
    server.stop()
    frozen = Configuration.of(start, MeanDecoder(), RIG)
    earlier = structs.replace(frozen, slice_times_us=(), processors=0)
    hashes = {"earlier": earlier.sha256, "another": "0" * 64}

    def cite(sha256):
        def change(_, envelope):
            record = envelope.record
            if not isinstance(record, Outcome):
                return envelope
            return encode(structs.replace(record, configuration_sha256=sha256))

        return change

    (tmp_path / "now").mkdir()
    for log in (INPUTS, OUTCOMES):
        (tmp_path / log).rename(tmp_path / "now" / log)
    _, records = require_identity(tmp_path / "now")
    found = {
        name: found_in(
            rewritten(tmp_path / "now", cite(sha256)).rename(tmp_path / name)
        )
        for name, sha256 in hashes.items()
    }

    cited = {r.configuration_sha256 for r in records if isinstance(r, Outcome)}
    assert cited == {frozen.sha256}
    assert found == {
        "earlier": [],
        "another": [(index, "configuration_sha256") for index in range(3)],
    }


def test_a_clean_run_replays_identical(running, tmp_path):
    server = running(rig=RIG)
    play(PlayedRun("run-1", 30, EVENTS), server.address, None)
    server.stop()

    report, _ = require_identity(tmp_path)

    assert [str(tally) for tally in report.runs.values()] == [
        "run-1: 30 volumes, 3 trials, 34 answers compared, 0 differences"
    ]
    assert survey(scanned(tmp_path)).rigs == (RIG,)


def test_a_run_over_a_bad_line_and_the_next_one_replay_identical(running, tmp_path):
    server = running()
    with lossy_line(server.address, every=7) as address:
        play(PlayedRun("run-1", 8, EVENTS), address, None)
    play(PlayedRun("run-2", 4, EVENTS), server.address, None)
    server.stop()

    report, _ = require_identity(tmp_path)

    assert list(report.runs) == ["run-1", "run-2"]


def test_repeated_early_and_contradicting_messages_replay_identical(running, tmp_path):
    server = running()
    header = {"run": "run-1", "stream": "s"}

    def volume(index, value):
        record = Volume(
            **header, sequence=index + 1, volume_index=index, acquired_ns=0,
            dtype="i2", shape=SHAPE,
        )  # fmt: skip
        return encode(record, _volume(value).tobytes())

    said = [
        encode(Hello(stream="s", role="scanner")),
        encode(structs.replace(_run(), **header)),
        *(volume(0, 0), volume(2, 2), volume(0, 0), volume(0, 9), volume(1, 1)),
        *(volume(2, 2), encode(RunEnd(**header, sequence=4, count=3))),
    ]
    with dealer(server.address) as peer:
        for envelope in said:
            peer.send_multipart(envelope.frames)
            assert peer.poll(5000)
            peer.recv_multipart()
        assert len(list(Client(server.address, run="run-1"))) == 3
    report = server.stop()

    require_identity(tmp_path)

    assert report.rejected == {"CONFLICT": 1}
    assert "refused/s" in [entry.topic for entry in entries_of(tmp_path)]


def test_volumes_given_up_by_the_deadline_replay_identical(running, tmp_path):
    server = running()
    run = _run(count=4, tr_s=0.05, pace="live", budget_s=0.05)
    with Sender(server.address, run) as sender:
        sender.event("t-1", 0.0, 1.0)
        sender.volume(0, _volume(0), time.monotonic_ns())
        outcomes = iter(Client(server.address))
        while next(outcomes).volume_index != 2:
            pass
        outcomes.close()
        sender.volume(1, _volume(1), time.monotonic_ns())
        sender.volume(3, _volume(3), time.monotonic_ns())
    server.stop()

    _, records = require_identity(tmp_path)

    decided = [r for r in records if isinstance(r, DecisionNote)]
    assert [(r.what, r.volume_index) for r in decided[:2]] == [
        ("MISSING_BY_DEADLINE", 1),
        ("MISSING_BY_DEADLINE", 2),
    ]
    assert ("LATE_VOLUME_NOT_USED", 1) in [(r.what, r.volume_index) for r in decided]
    given_up = [
        r.volume_index for r in records if getattr(r, "reason", "") == "DEADLINE"
    ]
    assert given_up == [1, 2]


class Fussy(MeanDecoder):
    def add_volume(self, volume_index, volume):
        if volume_index == 2:
            raise BackendError("engine: expected to run, found that it does not")
        return super().add_volume(volume_index, volume)


def test_what_was_invalid_and_an_aborted_run_replay_identical(running, tmp_path):
    server = running(Fussy())
    sender = Sender(server.address, _run(count=9))
    sender.event("t-1", 1.0, 1.0)
    sender.event("t-1", 1.0, 1.0)
    sender.volume(0, _volume(np.nan, np.float32), 0)
    sender.volume(1, np.zeros((1, 1, 1), np.int16), 0)
    sender.volume(2, _volume(2), 0)
    sender.volume(3, _volume(3), 0)
    sender.volume(3, _volume(4), 0)
    sender.missing(4, "reconstruction failed")
    sender.volume(6, _volume(6), 0)
    sender.close(8, aborted=True)
    server.stop()

    _, records = require_identity(tmp_path, Fussy())

    reasons = Counter(r.reason for r in records if isinstance(r, VolumeOutcome))
    assert reasons == {
        "": 2, "NOT_FINITE": 1, "SHAPE_MISMATCH": 1, "DECODER_FAILED": 1,
        "SOURCE": 1, "SKIPPED": 2,
    }  # fmt: skip


@pytest.mark.parametrize("late", ["flag", "hold-last", "drop"])
def test_late_answers_replay_identical_whatever_the_run_asked(running, tmp_path, late):
    server = running()
    run = _run(count=5, tr_s=60.0, pace="live", late=late, budget_s=1e-6)
    with Sender(server.address, run) as sender:
        sender.event("t-1", 60.0, 1.0)
        sender.event("t-2", 180.0, 1.0)
        for index, age_ns in enumerate((-800_000_000, 1_000_000, 10**9, -9 * 10**8)):
            sender.volume(index, _volume(index), time.monotonic_ns() - age_ns)
        # Another clock's instant; 5 would be a machine's that has just started.
        sender.volume(4, _volume(4), time.monotonic_ns() + 10**15)
    server.stop()

    _, records = require_identity(tmp_path)

    volumes = [r for r in records if isinstance(r, VolumeOutcome)]
    timings = [r.timing for r in volumes]
    assert timings == ["LIVE", "LATE", "LATE", "LIVE", "LATE"]
    labels = {
        "flag": ["0", "1", "2", "3", "4"],
        "hold-last": ["0", "0", "0", "3", "3"],
        "drop": ["0", None, None, "3", None],
    }
    assert [r.label for r in volumes] == labels[late]
    assert "TIME_ANOMALY" in volumes[4].degraded
    trials = [r for r in records if isinstance(r, TrialOutcome)]
    assert [(r.timing, r.label) for r in trials] == [
        ("LATE", "1" if late == "flag" else None),
        ("LIVE", "3"),
    ]


def test_a_run_that_the_stopping_server_ended_replays_identical(running, tmp_path):
    server = running()
    sender = Sender(server.address, _run(), outage_s=0.3)
    sender.event("t-1", 0.0, 1.0)
    sender.volume(0, _volume(0), 0)
    next(iter(Client(server.address)))
    server.stop()
    with pytest.raises(BackendError):
        sender.close()

    _, records = require_identity(tmp_path)

    assert isinstance(records[-1], RunEnded)
    assert records[-1].aborted


def _begin_and_leave(address):
    with Sender(address, _run()) as sender:
        sender.volume(0, _volume(0), 0)
        raise PeerError("BUSY", "the scanner's computer went away")


def test_a_run_that_another_took_over_replays_identical(running, tmp_path):
    server = running()
    with pytest.raises(PeerError):
        _begin_and_leave(server.address)
    play(PlayedRun("run-2", 3), server.address, None)
    server.stop()

    _, records = require_identity(tmp_path)

    assert "RUN_TAKEN_OVER" in [getattr(r, "what", "") for r in records]


def test_a_killed_servers_successor_answers_the_rest(running, tmp_path, monkeypatch):
    def lease(ns):
        for module in (protocol, leases):
            monkeypatch.setattr(module, "LEASE_NS", ns)

    first = running()
    play(PlayedRun("run-1", 10), first.address, None)
    first.stop()
    for log, kept in (("inputs", -200), ("outcomes", 2000)):
        (segment,) = (tmp_path / log).glob("*.mcap")
        segment.write_bytes(segment.read_bytes()[:kept])
    # A restored run's scanner has a lease's time to come back in.
    lease(3600 * 1_000_000_000)
    second = running()
    with pytest.raises(PeerError, match="BUSY: run 'run-1' is under way"):
        play(PlayedRun("run-2", 3), second.address, None)
    lease(0)
    play(PlayedRun("run-2", 3), second.address, None)
    answered = [(o.volume_index, o.label) for o in Client(second.address, run="run-1")]
    second.stop()

    report, _ = require_identity(tmp_path)

    kinds = [item.kind for item in scanned(tmp_path) if isinstance(item, Break)]
    assert kinds == ["TORN", "TORN"]
    assert answered == [(index, str(index)) for index in range(10)]
    assert report.runs["run-1"].compared == 11
    assert report.runs["run-2"].compared == 4
