"""Whatever peers say and clocks show, a log replays to itself, and only to itself."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from bci_bridge import actions as do
from bci_bridge.answering import Answering
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
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, Update, VolumeOutcome
from bci_bridge.protocol import Protocol
from bci_bridge.recording_reader import Break, Logged
from bci_bridge.replay import replay
from bci_bridge.wire import encode
from runtime.errors import PeerError
from tests.integration.tiny import SHAPE, MeanDecoder

pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
PEER = b"scanner"


def append(log, topic, envelope, now):
    log.append(Logged(len(log), now, topic, envelope))
    return log[-1]


def is_volumes(logged):
    return isinstance(logged.envelope.record, VolumeOutcome)


class Fragile(MeanDecoder):
    """Fails once for each fault, half-way, as for want of memory."""

    def __init__(self, faults):
        super().__init__()
        self._faults = faults

    def start_run(self, run):
        super().start_run(run)
        self._fail_in("start_run")

    def add_trial(self, trial):
        super().add_trial(trial)
        self._fail_in("add_trial")

    def add_volume(self, *volume, **told):
        reports = super().add_volume(*volume, **told)
        self._fail_in("add_volume")
        return reports

    def skip_volume(self, *volume, **told):
        reports = super().skip_volume(*volume, **told)
        self._fail_in("skip_volume")
        return reports

    def end_run(self):
        reports = super().end_run()
        self._fail_in("end_run")
        return reports

    def _fail_in(self, method):
        if method in self._faults:
            self._faults.remove(method)
            raise MemoryError(method)


class Server:
    """A server without sockets or disk, whose clock shows what it is told."""

    def __init__(self):
        self.now, self.latency = 10_000 * SECOND, 0
        self.inputs, self.outcomes, self.faults = [], [], []
        self.answering = self.worker()
        self.protocol = Protocol()
        self.runs, self.index, self.sequence = 0, 0, 0
        self.run = ""
        self.receive(Hello(role="scanner", stream="scanner"))

    def worker(self):
        return Answering(Fragile(self.faults), lambda: self.now + self.latency)

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
                    self.answer(append(self.inputs, "in/scanner", envelope, self.now))
                case do.Note(record):
                    note = encode(record)
                    self.answer(append(self.inputs, "note", note, self.now))

    def answer(self, logged):
        self.answering.take(logged)
        self.write(self.answering.emit())

    def write(self, emitted):
        for envelope in emitted:
            append(self.outcomes, "out", envelope, self.now)

    def idle(self, count):
        """Time between two inputs, for so many earlier estimates at most."""
        for _ in range(count):
            update = self.answering.update()
            self.write([] if update is None else [update])

    def crash(self, survived):
        """The worker dies before all of its last words are written."""
        lost = len(self.outcomes) - survived
        last = [i for i, one in enumerate(self.outcomes) if is_volumes(one)][-1:]
        if last:
            del self.outcomes[max(last[0], len(self.outcomes) - max(lost, 0)) :]
        self.answering = self.worker()
        for one in self.outcomes:
            self.answering.know(one)
        behind = list(self.inputs)
        while behind and self.answering.is_settled(behind[0]):
            self.answering.take(behind.pop(0))
        self.write(self.answering.emit())
        for one in behind:
            self.answer(one)

    def start(self, late, pace, updates):
        run, self.runs = self.run, self.runs + 1
        self.run, sequence, self.sequence = f"run-{self.runs}", self.sequence, 0
        begin = RunStart(
            shape=SHAPE,
            tr_s=1.0,
            expected_volumes=6,
            budget_s=0.5,
            late=late,
            pace=pace,
            updates=updates,
        )
        n_logged = len(self.inputs)
        self.receive(begin)
        if len(self.inputs) > n_logged and self.sequence == 0:
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
        elif name == "fault":
            self.faults.append(arguments[0])
        elif name == "crash":
            self.crash(max(len(self.outcomes) - arguments[0], 0))
        elif name in ("start", "volume", "idle"):
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
    st.booleans(),
)
idles = st.tuples(st.just("idle"), st.integers(1, 3))
latencies = st.tuples(st.just("latency"), st.sampled_from([0.0, 0.4, 2.0]))
volumes = st.tuples(
    st.just("volume"),
    st.sampled_from([0, 0, 0, 0, 1, -1, -2]),
    st.sampled_from([0.0, 0.0, 0.3, 4.0, 5000.0, -5.0]),
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
crashes = st.tuples(st.just("crash"), st.integers(0, 3))
calm = st.one_of(volumes, waits, latencies, events, idles, crashes)
wild = st.one_of(calm, losses, triggers, ends, leaves, stops, starts)


def shown(trial_id, onset_s):
    return ("event", Event(trial_id=trial_id, onset_s=onset_s, duration_s=1.0))


PUNCTUAL = (("volume", 0, 0.0, 1.5, False), ("wait", 1.0))
ANSWERED = [
    shown("t-4", 0.0),
    *PUNCTUAL * 2,
    shown("t-5", 1.9),
    shown("t-6", 2.5),
    *PUNCTUAL,
    ("idle", 1),
]
"""A trial is answered, so that it is known how long that takes, and two wait."""
IDLE = ("idle", 3)

faults = st.tuples(
    st.just("fault"),
    st.sampled_from(["start_run", "add_trial", "add_volume", "skip_volume", "end_run"]),
)
calm_or_not, wild_or_not = st.one_of(calm, faults), st.one_of(wild, faults)
fragile = st.tuples(
    starts,
    st.lists(calm_or_not, min_size=5, max_size=12),
    st.lists(wild_or_not, max_size=25),
)
"""Runs in which a decoder fails for once, by what no input leads to."""

ENDS_AFTER_AN_ANSWER = (
    ("start", "flag", "live", False),
    [PUNCTUAL[0], shown("t-1", 0.0)],
    [("stop",), ("fault", "start_run"), ("crash", 1)],
)
"""A trial is answered at the run's end, which another one says that cannot decode."""
DIES_AT_THE_END = (
    ("start", "flag", "live", False),
    [PUNCTUAL[0], ("fault", "add_trial")],
    [shown("t-1", 0.0), ("stop",), ("start", "flag", "live", False), ("crash", 3)],
)
"""Between the words of a trial that a fault left open and those of the run's end."""

scripts = st.tuples(
    starts,
    st.lists(calm, min_size=5, max_size=12)
    | st.lists(calm | idles, max_size=8).map(lambda rest: ANSWERED + rest),
    st.lists(wild, max_size=25)
    | st.lists(wild, max_size=5).map(lambda rest: [("end", 0, False), IDLE, *rest]),
)


def served(script):
    server = Server()
    first, begun, rest = script
    for step in (first, *begun, *rest, ("stop",)):
        server.do(*step)
    return server


def found(inputs, outcomes):
    steps = replay(inputs, outcomes, MeanDecoder())
    return [d for step in steps for d in step.differences]


@settings(max_examples=200, deadline=None)
@given(scripts | fragile)
@example(DIES_AT_THE_END)
@example(ENDS_AFTER_AN_ANSWER)
def test_a_log_replays_to_itself(script):
    server = served(script)

    steps = list(replay(server.inputs, server.outcomes, MeanDecoder()))

    count = sum(isinstance(e.envelope.record, Outcome) for e in server.outcomes)
    assert [d for step in steps for d in step.differences] == []
    assert sum(step.compared for step in steps) == count
    assert sum(len(step.outcomes) for step in steps) == count


@settings(max_examples=200, deadline=None)
@given(scripts | fragile)
def test_whenever_a_worker_dies_each_outcome_is_given_once_and_in_order(script):
    server = served(script)

    by_run = {}
    for entry in server.outcomes:
        if isinstance(entry.envelope.record, Outcome):
            by_run.setdefault(entry.envelope.record.run, []).append(entry)
    for entries in by_run.values():
        records = [entry.envelope.record for entry in entries]
        volumes = [r.volume_index for r in records if isinstance(r, VolumeOutcome)]
        trials = [r.trial_id for r in records if isinstance(r, TrialOutcome)]
        assert [r.outcome_index for r in records] == list(range(len(records)))
        # An aborted run may end below what was given up by then.
        assert volumes == list(range(max(records[-1].count, len(volumes))))
        assert len(trials) == len(set(trials))
        assert [isinstance(r, RunEnded) for r in records[-2:]][-1:] == [True]
        assert records[-1].inputs == Counter(
            r.input for r in records if isinstance(r, VolumeOutcome)
        )
        assert records[-1].decisions == Counter(
            r.decision for r in records if isinstance(r, TrialOutcome)
        )


@settings(max_examples=100, deadline=None)
@given(scripts, st.data())
def test_a_log_without_one_of_the_servers_messages_does_not(script, data):
    server = served(script)
    own = [
        (log, position)
        for log in (server.inputs, server.outcomes)
        for position, entry in enumerate(log)
        if isinstance(entry.envelope.record, Outcome | DecisionNote)
    ]
    log, position = data.draw(st.sampled_from(own))
    del log[position]

    assert found(server.inputs, server.outcomes)


@settings(max_examples=100, deadline=None)
@given(scripts, st.data())
def test_outcomes_that_cannot_be_read_are_held_against_nobody(script, data):
    # Whether an unreadable answer was late, and so what was held, nobody knows.
    assume(all("hold-last" not in step for part in script[1:] for step in part))
    assume("hold-last" not in script[0])
    server = served(script)
    log = server.outcomes
    first = data.draw(st.integers(0, len(log) - 1))
    end = data.draw(st.integers(first + 1, min(first + 4, len(log))))
    log[first:end] = [Break("LOST", f"messages {first} to {end - 1}")]

    assert found(server.inputs, log) == []


def test_a_late_trial_that_a_successor_gave_in_time_is_late_without_its_volume():
    nan = float("nan")
    began = [("latency", 2.0), shown("t-1", 0.0), ("volume", 0, 0.0, nan, False)]
    died = [("latency", 0.0), ("crash", 2)]
    script = ("start", "flag", "live", False), [*ANSWERED, *began, *died], []
    whole = served(script).outcomes
    late = [
        (one.envelope.record, place)
        for place, one in enumerate(whole)
        if getattr(one.envelope.record, "timing", "") == "LATE"
    ]
    assert {type(record) for record, _ in late} == {VolumeOutcome, TrialOutcome}
    (volume,) = [place for record, place in late if isinstance(record, VolumeOutcome)]

    for end in range(volume + 1, len(whole)):
        server = served(script)
        lost = Break("LOST", f"messages {volume} to {end - 1}")
        server.outcomes[volume:end] = [lost]
        assert found(server.inputs, server.outcomes) == []


def session(*, updates):
    """Two trials, the second of which has a volume between onset and answer."""
    server = Server()
    server.do("start", "flag", "live", updates)
    first, other = shown("t-0", 0.0), shown("t-1", 2.0)
    for event in (first, None, other, None, None, None):
        if event is not None:
            server.do(*event)
        server.do("volume", 0, 0.0, 1.5, False)
        server.do("idle", 3)
        server.do("wait", 1.0)
    server.do("stop")
    return server


def test_between_volumes_a_trial_that_waits_is_estimated_once_an_answer_was_timed():
    records = [one.envelope.record for one in session(updates=True).outcomes]
    kinds = [
        (type(one).__name__, one.trial_id)
        for one in records
        if isinstance(one, TrialOutcome | Update)
    ]
    updates = [one for one in records if isinstance(one, Update)]

    # Nobody knows how long an answer takes before the first one.
    assert kinds[:3] == [
        ("TrialOutcome", "t-0"),
        ("Update", "t-1"),
        ("TrialOutcome", "t-1"),
    ]
    assert [one.after_volume for one in updates] == [2]
    assert [one.confidence for one in updates] == [None]


def test_unasked_nothing_is_estimated_before_its_time():
    outcomes = session(updates=False).outcomes

    assert not any(isinstance(one.envelope.record, Update) for one in outcomes)


def test_an_estimate_that_says_something_else_is_found():
    server = session(updates=True)
    at, entry = next(
        (at, one)
        for at, one in enumerate(server.outcomes)
        if isinstance(one.envelope.record, Update)
    )
    told = structs.replace(entry.envelope.record, label="another")
    server.outcomes[at] = structs.replace(entry, envelope=encode(told))

    assert [one.field for one in found(server.inputs, server.outcomes)] == ["label"]
