"""The client: announcements in order, whatever was missed asked for again."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, Optional

import zmq

from neuroflow_client.errors import (
    ArgumentError,
    GapError,
    ProtocolError,
    RefusedError,
    UnsoundError,
)
from neuroflow_client.frames import (
    VERSION,
    Frames,
    Said,
    outcome_from,
    request,
)
from neuroflow_client.line import Line, say
from neuroflow_client.outcomes import (
    AnyOutcome,
    RunEnded,
    TrialOutcome,
    Update,
    VolumeOutcome,
)

_NO_OUTCOME = (1 << 63) - 1
"""No run has so many: who asks from here on is told of the run alone."""

_ATTEMPTS = 3
"""Fruitless requests for the same outcome before it is given up."""


class Client:
    """Iterate over the outcomes of a run, from the first one to its end.

    Of a run that is not named it is the one that is under way, or else the next one
    that begins: what was over before is no answer to what happens now.

    Attributes:
        run: Name of the run being received; empty until there is one.
        next_index: Index of the outcome that comes next.
        ended: How the last run ended; None before.
    """

    def __init__(
        self,
        address: str,
        from_index: int = 0,
        *,
        run: str = "",
        follow: bool = False,
        strict: bool = False,
        with_end: bool = False,
        timeout_s: float = 5.0,
        key_file: Optional[str] = None,
        server_key_file: Optional[str] = None,
    ) -> None:
        """Describe what is wanted; iteration connects.

        Args:
            address: Where the server listens, such as ``tcp://127.0.0.1:5760``.
            from_index: First outcome wanted; beyond 0 of a run that is named.
            run: Name of a run to come, or of the last two, which the server keeps, over
                or not; the live one by default.
            follow: Go on with the next run instead of ending.
            strict: Raise `UnsoundError` in place of an outcome that is not sound, and
                for such an end.
            with_end: Yield each run's `RunEnded` too, as its last outcome.
            timeout_s: How long the server may be silent before `SilenceError`.
            key_file: This device's own `NAME.key`, where the server asks for keys.
            server_key_file: The server's `server.pub`, which came with it.

        Raises:
            ArgumentError: If an index is wanted of no run, or is negative.
            KeyFileError: If a key file is missing, damaged, or readable by others.
        """
        if from_index < 0:
            raise ArgumentError(f"from_index: expected 0 or more, found {from_index}")
        if from_index and not run:
            raise ArgumentError(
                f"from_index {from_index}: expected the run that it belongs to, found "
                "none. Name it: run=..., as every outcome says"
            )
        self._line = Line(address, timeout_s, key_file, server_key_file)
        self.run = run
        self.next_index = from_index
        self.ended: Optional[RunEnded] = None
        self._follow, self._is_strict, self._is_with_end = follow, strict, with_end
        self._is_done = False
        # A run that was asked for may begin later; one of which outcomes came is there.
        self._is_known = self._is_unproven = from_index > 0
        # How the newest run stood when this client came; None before.
        self._at_first: Optional[Said] = None
        self._asked = 0
        # Server's clock at the newest outcome taken.
        self._newest_ns = 0

    def __iter__(self) -> Iterator[AnyOutcome]:
        """Connect, then yield outcome after outcome.

        Raises:
            GapError: If outcomes were missed that cannot be had again, or the server
                has begun the run anew. Iterating once more goes on after them, or from
                the new beginning, where the server has more.
            UnsoundError: If an outcome is not sound, where only sound ones are wanted.
                Iterating once more goes on after it.
            ArgumentError: If `from_index` is beyond what the run has.
            SilenceError: If the server is not there.
            RefusedError: If the server does not want this client.
            ProtocolError: If the other end is not such a server.
        """
        context: Any = zmq.Context()
        try:
            with contextlib.closing(self._received(context)) as received:
                for outcome in received:
                    if self._is_strict and not outcome.is_sound:
                        raise UnsoundError(outcome)
                    yield outcome
        finally:
            context.destroy(linger=0)

    def _received(self, context: Any) -> Generator[AnyOutcome, None, None]:
        welcome = self._welcome(context)
        # The server's machine may have started anew, and its clock with it.
        self._newest_ns = 0
        with (
            self._line.socket(context, zmq.SUB) as announced,
            self._line.socket(context, zmq.DEALER) as replay,
        ):
            announced.setsockopt(zmq.SUBSCRIBE, b"")
            announced.connect(welcome.publish)
            replay.connect(welcome.replay)
            yield from self._come(replay)
            while not self._is_done or self._follow:
                frames = self._line.next(announced)
                yield from self._announced(frames, replay)

    def _come(self, replay: Any) -> Iterator[AnyOutcome]:
        """Take what there is of the run; learn whether one is under way."""
        if self.run and not self._is_done:
            yield from self._replayed(replay)
        # Of what began since, and may not be the first, announcements tell.
        if self._is_known or self._at_first is not None:
            return
        self._at_first = newest = self._told_of(replay, "")
        if not self.run and newest.run and not newest.has_ended:
            yield from self._begun(replay, newest.run)

    def _announced(self, frames: Frames, replay: Any) -> Iterator[AnyOutcome]:
        said = frames.said
        if not said.run:
            return
        if not self.run:
            if not self._is_news(said):
                return
            # It may have waited here since before the newest one began.
            newest = self._told_of(replay, "")
            if not newest.run or self._is_as_at_first(newest):
                return
            # There was none at first: it is the oldest of those that came since.
            self._begin((*self._missed(replay, newest.run), newest.run)[0])
        if said.run != self.run and said.sent_ns < self._newest_ns:
            # The end of the run before, announced while this one was being replayed.
            return
        if said.run != self.run:
            yield from self._next_run(replay)
        elif self._is_done:
            yield from self._again(said, replay)
        elif said.outcome_index == self.next_index:
            yield from self._taken(frames)
        elif _count(said) > self.next_index or self._is_short(said):
            yield from self._replayed(replay)

    def _is_short(self, said: Said) -> bool:
        """Whether a new word knows of less than was taken: a server that began anew."""
        return _count(said) < self.next_index and said.sent_ns > self._newest_ns

    def _is_news(self, said: Said) -> bool:
        """Whether it is more than a HEARTBEAT about what was there at first."""
        first = self._at_first
        if first is None:
            return True
        # An outcome that is announced does not say how many there are.
        return (said.run, said.outcome_count) != (first.run, first.outcome_count)

    def _is_as_at_first(self, told: Said) -> bool:
        """Whether this is the run that was the newest one when this client came.

        A server without a log that begins anew may give its name to another.
        """
        first = self._at_first
        if first is None or told.run != first.run:
            return False
        if not told.is_known:
            return True
        if not first.has_ended:
            return told.outcome_count >= first.outcome_count
        return told.has_ended and told.outcome_count == first.outcome_count

    def _again(self, said: Said, replay: Any) -> Iterator[AnyOutcome]:
        """Go on with another run of the name of the one that is done."""
        if _count(said) <= self.next_index and not self._is_short(said):
            return
        newest = self._told_of(replay, "")
        is_done = newest.has_ended and newest.outcome_count == self.next_index
        if newest.run == self.run and not is_done:
            yield from self._up_to(replay, self.run)

    def _welcome(self, context: Any) -> Said:
        with self._line.socket(context, zmq.DEALER) as socket:
            self._line.connect(socket)
            hello = request("HELLO", versions=[VERSION], role="observer")
            say(socket, hello)
            said = self._line.next(socket).said
            say(socket, request("GOODBYE"))
        self._check_refusal(said)
        if said.kind != "WELCOME":
            raise ProtocolError(f"server: expected WELCOME, found {said.kind}")
        return said

    def _check_refusal(self, said: Said) -> None:
        if said.kind == "REJECT":
            raise RefusedError(
                f"server {self._line.address}: {said.reason}: {said.detail}"
            )

    def _next_run(self, replay: Any) -> Iterator[AnyOutcome]:
        """Finish the run that another has followed; with `follow`, go on to that."""
        # What was announced may be older than the run that this one waits for.
        newest = self._told_of(replay, "")
        if not newest.run:
            return
        if not self._is_done:
            was_known = self._is_known
            yield from self._replayed(replay)
            if not self._is_done:
                # Between the two questions it may have begun, as the newest one.
                is_begun = self._is_known and not was_known
                is_awaited = not self._is_known and self._is_as_at_first(newest)
                if is_begun or is_awaited or newest.run == self.run:
                    return
                raise self._gone()
        if self._follow and newest.run != self.run:
            yield from self._up_to(replay, newest.run)

    def _up_to(self, replay: Any, newest: str) -> Iterator[AnyOutcome]:
        """Ask for whatever came between the last run and the newest, then for that."""
        for run in self._missed(replay, newest):
            yield from self._begun(replay, run)
            if not self._is_done:
                raise self._gone()
        yield from self._begun(replay, newest)

    def _gone(self) -> GapError:
        """Give up what is left of the run; another one may be gone on with."""
        error = GapError(self.run, self.next_index, None)
        self._is_done, self.next_index = True, 0
        return error

    def _begun(self, replay: Any, run: str) -> Iterator[AnyOutcome]:
        self._begin(run)
        yield from self._replayed(replay)

    def _begin(self, run: str) -> None:
        """Receive a run that is known to be there."""
        self.run, self.next_index = run, 0
        self._is_done, self._is_known = False, True

    def _missed(self, replay: Any, newest: str) -> list[str]:
        """Name the runs between the last one, or what was at first, and the newest.

        Raises:
            GapError: If the server no longer has one of them.
        """
        missed: list[str] = []
        run = newest
        while True:
            done = self._told_of(replay, run)
            if not self._is_known and self._is_as_at_first(done):
                return missed
            if not done.is_known:
                self._begin(run)
                raise self._gone()
            if run != newest:
                missed.insert(0, run)
            before = done.run_before
            # A server that began anew knows of none before its first.
            if not before or before == self.run:
                return missed
            if before == newest or before in missed:
                raise ProtocolError(f"run {run}: expected an earlier run before it")
            run = before

    def _told_of(self, replay: Any, run: str) -> Said:
        """Ask how a run stands, without its outcomes."""
        question = self._question(run, _NO_OUTCOME)
        say(replay, question)
        while True:
            said = self._line.next(replay, question).said
            self._check_refusal(said)
            if said.kind == "REPLAY_DONE" and said.sequence == self._asked:
                return said

    def _question(self, run: str, from_index: int) -> "list[bytes]":
        self._asked += 1
        return request("REPLAY", run=run, from_index=from_index, sequence=self._asked)

    def _replayed(self, replay: Any) -> Iterator[AnyOutcome]:
        """Ask for what there is from `next_index` on, until nothing is left."""
        attempts = 0
        while True:
            question = self._question(self.run, self.next_index)
            say(replay, question)
            before = self.next_index
            while True:
                frames = self._line.next(replay, question)
                self._check_refusal(frames.said)
                if frames.said.kind == "REPLAY_DONE":
                    if frames.said.sequence == self._asked:
                        break
                else:
                    yield from self._taken(frames)
            done = frames.said
            if not done.is_known:
                if self._is_known:
                    raise self._gone()
                return
            self._is_known = True
            if self.next_index > done.outcome_count and not self._is_unproven:
                # The server began it anew: what comes now is of another run.
                error = GapError(self.run, self.next_index, None)
                self._begin(self.run)
                raise error
            if self.next_index > done.outcome_count:
                raise ArgumentError(
                    f"from_index {self.next_index}: expected at most "
                    f"{done.outcome_count}, the outcomes of run {self.run}. Give one "
                    "more than the last that you had"
                )
            self._is_unproven = False
            if self.next_index == done.outcome_count:
                self._is_done = self._is_done or done.has_ended
                return
            attempts = 0 if self.next_index > before else attempts + 1
            if attempts == _ATTEMPTS:
                end = done.outcome_count
                if done.next_index > before:
                    # Lost in the log; what comes after it is there.
                    end = self.next_index = done.next_index
                raise GapError(self.run, before, end - 1)

    def _taken(self, frames: Frames) -> Iterator[AnyOutcome]:
        """Yield the outcome if it is the next one; others come again or have been."""
        said = frames.said
        if said.outcome_index != self.next_index or said.run != self.run:
            return
        outcome = outcome_from(frames)
        self._is_known, self._is_unproven = True, False
        self._newest_ns = max(self._newest_ns, said.sent_ns)
        self.next_index += 1
        self._is_done = isinstance(outcome, RunEnded)
        if isinstance(outcome, RunEnded):
            self.ended = outcome
            if self._is_with_end or (self._is_strict and not outcome.is_sound):
                yield outcome
        elif isinstance(outcome, (VolumeOutcome, TrialOutcome, Update)):
            yield outcome


def _count(said: Said) -> int:
    """How many outcomes the run has at least, by what was announced."""
    if said.outcome_index is None:
        return said.outcome_count
    return said.outcome_index + 1
