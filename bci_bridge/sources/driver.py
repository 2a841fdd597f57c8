"""The loop that asks a source, lets the feed decide, and has a sender say it.

A thin edge between `bci_bridge.sources.feed` and `bci_bridge.sender`: the source, the
server, the spool and the clock are here, no decision is.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from bci_bridge.keyring import Credentials
from bci_bridge.line import Line
from bci_bridge.messages import Hello, RunStart
from bci_bridge.sender import Sender
from bci_bridge.sources.feed import Feed
from bci_bridge.sources.journal import Journal
from bci_bridge.sources.past import Left
from bci_bridge.sources.plan import Plan
from bci_bridge.sources.source import Source
from bci_bridge.sources.speech import Action, Begin, End, SayMissing, SayVolume, Tell
from bci_bridge.spool_format import Progress
from bci_bridge.unfinished import finish_spool
from runtime.errors import NeuroFlowError, PeerError, ScanError

_STREAM: Final = "scanner"
_BUSY_S: Final = 0.01
"""How long a source may be waited for while the server's answers are due."""
_IDLE_S: Final = 0.1
"""The same while no run is under way."""
_ANSWER_NS: Final = 10_000_000_000
_NO_MORE: Final = ("ILLEGAL_STATE", "WRONG_RUN")
"""The server has ended the run of a spool, or has forgotten it."""


def send_runs(
    source: Source,
    plan: Plan,
    address: str,
    *,
    tell: Callable[[str], None],
    is_stopped: Callable[[], bool] = lambda: False,
    credentials: Credentials | None = None,
    spool: Path | None = None,
    journal: Journal | None = None,
    left: Left | None = None,
    outage_s: float = 60.0,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> None:
    """Send what a source yields, until as many runs are complete as are wanted.

    With a spool a run that a killed process began is gone on with: what it said is not
    said again.

    Args:
        source: Where volumes come from; the caller closes it.
        plan: What is announced.
        address: Where the server listens.
        tell: Takes a line for the operator.
        is_stopped: Asked all the time; True ends the run as aborted, and the call.
        credentials: This device's key, with the role scanner, and the server's.
        spool: Folder in which messages survive this process; for it alone.
        journal: The spool's, where it was asked about the source's folder.
        left: Which files of its folder the source leaves out; None where it has none.
        outage_s: How long the server may be away in mid-run.
        clock_ns: Monotonic clock.

    Raises:
        ScanError: The source is gone, or was a recording and is over too early.
        UsageError: The spool cannot be used, or holds another run.
        PeerError: The server refuses the stream, or has forgotten the run.
        BackendError: There is no server, or it is away for too long.
        ArtifactError: The spool has lost messages that the server has.
    """
    journal = journal or Journal(spool, plan)
    feed = Feed(plan, journal.past)

    def connect(start: RunStart) -> Sender:
        return Sender(
            address,
            start,
            stream=_STREAM,
            credentials=credentials,
            spool=spool,
            outage_s=outage_s,
            clock_ns=clock_ns,
            is_cancelled=is_stopped,
        )

    def begin(sending: _Sending) -> None:
        held = journal.held
        if held is None:
            _check_server(address, credentials, clock_ns, is_stopped)
        elif journal.is_gone and spool is not None:
            finish_spool(address, spool, outage_s=outage_s, credentials=credentials)
            how = "ended" if held.has_ended else "aborted, nobody goes on with it"
            tell(f"run {held.run}: {how}")
        else:
            said = sending.resume(held.start)
            series = journal.past.series or ""
            feed.resume(held.start, series, said.volumes, clock_ns())
            tell(f"run {held.run}: goes on after {said.volumes} volumes")
            if said.has_ended:
                sending.do(feed.stop("it had ended", clock_ns()))
        # Not before the server has answered: who never reached it changed nothing.
        journal.begin(feed.past, left)

    def go_on(sending: _Sending) -> None:
        while not (feed.is_done or feed.is_exhausted or is_stopped()):
            journal.alive(clock_ns())
            if plan.pace == "catchup" and sending.is_behind:
                sending.pump(10)
                continue
            arrival = source.poll(_BUSY_S if feed.is_running else _IDLE_S)
            if arrival is not None:
                sending.do(feed.take(arrival, clock_ns()))
            sending.do(feed.tick(clock_ns()))
            sending.pump(0)

    try:
        with _Sending(feed, journal, connect, tell) as sending:
            begin(sending)
            if journal.past.complete >= plan.runs:
                tell(f"run {plan.run}: complete already, of {plan.runs} to send")
            try:
                go_on(sending)
            except ScanError as error:
                sending.do(feed.stop(str(error), clock_ns()))
                raise
            if is_stopped():
                # Before the run ends: the server may be away.
                journal.stop()
                sending.do(feed.stop("stopped by the operator", clock_ns()))
    except NeuroFlowError as error:
        if is_stopped():
            journal.stop()
        else:
            journal.fail()
        if isinstance(error, PeerError) and error.reason in _NO_MORE and journal.held:
            raise PeerError(
                error.reason,
                f"{error.detail}. The server takes no more of run {journal.held.run}: "
                f"delete {spool} to give up what it does not have, or name another "
                "--spool",
            ) from error
        is_begun = feed.past.begun > journal.past.begun or journal.held is not None
        if is_begun or not is_stopped():
            raise
    if is_stopped():
        return
    if not feed.is_done:
        raise ScanError(
            f"source: expected {plan.runs} complete runs of {plan.volumes} volumes, "
            f"found {feed.past.complete} when it was over"
        )
    journal.forget()


class _Sending:
    """The sender of the run under way, if one is; does what the feed decides."""

    def __init__(
        self,
        feed: Feed,
        journal: Journal,
        connect: Callable[[RunStart], Sender],
        tell: Callable[[str], None],
    ) -> None:
        self._feed, self._journal = feed, journal
        self._connect, self._tell = connect, tell
        self._sender: Sender | None = None

    def __enter__(self) -> "_Sending":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sender is not None:
            self._sender.__exit__(kind, error, trace)

    @property
    def is_behind(self) -> bool:
        return self._sender is not None and self._sender.is_behind

    def pump(self, timeout_ms: int) -> None:
        if self._sender is not None:
            self._sender.pump(timeout_ms)

    def resume(self, start: RunStart) -> Progress:
        self._sender = self._connect(start)
        return self._sender.resumed or Progress()

    def do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            sender = self._sender
            match action:
                case Tell(line=line):
                    self._tell(line)
                case Begin(start=start):
                    self._journal.write(self._feed.past)
                    try:
                        self._sender = self._connect(start)
                    except PeerError as error:
                        if error.reason != "BAD_GEOMETRY":
                            raise
                        # Another measurement of the session, a localiser for one.
                        self.do(self._feed.refuse(str(error)))
                        self._journal.write(self._feed.past)
                        return
                case SayVolume() if sender is not None:
                    sender.volume(action.index, action.voxels, action.acquired_ns)
                case SayMissing() if sender is not None:
                    sender.missing(action.index, action.reason)
                case End() if sender is not None:
                    sender.close(action.count, aborted=action.is_aborted)
                    self._sender = None
                    self._journal.write(self._feed.past)


def _check_server(
    address: str,
    credentials: Credentials | None,
    clock_ns: Callable[[], int],
    is_stopped: Callable[[], bool],
) -> None:
    """Find out before the scanner begins whether anybody listens."""
    line = Line(address, _STREAM, credentials)
    hello = Hello(stream=_STREAM, role="scanner", software="neuroflow-rt")
    try:
        line.greet(hello, _ANSWER_NS, clock_ns, is_stopped)
    finally:
        line.close()
