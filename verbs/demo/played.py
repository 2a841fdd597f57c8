"""Runs played into a server, and what came back, as any client sees it."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroflow_client import Client, ClientError, TrialOutcome, VolumeOutcome

from runtime.errors import BackendError, PeerError
from runtime.recording import RecordedEvent, RecordedRun
from verbs.demo.processes import child, require_success

OnOutcome = Callable[[VolumeOutcome | TrialOutcome], None]


@dataclass(frozen=True, eq=False)
class PlayedRun:
    """One run: what was sent and every outcome."""

    run: RecordedRun
    is_live: bool
    sent: int
    """Volumes that the player says it sent, in its RUN_END."""
    volumes: tuple[VolumeOutcome, ...]
    trials: tuple[TrialOutcome, ...]

    def latency_ms(self, outcome: VolumeOutcome) -> float | None:
        """Return compute latency: the volume is there, the answer is out.

        Live, from the end of acquisition. When catching up volumes wait in the log on
        purpose: from receipt, or from when the outcome before was out, whichever is
        later. None where no volume came.
        """
        start = outcome.acquired_ns
        if not self.is_live and outcome.received_ns is not None:
            free_ns = self._published_ns.get(outcome.outcome_index - 1, 0)
            start = max(outcome.received_ns, free_ns)
        return None if start is None else (outcome.published_ns - start) / 1e6

    @functools.cached_property
    def _published_ns(self) -> dict[int, int]:
        outcomes = (*self.volumes, *self.trials)
        return {one.outcome_index: one.published_ns for one in outcomes}

    def event(self, trial_id: str) -> RecordedEvent:
        """Return what was shown in a trial."""
        return next(e for e in self.run.events if e.trial_id == trial_id)


def play_run(
    run: RecordedRun,
    folder: Path,
    address: str,
    *,
    label: str,
    speed: float | None,
    log: Path,
    on_outcome: OnOutcome = lambda _outcome: None,
) -> PlayedRun:
    """Play a run from a process of its own and listen to the server until it ends.

    Args:
        run: Which run of the recording.
        folder: The recording.
        address: The server.
        label: Added to the run's name, so that one run can be played twice.
        speed: 1 is real time; None is as fast as the server acknowledges.
        log: File for the player's own words.
        on_outcome: Told of each outcome as it comes.

    Raises:
        BackendError: The server is gone, outcomes are lost, or the player failed.
    """
    pace = ["--fast"] if speed is None else ["--speed", str(speed)]
    arguments = ["play", str(folder), "--to", address, "--runs", run.run_id]
    volumes: list[VolumeOutcome] = []
    trials: list[TrialOutcome] = []
    with child(log, *arguments, "--label", label, *pace) as player:
        try:
            client = Client(address, run=f"{run.run_id}_{label}", timeout_s=30)
            for outcome in client:
                if isinstance(outcome, VolumeOutcome):
                    volumes.append(outcome)
                    on_outcome(outcome)
                elif isinstance(outcome, TrialOutcome):
                    trials.append(outcome)
                    on_outcome(outcome)
        except ClientError as error:
            raise BackendError(str(error)) from error
        require_success(player, log, f"player of {run.run_id}")
    sent = 0 if client.ended is None else client.ended.count
    return PlayedRun(run, speed is not None, sent, tuple(volumes), tuple(trials))


def require_same_answers(live: PlayedRun, fast: PlayedRun) -> int:
    """Compare the answers that one run got live and faster than real time.

    Returns:
        How many answers were compared.

    Raises:
        PeerError: One of them differs.
    """
    pairs = [
        *zip(_answers(live.trials), _answers(fast.trials), strict=True),
        *zip(_answers(live.volumes), _answers(fast.volumes), strict=True),
    ]
    for one, other in pairs:
        if one != other:
            raise PeerError(
                "ANSWERS",
                f"expected live and fast to be equal, found {one} and {other}",
            )
    return len(pairs)


def _answers(outcomes: Sequence[VolumeOutcome | TrialOutcome]) -> list[object]:
    found: list[object] = []
    for outcome in outcomes:
        name = (
            outcome.trial_id
            if isinstance(outcome, TrialOutcome)
            else outcome.volume_index
        )
        arrays = {k: v.tobytes() for k, v in dict(outcome.arrays).items()}
        answer = (outcome.decision, outcome.label, outcome.confidence)
        found.append((name, answer, outcome.candidates, arrays))
    return found


def counts(runs: Sequence[PlayedRun], field: str) -> dict[str, int]:
    """Count the volume outcomes of runs by the value of a field."""
    values = (getattr(o, field) for run in runs for o in run.volumes)
    return dict(sorted(Counter(values).items()))
