"""What is answered of a run, and how an answer is spelled in an outcome.

Pure. A worker that takes over from one that died reads here what it need not, and must
not, answer again.
"""

from collections import Counter
from typing import Any

from bci_bridge.outcomes import (
    Outcome,
    RunEnded,
    ScoredStimulus,
    TrialOutcome,
    VolumeOutcome,
)
from runtime.answers import Answer, Candidate


def said_in(answer: Answer | None) -> dict[str, Any]:
    """Give the fields of an outcome that say what an answer says."""
    if answer is None:
        return {}
    return {
        "decision": answer.decision,
        "label": answer.label,
        "confidence": answer.confidence,
        "candidates": tuple(
            ScoredStimulus(
                stimulus_id=candidate.stimulus_id,
                label=candidate.label,
                cosine=candidate.cosine,
            )
            for candidate in answer.candidates
        ),
        "abstention": answer.reason,
    }


def answer_from(outcome: VolumeOutcome) -> Answer:
    """Read the answer back from an outcome on record."""
    return Answer(
        outcome.decision or "ABSTAIN",
        label=outcome.label,
        confidence=outcome.confidence,
        candidates=tuple(
            Candidate(one.stimulus_id, one.label, one.cosine)
            for one in outcome.candidates
        ),
        reason=outcome.abstention,
    )


class Record:
    """What is answered already of one run.

    Attributes:
        volumes: Outcomes by acquisition.
        trials: Outcomes by trial.
        count: Outcomes of all kinds.
        cited_sha256: The configuration that they cite; empty while there are none.
        frozen: That configuration as JSON, where the log has it.
        has_ended: The run's last outcome is among them.
    """

    def __init__(self) -> None:
        self.volumes: dict[int, VolumeOutcome] = {}
        self.trials: dict[str, TrialOutcome] = {}
        self.count, self.has_ended = 0, False
        self.cited_sha256, self.frozen = "", b""
        self._newest = -1

    def add(self, outcome: Outcome) -> None:
        """Take an outcome that is in the log."""
        if outcome.outcome_index >= self.count:
            self.count = outcome.outcome_index + 1
        self.cited_sha256 = self.cited_sha256 or outcome.configuration_sha256
        match outcome:
            case VolumeOutcome(volume_index=index):
                self.volumes[index] = outcome
                if index > self._newest:
                    self._newest = index
            case TrialOutcome(trial_id=trial_id):
                self.trials[trial_id] = outcome
            case RunEnded():
                self.has_ended = True

    def is_settled(self, index: int) -> bool:
        """Say whether all that this acquisition led to must be on record."""
        return index < self._newest or self.has_ended

    def inputs(self) -> dict[str, int]:
        """Count volume outcomes by input."""
        return dict(Counter(one.input for one in self.volumes.values()))

    def decisions(self) -> dict[str, int]:
        """Count trial outcomes by decision."""
        return dict(Counter(one.decision for one in self.trials.values()))
