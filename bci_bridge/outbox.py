"""The outcomes of the last runs, numbered, to be handed out again.

Pure: no socket, no file. A subscriber that missed an announcement asks here, so that
what is published is a convenience and what is kept here is the truth.
"""

from collections import OrderedDict
from typing import Final

from bci_bridge.messages import ReplayDone, ReplayRequest
from bci_bridge.outcomes import Outcome, RunEnded, VolumeOutcome
from bci_bridge.wire import Envelope, encode

KEPT_RUNS: Final = 2
BATCH_BYTES: Final = 8 << 20
"""One replay answer holds at most this much, or a single outcome."""


class Outbox:
    """Keeps the outcomes of the last `KEPT_RUNS` runs."""

    def __init__(self, run_before: str = "") -> None:
        """Keep nothing yet.

        Args:
            run_before: The newest run of which nothing is going to be kept.
        """
        self._runs: OrderedDict[str, list[Envelope]] = OrderedDict()
        self._before: dict[str, str] = {}
        self._ended: set[str] = set()
        self._run_before = run_before

    @property
    def run_id(self) -> str:
        """The newest run; empty before the first."""
        return next(reversed(self._runs), "")

    @property
    def count(self) -> int:
        """Outcomes of the newest run so far."""
        return len(self._runs.get(self.run_id, ()))

    @property
    def answered(self) -> int:
        """Acquisitions of the newest run that have their outcome."""
        # They come in order of the index, with a few trials between them.
        for envelope in reversed(self._runs.get(self.run_id, ())):
            if isinstance(envelope.record, VolumeOutcome):
                return envelope.record.volume_index + 1
        return 0

    @property
    def has_ended(self) -> bool:
        """Whether the newest run's end is among them."""
        return self.run_id in self._ended

    def start_run(self, run_id: str) -> None:
        """Begin a run, unless it is known."""
        if run_id in self._runs:
            return
        before = self.run_id or self._run_before
        # What is left of a run is no run that came before it.
        self._before[run_id] = before if before != run_id else ""
        self._runs[run_id] = []
        while len(self._runs) > KEPT_RUNS:
            oldest, _ = self._runs.popitem(last=False)
            self._ended.discard(oldest)
            del self._before[oldest]

    def keep(self, envelope: Envelope) -> bool:
        """Keep an outcome of the log; False where it is here already.

        Two workers may both have answered at the instant at which one took over from
        the other; the first answer counts.
        """
        outcome = envelope.record
        if not isinstance(outcome, Outcome):
            return False
        if outcome.run not in self._runs:
            self.start_run(outcome.run)
        kept = self._runs[outcome.run]
        if outcome.outcome_index != len(kept):
            return False
        kept.append(envelope)
        if isinstance(outcome, RunEnded):
            self._ended.add(outcome.run)
        return True

    def replay(self, request: ReplayRequest) -> list[Envelope]:
        """Answer a request: outcomes in order, then REPLAY_DONE."""
        run = request.run or self.run_id
        kept = self._runs.get(run, [])
        batch: list[Envelope] = []
        nbytes = 0
        for envelope in kept[request.from_index : request.from_index + request.limit]:
            nbytes += len(envelope.header) + len(envelope.payload)
            if batch and nbytes > BATCH_BYTES:
                break
            batch.append(envelope)
        done = ReplayDone(
            run=run,
            stream="server",
            sequence=request.sequence,
            next_index=min(request.from_index, len(kept)) + len(batch),
            outcome_count=len(kept),
            has_ended=run in self._ended,
            is_known=run in self._runs or not run,
            run_before=self._before.get(run, ""),
        )
        return [*batch, encode(done)]
