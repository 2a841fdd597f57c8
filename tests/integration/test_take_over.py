"""A worker takes over: what it writes goes on where the log ends, at once."""

import contextlib
import select
import time

import numpy as np
import pytest

from bci_bridge import answerer
from bci_bridge.answerer import Answerer
from bci_bridge.messages import Heartbeat, ReplayRequest, RunEnd, RunStart, Volume
from bci_bridge.outbox import KEPT_RUNS
from bci_bridge.outcomes import RunEnded
from bci_bridge.places import INPUTS, OUTCOMES, held_places
from bci_bridge.publisher import Publisher
from bci_bridge.recorder import Recorder
from bci_bridge.settings import PublisherReport, ServeConfig
from bci_bridge.tail import Tail, preface_of, segments_in
from bci_bridge.wire import decode, encode
from tests.integration.lines import dealer
from tests.integration.tiny import SHAPE, MeanDecoder
from verbs.rig import rig_here

HASHES = {
    "bundle_sha256": "b" * 64,
    "gallery_sha256": "a" * 64,
    "preprocessing_sha256": "c" * 64,
}


def start_of(run):
    return RunStart(
        run=run, stream="scanner", shape=SHAPE, tr_s=1, expected_volumes=9, budget_s=1
    )


def end_of(run):
    return RunEnded(
        run=run,
        stream="server",
        outcome_index=0,
        count=0,
        aborted=False,
        decided_ns=1,
        published_ns=1,
        **HASHES,
    )


def test_a_publisher_that_starts_knows_which_run_came_before_those_that_it_keeps(
    tmp_path,
):
    runs = [f"run-{number}" for number in range(5)]
    said = [""]
    with held_places(tmp_path / "recording") as places:
        log = Recorder(
            places.log(OUTCOMES),
            preface=lambda: encode(Heartbeat(run=said[-1], stream="server")),
            segment_bytes=1,
            reserve_bytes=1,
        )
        for run in runs:
            log.rotate(0)  # segments begin after a run, and in the middle of one
            log.append("run", encode(start_of(run)), 1)
            said.append(run)
            log.rotate(0)
            log.append("out", encode(end_of(run)), 1)
        log.close()
        told = {}
        with contextlib.ExitStack() as stack:
            publisher = Publisher(ServeConfig(), places, time.monotonic_ns, stack)
            peer = stack.enter_context(dealer(publisher.outlet.replay))
            for run in runs[-KEPT_RUNS:]:
                asked = ReplayRequest(run=run, from_index=9)
                peer.send_multipart(encode(asked).frames)
                while not peer.poll(10):
                    publisher.turn()
                told[run] = decode(peer.recv_multipart()).record.run_before

    assert told == {run: f"run-{int(run[-1]) - 1}" for run in runs[-KEPT_RUNS:]}


def no_second_reading(*_):
    raise AssertionError("expected no reading of the log, which may be long")


@pytest.fixture
def left_behind(tmp_path):
    """The places of a server whose worker wrote two runs and died."""
    with held_places(tmp_path / "recording") as places:
        log = Recorder(
            places.log(OUTCOMES),
            preface=lambda: encode(Heartbeat(run="", stream="server")),
        )
        for run in ("run-1", "run-2"):
            log.append("run", encode(start_of(run)), 1)
            log.append("out", encode(end_of(run)), 1)
        log.close()
        yield places


def test_what_was_asked_for_is_counted(left_behind):
    with contextlib.ExitStack() as stack:
        publisher = Publisher(ServeConfig(), left_behind, time.monotonic_ns, stack)
        peer = stack.enter_context(dealer(publisher.outlet.replay))
        # All of one run, then what comes after its end: nothing.
        for from_index in (0, 1):
            asked = ReplayRequest(run="run-2", from_index=from_index)
            peer.send_multipart(encode(asked).frames)
            while not peer.poll(10):
                publisher.turn()
            while peer.poll(10):
                peer.recv_multipart()
        report = publisher.report()

    assert report.handed_out == 1
    assert PublisherReport(handed_out=4).after(report).handed_out == 5


def test_a_successor_goes_on_without_reading_the_log_again(left_behind, monkeypatch):
    monkeypatch.setattr(answerer, "next_order", no_second_reading)
    rig = rig_here("ort", threads=1, abstain_below=0.0)
    with contextlib.ExitStack() as stack:
        worker = Answerer(
            "worker-a", left_behind, MeanDecoder(), time.monotonic_ns, stack, rig
        )
        end = time.monotonic() + 5
        while not worker.is_active and time.monotonic() < end:
            worker.turn()

        assert worker.is_active
        segments = segments_in(left_behind.folders(OUTCOMES))
        tail = Tail(left_behind.folders(OUTCOMES), segment=max(segments))
        stack.callback(tail.close)
        (first,) = tail.read()
        assert (first.topic, first.order) == ("rig", 4)
        # By this name a process that starts finds the segments that it needs.
        preface = preface_of(segments[max(segments)])
        assert preface is not None
        assert preface.envelope.record.run == "run-2"


def volume_of(run, index):
    record = Volume(
        run=run, stream="scanner", sequence=index + 1, volume_index=index,
        acquired_ns=time.monotonic_ns(), dtype="i2", shape=SHAPE,
    )  # fmt: skip
    return encode(record, np.full(SHAPE, index, "<i2").tobytes())


def test_who_starts_late_answers_no_run_again_that_is_further_back(tmp_path):
    runs = ["run-1", "run-2", "run-3", "run-4"]
    with held_places(tmp_path / "recording") as places:
        inputs = Recorder(places.log(INPUTS))

        def say(*envelopes):
            for envelope in envelopes:
                inputs.append("in/scanner", envelope, time.monotonic_ns())

        def answer():
            with contextlib.ExitStack() as stack:
                worker = Answerer(
                    "worker-a", places, MeanDecoder(), time.monotonic_ns, stack
                )
                while not worker.is_active:
                    worker.turn()
                worker.drain()

        # Each dies in the middle of a run; the log of inputs begins with the first.
        for run in runs:
            say(encode(start_of(run)), volume_of(run, 0))
            answer()
            end = RunEnd(run=run, stream="scanner", sequence=3, count=2)
            say(volume_of(run, 1), encode(end))
        answer()
        answer()
        inputs.close()
        tail, found = Tail(places.folders(OUTCOMES)), []
        while logged := tail.read():
            found += [one.envelope.record for one in logged if one.topic == "out"]
        tail.close()

    said = [(one.run, getattr(one, "volume_index", "end")) for one in found]
    assert said == [(run, what) for run in runs for what in (0, 1, "end")]


@pytest.mark.parametrize("is_owed", [False, True])
def test_who_stands_by_at_the_end_takes_over_only_to_say_what_is_owed(
    tmp_path, is_owed
):
    with held_places(tmp_path / "recording") as places, contextlib.ExitStack() as stack:
        inputs = stack.enter_context(contextlib.closing(Recorder(places.log(INPUTS))))

        def say(*envelopes):
            for envelope in envelopes:
                inputs.append("in/scanner", envelope, time.monotonic_ns())

        def opened(name, until):
            return Answerer(name, places, MeanDecoder(), time.monotonic_ns, until)

        with contextlib.ExitStack() as other:
            first = opened("worker-a", other)
            while not first.is_active:
                first.turn()
            second = opened("worker-b", stack)
            say(encode(start_of("run-1")), volume_of("run-1", 0), volume_of("run-1", 1))
            first.drain()
            second.turn()
            if is_owed:
                say(volume_of("run-1", 2))
        # The bell that rings now is the turn's: the other one writes no more.
        assert select.select([second.socket], [], [], 10)[0]
        second.drain()
        tail, said = Tail(places.folders(OUTCOMES)), []
        while logged := tail.read():
            said += [one.envelope.record for one in logged if one.topic == "out"]
        tail.close()

        assert second.is_active is is_owed
        assert len(segments_in(places.folders(OUTCOMES))) == 1 + is_owed
        assert [one.volume_index for one in said] == [0, 1, 2][: 2 + is_owed]
