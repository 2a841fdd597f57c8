"""Whatever peers say and clocks show, a log replays to itself, and only to itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from bci_bridge import actions as do
from bci_bridge.messages import (
    DecisionNote,
    Event,
    Goodbye,
    Hello,
    Missing,
    RunEnd,
    RunStart,
    Trigger,
    Volume,
)
from bci_bridge.outbox import Outbox
from bci_bridge.outcomes import Outcome
from bci_bridge.protocol import Protocol
from bci_bridge.recording_reader import Logged
from bci_bridge.replay import replay
from bci_bridge.wire import encode
from bci_bridge.worker import Worker
from runtime.errors import PeerError
from tests.integration.tiny import SHAPE, MeanDecoder

pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
PEER = b"scanner"


class Server:
    """A server without sockets or disk, whose clock shows what it is told."""

    def __init__(self):
        self.now, self.latency = 10_000 * SECOND, 0
        self.log = []
        self.worker = Worker(MeanDecoder(), lambda: self.now + self.latency)
        self.protocol = Protocol(admit=self.worker.admit)
        self.outbox = Outbox()
        self.runs, self.index, self.sequence = 0, 0, 0
        self.run = ""
        self.receive(Hello(role="scanner", stream="scanner"))

    def receive(self, record, payload=b""):
        filled = structs.replace(
            record, stream="scanner", run=self.run, sequence=self.sequence
        )
        try:
            todo = self.protocol.receive(PEER, encode(filled, payload), self.now)
        except PeerError:
            return
        if todo and isinstance(todo[0], do.Log):
            self.sequence += 1
        self.carry_out(todo)

    def carry_out(self, todo):
        for action in todo:
            match action:
                case do.Log(envelope):
                    self.append("in/scanner", envelope)
                case do.Note(record):
                    self.append("out", encode(record))
                case do.StartRun(record):
                    self.worker.start(record)
                    self.outbox.start_run(record.run)
                case do.AddTrial():
                    self.publish(self.worker.add_trial(action))
                case do.AddVolume():
                    self.publish(self.worker.add_volume(action))
                case do.SkipVolume():
                    self.publish(self.worker.skip_volume(action))
                case do.EndRun():
                    self.publish(self.worker.end(action))

    def publish(self, outgoing):
        for outcome, payload in outgoing:
            self.append("out", self.outbox.seal(outcome, payload, self.now))

    def append(self, topic, envelope):
        self.log.append(Logged(len(self.log), self.now, topic, envelope))

    def start(self, late, pace):
        run, self.runs = self.run, self.runs + 1
        self.run, sequence, self.sequence = f"run-{self.runs}", self.sequence, 0
        begin = RunStart(
            shape=SHAPE,
            tr_s=1.0,
            expected_volumes=6,
            budget_s=0.5,
            late=late,
            pace=pace,
        )
        n_logged = len(self.log)
        self.receive(begin)
        if len(self.log) > n_logged and self.sequence == 0:
            self.receive(begin)  # the run before it was taken over
        if self.sequence == 0:
            self.run, self.sequence = run, sequence
        else:
            self.index = 0

    def volume(self, ahead, age_s, value, is_cut):
        index = max(self.index + ahead, 0)
        shape = (1, 1, 1) if is_cut else SHAPE
        record = Volume(
            volume_index=index,
            acquired_ns=self.now - round(age_s * SECOND),
            dtype="f4",
            shape=shape,
        )
        self.receive(record, np.full(shape, value, "<f4").tobytes())
        self.index = max(self.index, index + 1)

    def do(self, name, *arguments):
        if name == "wait":
            self.now += round(arguments[0] * SECOND)
            self.carry_out(self.protocol.tick(self.now))
        elif name == "latency":
            self.latency = round(arguments[0] * SECOND)
        elif name == "leave":
            self.receive(Goodbye())
            self.receive(Hello(role="scanner", stream="scanner"))
        elif name == "stop":
            self.carry_out(self.protocol.stop())
        elif name in ("start", "volume"):
            getattr(self, name)(*arguments)
        elif name == "end":
            self.receive(RunEnd(count=self.index + arguments[0], aborted=arguments[1]))
        else:
            self.receive(*arguments)


finite = st.floats(-100, 100, width=32)
waits = st.tuples(st.just("wait"), st.sampled_from([0.1, 0.6, 1.0, 3.0, 6.0]))
starts = st.tuples(
    st.just("start"),
    st.sampled_from(["flag", "hold-last", "drop"]),
    st.sampled_from(["live", "live", "catchup"]),
)
latencies = st.tuples(st.just("latency"), st.sampled_from([0.0, 0.4, 2.0]))
volumes = st.tuples(
    st.just("volume"),
    st.sampled_from([0, 0, 0, 0, 1, -1, -2]),
    st.sampled_from([0.0, 0.0, 0.3, 5000.0, -5.0]),
    finite | st.just(float("nan")),
    st.sampled_from([False, False, False, True]),
)
events = st.tuples(
    st.just("event"),
    st.builds(
        Event,
        trial_id=st.sampled_from(["t-1", "t-2", "t-3"]),
        onset_s=st.floats(0, 5),
        duration_s=st.just(1.0),
    ),
)
losses = st.tuples(
    st.just("missing"), st.builds(Missing, volume_index=st.integers(0, 6))
)
triggers = st.tuples(
    st.just("trigger"),
    st.builds(Trigger, volume_index=st.integers(0, 6), pulsed_ns=st.just(0)),
)
ends = st.tuples(st.just("end"), st.integers(-1, 1), st.booleans())
leaves = st.tuples(st.just("leave"))
stops = st.tuples(st.just("stop"))
calm = st.one_of(volumes, waits, latencies, events)
wild = st.one_of(calm, losses, triggers, ends, leaves, stops, starts)
scripts = st.tuples(
    starts, st.lists(calm, min_size=5, max_size=12), st.lists(wild, max_size=25)
)


def logged(script):
    server = Server()
    first, begun, rest = script
    for step in (first, *begun, *rest, ("stop",)):
        server.do(*step)
    return server.log


def found(log):
    return [d for step in replay(log, MeanDecoder()) for d in step.differences]


@settings(max_examples=200, deadline=None)
@given(scripts)
def test_a_log_replays_to_itself(script):
    log = logged(script)

    steps = list(replay(log, MeanDecoder()))

    outcomes = [e for e in log if isinstance(e.envelope.record, Outcome)]
    assert [d for step in steps for d in step.differences] == []
    assert sum(step.compared for step in steps) == len(outcomes)
    assert sum(len(step.outcomes) for step in steps) == len(outcomes)


@settings(max_examples=100, deadline=None)
@given(scripts, st.data())
def test_a_log_without_one_of_the_servers_messages_does_not(script, data):
    log = logged(script)
    own = [
        position
        for position, entry in enumerate(log)
        if isinstance(entry.envelope.record, Outcome | DecisionNote)
    ]
    gone = data.draw(st.sampled_from(own))

    assert found(log[:gone] + log[gone + 1 :])
