"""What a source's runs came to, beside their spool: it survives the process.

The spool knows a run's messages, and nothing of series or files. This file is written
when a process begins, before a run begins and after it has ended, so it can be one step
ahead of the spool or behind it; `Journal` says which, and what that means. Its own time
says when the process was last alive.
"""

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from bci_bridge.sources.past import Left, Past, Said, anew, goes_on, is_gone
from bci_bridge.sources.plan import Plan
from bci_bridge.unfinished import Held, forget_spool, held_run
from runtime.errors import UsageError

_NAME: Final = "series.json"
_MAX_BYTES: Final = 1 << 26
_ALIVE_NS: Final = 5_000_000_000
"""So often a process says that it is alive."""


class Journal:
    """The past of one spool's runs; without a spool there is none.

    Attributes:
        past: How far an earlier process came.
        held: Its run that is not finished; None where there is none.
        is_gone: That run is to be ended instead of gone on with.
    """

    def __init__(self, spool: Path | None, plan: Plan) -> None:
        """Read what an earlier process left.

        Args:
            spool: Its folder.
            plan: What is announced.

        Raises:
            UsageError: The spool cannot be used, a sender has it, or it holds a run
                of another name that is not finished.
        """
        self._spool, self._plan = spool, plan
        self.past, self.held = self._settled()
        self.is_gone = False
        self._written: Past | None = None
        self._left = self.past.left
        self._is_first = True
        self._said_ns: int | None = None

    def goes_on(self, folder: str, said: Said) -> bool:
        """Decide whether a folder's files are those that an earlier process left out.

        Where they are not, what it knew of series is forgotten as far as it misleads.

        Args:
            folder: As `Left.folder`.
            said: By the operator.
        """
        if is_gone(self.past, folder, self._age_s()):
            self.is_gone = self.held is not None
            self.past = anew(self._with_end(), folder, said)
            return False
        if goes_on(self.past, said, is_under_way=self.held is not None):
            self._is_first = False
            return True
        over = self.past.sent if said == "--from-start" else self.past.over
        self.past = msgspec.structs.replace(self.past, over=over, left=None)
        return False

    def begin_again(self) -> None:
        """Forget what a recording's process sent that the operator stopped."""
        if self.past.is_stopped and self.held is None:
            self.past = Past(run=self.past.run, begun=self.past.begun)

    def _settled(self) -> tuple[Past, Held | None]:
        plan = self._plan
        if self._spool is None:
            return Past(run=plan.run), None
        held = held_run(self._spool)
        past = self._read(self._spool)
        if past.run != plan.run:
            past = Past(run=plan.run)
        if past.begun == 0 and held is not None and held.run == plan.run:
            past = msgspec.structs.replace(past, begun=1)
        if held is None or held.run != plan.name(past.begun):
            if held is not None and not held.is_finished:
                raise UsageError(
                    f"spool {self._spool}: expected run {plan.name(past.begun)!r}, "
                    f"found run {held.run!r} unfinished. Name that run to go on with "
                    "it, or delete the folder to give up what the server does not have."
                )
            # What the file says to be under way never began.
            n_never = 0 if past.series is None else 1
            return msgspec.structs.replace(
                past, begun=past.begun - n_never, series=None, first=None
            ), None
        if not held.is_finished:
            return past, held
        if past.series is not None:
            # It has ended, and nobody had the time to write that down.
            is_complete = held.volumes >= plan.volumes
            past = msgspec.structs.replace(
                past,
                complete=past.complete + is_complete,
                series=None,
                first=None,
                over=(*past.over, past.series),
                sent=(*past.sent, past.series) if is_complete else past.sent,
            )
        return past, None

    def _with_end(self) -> Past:
        """Return the past of a run that ended, which the server does not know yet."""
        past, held = self.past, self.held
        if held is None or not held.has_ended or held.volumes < self._plan.volumes:
            return past
        sent = (*past.sent, past.series) if past.series else past.sent
        return msgspec.structs.replace(past, sent=sent)

    def begin(self, past: Past, left: Left | None) -> None:
        """Say that this process goes on from there, and which files it leaves out."""
        self._left = left
        self.write(past)

    def alive(self, now_ns: int) -> None:
        """Say now and then that this process is alive.

        Args:
            now_ns: On a monotonic clock.
        """
        if self._spool is None:
            return
        if self._said_ns is None or now_ns - self._said_ns > _ALIVE_NS:
            self._said_ns = now_ns
            with contextlib.suppress(OSError):
                os.utime(self._spool / _NAME)

    def stop(self) -> None:
        """Say that it is the operator who ends this process, if it has begun."""
        if self._written is not None:
            self.write(msgspec.structs.replace(self._written, is_stopped=True))

    def fail(self) -> None:
        """Say that this process ends by itself: where no run began, it was nothing."""
        if self._spool is None or self._written is None or not self._is_first:
            return
        with contextlib.suppress(OSError, UsageError):
            if Journal(self._spool, self._plan).past.begun == 0:
                (self._spool / _NAME).unlink(missing_ok=True)

    def write(self, past: Past) -> None:
        """Replace the file, at once.

        A disk that is full or gone costs no run, as with the spool itself: a successor
        knows less then.
        """
        if self._spool is None:
            return
        is_stopped = self._written is not None and self._written.is_stopped
        past = msgspec.structs.replace(
            past, left=self._left, is_stopped=past.is_stopped or is_stopped
        )
        self._written = past
        scratch = self._spool / f"{_NAME}.part"
        with contextlib.suppress(OSError):
            self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch.write_bytes(msgspec.json.encode(past))
            os.replace(scratch, self._spool / _NAME)

    def forget(self) -> None:
        """Delete what is said of runs that the server has."""
        if self._spool is not None:
            forget_spool(self._spool)
            (self._spool / _NAME).unlink(missing_ok=True)

    def _age_s(self) -> float:
        """Say how long ago an earlier process was alive, by the disk's own clock."""
        if self._spool is None:
            return math.inf
        try:
            then_s = (self._spool / _NAME).stat().st_mtime
            with tempfile.TemporaryFile(dir=self._spool) as new:
                return os.fstat(new.fileno()).st_mtime - then_s
        except OSError:
            return math.inf

    @staticmethod
    def _read(spool: Path) -> Past:
        file = spool / _NAME
        try:
            with file.open("rb") as opened:
                data = opened.read(_MAX_BYTES)
        except FileNotFoundError:
            return Past()
        except OSError as error:
            raise UsageError(
                f"{file}: expected what an earlier send wrote, found "
                f"{error.strerror or error}. Name another --spool."
            ) from error
        try:
            return msgspec.json.decode(data, type=Past)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(
                f"{file}: expected what an earlier send wrote, found {error}. "
                "Delete the folder to give up what the server does not have."
            ) from error
