"""A subscriber in a process of its own.

``python -m tests.faults.listener ADDRESS LOG``. It hears the server through the package
that others install, and writes down all that that package gives it. Where the package
gives up because of silence or of a gap, it starts again at the outcome that comes next,
as an experiment's software would; each time is on record, and outcomes that cannot be
had again stay missing in the log.
"""

import signal
import sys
import time
from pathlib import Path

from neuroflow_client import (
    AnyOutcome,
    Client,
    ClientError,
    GapError,
    TrialOutcome,
    VolumeOutcome,
)

from bci_bridge.urgency import SERVER, become_urgent
from tests.faults.jsonlog import JsonLog

TIMEOUT_S = 1.0
"""Four missed signs of life; the package's default is longer."""

FRUITLESS_GAPS = 3
"""Gaps in a row at the same outcome: then it is gone, and the next run counts."""


def _write(log: JsonLog, outcome: AnyOutcome) -> None:
    common = {
        "run": outcome.run,
        "outcome_index": outcome.outcome_index,
        "decided_ns": outcome.decided_ns,
        "published_ns": outcome.published_ns,
        "heard_ns": time.monotonic_ns(),
        "degraded": outcome.degraded,
    }
    if isinstance(outcome, VolumeOutcome):
        log.write(
            "volume",
            **common,
            volume_index=outcome.volume_index,
            input=outcome.input,
            timing=outcome.timing,
            reason=outcome.reason,
            crc32=outcome.input_crc32,
            acquired_ns=outcome.acquired_ns,
            received_ns=outcome.received_ns,
            deadline_ns=outcome.deadline_ns,
        )
    elif isinstance(outcome, TrialOutcome):
        log.write("trial", **common, trial_id=outcome.trial_id)


class Listener:
    """Follows one run after another, whatever happens to the server."""

    def __init__(self, address: str, log: JsonLog) -> None:
        self._address, self._log = address, log
        self._client = Client(address, follow=True, timeout_s=TIMEOUT_S)
        self._ended = ""
        self._gaps = 0

    def listen(self) -> None:
        """Write until this process is told to end."""
        while True:
            before = (self._client.run, self._client.next_index)
            try:
                for outcome in self._client:
                    self.note_end()
                    _write(self._log, outcome)
            except ClientError as error:
                self._restart(error, before)

    def note_end(self) -> None:
        """Write how the last run ended, once."""
        ended = self._client.ended
        if ended is not None and ended.run != self._ended:
            self._ended = ended.run
            self._log.write(
                "ended", run=ended.run, count=ended.count, aborted=ended.aborted
            )

    def _restart(self, error: ClientError, before: tuple[str, int]) -> None:
        self.note_end()
        run, at = self._client.run, self._client.next_index
        self._log.write("restart", why=type(error).__name__, run=run, at=at)
        is_stuck = isinstance(error, GapError) and (run, at) == before
        self._gaps = self._gaps + 1 if is_stuck else 0
        is_gone = isinstance(error, GapError) and error.last is None
        if is_gone or not run:
            return  # The same client goes on with the run that comes next.
        if self._gaps == FRUITLESS_GAPS:
            run, at, self._gaps = "", 0, 0
        self._client = Client(
            self._address, at, run=run, follow=True, timeout_s=TIMEOUT_S
        )


def main(address: str, log: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # It stands for another machine: when it hears is not to hang on what this one does.
    become_urgent(SERVER)
    listener = Listener(address, JsonLog(Path(log)))
    try:
        listener.listen()
    finally:
        listener.note_end()


if __name__ == "__main__":
    main(*sys.argv[1:])
