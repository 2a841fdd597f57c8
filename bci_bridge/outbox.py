"""The outcomes of the last runs, numbered, to be handed out again.

Pure: no socket, no file. A subscriber that missed an announcement asks here, so that
what is published is a convenience and what is kept here is the truth. What the log has
lost is a gap here: who asks for it is told where it ends, and has the rest.
"""

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from bci_bridge.messages import ReplayDone, ReplayRequest
from bci_bridge.outcomes import Outcome, RunEnded, VolumeOutcome
from bci_bridge.wire import Envelope, encode

KEPT_RUNS: Final = 2
BATCH_BYTES: Final = 8 << 20
"""One replay answer holds at most this much, or a single outcome."""


@dataclass(slots=True)
class _Kept:
    """The outcomes of one run, in order of their indices."""

    indices: list[int] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)

    @property
    def count(self) -> int:
        """One more than the highest index."""
        return self.indices[-1] + 1 if self.indices else 0

    def take(self, index: int, envelope: Envelope) -> bool:
        """Keep one; False where it is here already."""
        at = len(self.indices)
        if index < self.count:
            at = bisect_left(self.indices, index)
            if self.indices[at] == index:
                return False
        self.indices.insert(at, index)
        self.envelopes.insert(at, envelope)
        return True

    def begin(self, index: int) -> tuple[int, int]:
        """Find the first one from an index on: its index, and where it is."""
        at = bisect_left(self.indices, index)
        return (self.indices[at] if at < len(self.indices) else self.count), at


class Outbox:
    """Keeps the outcomes of the last `KEPT_RUNS` runs."""

    def __init__(self, run_before: str = "") -> None:
        """Keep nothing yet.

        Args:
            run_before: The newest run of which nothing is going to be kept.
        """
        self._runs: OrderedDict[str, _Kept] = OrderedDict()
        self._before: dict[str, str] = {}
        self._ended: set[str] = set()
        self._run_before = run_before

    @property
    def run_id(self) -> str:
        """The newest run; empty before the first."""
        return next(reversed(self._runs), "")

    @property
    def count(self) -> int:
        """Outcomes of the newest run so far, with those that are lost."""
        return self._runs.get(self.run_id, _Kept()).count

    @property
    def answered(self) -> int:
        """Acquisitions of the newest run that have their outcome."""
        # They come in order of the index, with a few trials between them.
        for envelope in reversed(self._runs.get(self.run_id, _Kept()).envelopes):
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
        self._runs[run_id] = _Kept()
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
        if not self._runs[outcome.run].take(outcome.outcome_index, envelope):
            return False
        if isinstance(outcome, RunEnded):
            self._ended.add(outcome.run)
        return True

    def replay(self, request: ReplayRequest) -> list[Envelope]:
        """Answer a request: outcomes in order up to a gap, then REPLAY_DONE.

        From within a gap there are none, and `next_index` is where it ends.
        """
        run = request.run or self.run_id
        kept = self._runs.get(run, _Kept())
        batch: list[Envelope] = []
        nbytes = 0
        first, begin = kept.begin(request.from_index)
        end = begin + request.limit if first == request.from_index else begin
        for at, envelope in enumerate(kept.envelopes[begin:end], begin):
            nbytes += len(envelope.header) + len(envelope.payload)
            is_too_much = bool(batch) and nbytes > BATCH_BYTES
            if is_too_much or kept.indices[at] != first + len(batch):
                break
            batch.append(envelope)
        done = ReplayDone(
            run=run,
            stream="server",
            sequence=request.sequence,
            next_index=first + len(batch),
            outcome_count=kept.count,
            has_ended=run in self._ended,
            is_known=run in self._runs or not run,
            run_before=self._before.get(run, ""),
        )
        return [*batch, encode(done)]
