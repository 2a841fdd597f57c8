"""Whatever a server learns between two words of a client, the client has every run.

The client asks over one socket and listens on another, and the server goes on
meanwhile: a run may begin, end or be followed by the next between any two questions.
Here the server is the real `Outbox`; when it learns what, and which announcements are
lost, is drawn.
"""

import itertools
from collections import deque

import zmq
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs
from neuroflow_client import Client, GapError, SilenceError
from neuroflow_client.frames import frames_from

from bci_bridge.messages import Heartbeat, Hello, ReplayRequest, Welcome
from bci_bridge.outbox import Outbox
from bci_bridge.wire import decode, encode
from tests.integration.test_client import ended_of, volume_of

QUIET = 3
"""Heartbeats in a row, with nothing left to learn, after which a server is silent."""


class Server:
    """What is still to come, and the line of a client to it, all in memory.

    Attributes:
        first: The run under way when it was first asked how things stand, or else the
            next; None before.
    """

    address = "tcp://x"

    def __init__(self, learned, to_come, waits, lost):
        self.outbox, self.to_come = Outbox(), deque(to_come)
        self.waits, self.lost = deque(waits), lost
        self.now_ns, self.wait, self.beats = 10, 0, 0
        self.announcements, self.first = deque(), None
        for _ in range(min(learned, len(to_come))):
            self.learn()

    def learn(self):
        self.now_ns += 1
        run_or_outcome = self.to_come.popleft()
        if isinstance(run_or_outcome, str):
            self.outbox.start_run(run_or_outcome)
            return
        said = encode(structs.replace(run_or_outcome, sent_ns=self.now_ns))
        self.outbox.keep(said)
        if self.now_ns not in self.lost:
            self.announcements.append(said.frames)

    def go_on(self):
        """Let a moment pass, in which what waited for so many is learnt."""
        self.wait -= 1
        while self.wait <= 0 and self.to_come:
            self.learn()
            self.wait = self.waits.popleft() if self.waits else 1

    def socket(self, _context, kind):
        if kind == zmq.SUB:
            self.announcements.clear()
        return Socket(self, kind)

    def connect(self, _socket):
        """Be there."""

    def answered(self, frames):
        self.go_on()
        request, answers = decode(frames).record, []
        if isinstance(request, ReplayRequest):
            if self.first is None:
                self.first = int(self.outbox.run_id or 1) + self.outbox.has_ended
            answers = self.outbox.replay(request)
        elif isinstance(request, Hello):
            welcome = Welcome(stream="server", publish="tcp://x", replay="tcp://x")
            answers = [encode(welcome)]
        self.go_on()
        return [one.frames for one in answers]

    def next(self, socket, _question=None):
        if socket.kind == zmq.DEALER:
            return frames_from(socket.answers.popleft())
        self.go_on()
        if self.announcements:
            return frames_from(self.announcements.popleft())
        self.beats = 0 if self.to_come else self.beats + 1
        if self.beats > QUIET:
            raise SilenceError("silent")
        self.now_ns += 1
        beat = Heartbeat(
            run=self.outbox.run_id,
            stream="server",
            sent_ns=self.now_ns,
            outcome_count=self.outbox.count,
        )
        return frames_from(encode(beat).frames)


class Socket:
    """One of the client's sockets."""

    def __init__(self, server, kind):
        self.server, self.kind, self.answers = server, kind, deque()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Be closed."""

    def setsockopt(self, *_):
        """Take any option."""

    connect = setsockopt

    def send_multipart(self, frames, _flags=0):
        self.answers += self.server.answered(frames)


def runs_of(volumes):
    """Runs named from 1 on: each one's name as it begins, its volumes and its end."""
    to_come = []
    for number, count in enumerate(volumes, 1):
        run = str(number)
        to_come += [run, *(volume_of(run, index) for index in range(count))]
        to_come.append(ended_of(run, count).record)
    return to_come


def client_of(server, **wanted):
    client = Client("tcp://x", with_end=True, **wanted)
    client._line = server
    return client


def taken(client):
    """What a client has, each run's outcomes by index, and what broke it off."""
    had = {}
    try:
        for outcome in client:
            had.setdefault(outcome.run, []).append(outcome.outcome_index)
    except (GapError, SilenceError) as error:
        return had, error
    return had, None


def whole(volumes, first, last):
    """What is had of the runs from one to another: every outcome, once, in order."""
    runs = range(first, last + 1)
    return {str(run): list(range(volumes[run - 1] + 1)) for run in runs}


def is_gone(server, run):
    """Whether the server no longer has a run."""
    *_, done = server.outbox.replay(ReplayRequest(run=run))
    return not done.record.is_known


VOLUMES = st.lists(st.integers(0, 3), min_size=1, max_size=4)
LEARNED = st.integers(0, 12)
WAITS = st.lists(st.integers(0, 12), max_size=20)
LOST = st.sets(st.integers(10, 40))


@given(VOLUMES, LEARNED, WAITS, LOST, st.integers(0, 3))
# It begins between word of how the newest run stands and the question for its outcomes.
@example([0, 0], 0, [11], set(), 1)
def test_a_named_run_that_is_there_or_comes_next_is_had_whole(
    volumes, learned, waits, lost, named
):
    run, to_come = 1 + named % len(volumes), runs_of(volumes)
    # Another that begins first is word that this one will not come.
    begun = to_come.index(str(run - 1)) + 1 if run > 1 else 0
    server = Server(begun + learned, to_come, waits, lost)

    had, broken_off = taken(client_of(server, run=str(run)))

    if broken_off is None:
        assert had == whole(volumes, run, run)
    else:
        # Gone before the client came, it might still come; else it is a gap.
        assert is_gone(server, str(run))


@given(VOLUMES, LEARNED, WAITS, LOST)
def test_who_names_none_has_the_run_under_way_or_the_next_whole(
    volumes, learned, waits, lost
):
    server = Server(learned, runs_of(volumes), waits, lost)

    had, broken_off = taken(client_of(server))

    if isinstance(broken_off, GapError):
        assert is_gone(server, broken_off.run)
    elif isinstance(broken_off, SilenceError):
        assert (had, server.first) == ({}, len(volumes) + 1)
    else:
        assert had == whole(volumes, server.first, server.first)


@given(VOLUMES, LEARNED, WAITS, LOST)
def test_who_follows_has_every_run_from_there_on_whole(volumes, learned, waits, lost):
    server = Server(learned, runs_of(volumes), waits, lost)

    had, broken_off = taken(client_of(server, follow=True))

    if isinstance(broken_off, GapError):
        assert is_gone(server, broken_off.run)
    else:
        assert isinstance(broken_off, SilenceError)
        assert had == whole(volumes, server.first, len(volumes))


@given(VOLUMES, LEARNED, WAITS, LOST, st.integers(1, 4), st.booleans())
def test_who_breaks_off_and_resumes_has_the_rest(
    volumes, learned, waits, lost, count, is_another
):
    server = Server(learned, runs_of(volumes), waits, lost)
    client = client_of(server)
    before, broken_off = taken(itertools.islice(client, count))
    if broken_off is None and is_another:
        client = client_of(server, run=client.run, from_index=client.next_index)
    if broken_off is None:
        after, broken_off = taken(client)

    if broken_off is None:
        (had,) = before.values()
        rest = after.get(client.run, [])
        assert {client.run: had + rest} == whole(volumes, server.first, server.first)
    elif client.run:
        assert is_gone(server, client.run)
    else:
        assert isinstance(broken_off, SilenceError)
