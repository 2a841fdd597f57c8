"""A log that keeps its newest segments alone: who comes late answers the rest of a run.

Such is a server's log without a recording, and one whose disk is full.
"""

import contextlib

import pytest

from bci_bridge.answerer import Answerer
from bci_bridge.answering import Answering
from bci_bridge.ledger import Ledger
from bci_bridge.messages import Heartbeat, RunStart, StateNote
from bci_bridge.outcomes import RunEnded, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES, Places
from bci_bridge.recorder import PREFACE, Recorder
from bci_bridge.recording_folder import segments_of
from bci_bridge.settings import WORKERS
from bci_bridge.tail import Tail
from bci_bridge.wire import encode
from tests.integration.tiny import MeanDecoder
from tests.unit.test_lost_segments import said

SEGMENT_BYTES = 2000
VOLUMES = 400


class Server:
    """What a server without a recording writes, and the worker that answers first."""

    def __init__(self, folder, stack):
        self.places = Places(None, folder)
        self.ledger = Ledger()
        self._inputs = Recorder(
            self.places.log(INPUTS),
            preface=self.ledger.note,
            keeps_all=False,
            segment_bytes=SEGMENT_BYTES,
        )
        stack.callback(self._inputs.close)
        self._first = Answering(MeanDecoder(), lambda: 0)

    def hear(self, messages):
        """Log what has come, as an ingress does."""
        for one in messages:
            self._inputs.rotate(0)
            self._inputs.append(one.topic, one.envelope, 0)
            self.ledger.fold(one.envelope, 0)
            if isinstance(one.envelope.record, RunStart):
                self.ledger.begin_in(self._inputs.segment_number)

    def answer(self, messages):
        """Log what these lead to, as the worker that answers does until it dies."""
        outcomes = Recorder(
            self.places.log(OUTCOMES),
            preface=lambda: encode(Heartbeat(stream="server")),
            keeps_all=False,
        )
        for one in messages:
            self._first.take(one)
            for envelope in self._first.emit():
                is_start = isinstance(envelope.record, RunStart)
                outcomes.append("run" if is_start else "out", envelope, 0)
        outcomes.close()

    def outcomes(self):
        """Read all that is on record."""
        tail = Tail(self.places.folders(OUTCOMES))
        found = [one.envelope.record for some in tail.read_through() for one in some]
        tail.close()
        return [one for one in found if isinstance(one, VolumeOutcome | RunEnded)]


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


def test_a_worker_that_comes_when_a_runs_beginning_is_forgotten_answers_the_rest(
    tmp_path, stack
):
    server, run = Server(tmp_path, stack), list(said("run", range(VOLUMES), VOLUMES))
    server.hear(run[:300])
    server.answer(run[:298])
    assert min(segments_of(server.places.log(INPUTS))) > server.ledger.run.heard.segment

    successor = Answerer(WORKERS[1], server.places, MeanDecoder(), lambda: 0, stack)
    successor._turn._thread.join()
    successor.turn()
    for one in run[300:]:
        server.hear([one])
        successor.turn()

    *volumes, end = server.outcomes()
    assert [(one.volume_index, one.input) for one in volumes] == [
        (index, "OK") for index in range(VOLUMES)
    ]
    assert (end.inputs, end.count) == ({"OK": VOLUMES}, VOLUMES)
    assert [one.outcome_index for one in (*volumes, end)] == list(range(VOLUMES + 1))


def state():
    return encode(StateNote())


def test_who_asks_for_a_segment_that_is_gone_is_given_what_the_next_begins_with(
    tmp_path, stack
):
    for first in range(3):
        recorder = Recorder(tmp_path, first_order=first, preface=state)
        recorder.append("in/s", encode(Heartbeat()), 0)
        recorder.close()
    (tmp_path / "000000.mcap").unlink()
    given, gone = Tail([tmp_path], segment=1), Tail([tmp_path])
    stack.callback(given.close)
    stack.callback(gone.close)

    assert [one.order for one in given.read()] == [1]
    assert given.state is None
    assert [one.order for one in gone.read()] == [1]
    assert (gone.state.topic, gone.state.order, gone.unread) == (PREFACE, 1, 0)


def test_what_a_log_goes_on_from_is_not_lost_in_a_segment_that_holds_nothing_else(
    tmp_path, stack
):
    for first, messages in ((0, 1), (1, 0), (1, 1)):
        recorder = Recorder(tmp_path, first_order=first, preface=state)
        for _ in range(messages):
            recorder.append("in/s", encode(Heartbeat()), 0)
        recorder.close()
    (tmp_path / "000000.mcap").unlink()
    tail = Tail([tmp_path])
    stack.callback(tail.close)

    assert len(tail.read()) == 1
    assert tail.state is not None
