"""What a source's runs came to, beside their spool: it survives the process.

The spool knows a run's messages, and nothing of series. This file is written before a
run begins and after it has ended, so it can be one step ahead of the spool or behind
it; `Journal.settled` says which, and what that means.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from bci_bridge.sources.plan import Past, Plan
from bci_bridge.unfinished import Held, forget_spool, held_run
from runtime.errors import UsageError

_NAME: Final = "series.json"
_MAX_BYTES: Final = 1 << 22


class Journal:
    """The past of one spool's runs; without a spool there is none."""

    def __init__(self, spool: Path | None) -> None:
        """Name the spool's folder."""
        self._spool = spool

    def settled(self, plan: Plan) -> tuple[Past, Held | None]:
        """Say how far an earlier process came.

        Returns:
            The past, and the run to go on with; None where none is under way.

        Raises:
            UsageError: The spool cannot be used, a sender has it, or it holds a run
                of another name that is not finished.
        """
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
                past, begun=past.begun - n_never, series=None
            ), None
        if not held.is_finished:
            return past, held
        if past.series is not None:
            # It has ended, and nobody had the time to write that down.
            past = msgspec.structs.replace(
                past,
                complete=past.complete + (held.volumes >= plan.volumes),
                series=None,
                over=(*past.over, past.series),
            )
        return past, None

    def write(self, past: Past) -> None:
        """Replace the file, at once.

        A disk that is full or gone costs no run, as with the spool itself: a successor
        knows less then.
        """
        if self._spool is None:
            return
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
