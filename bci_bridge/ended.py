"""A decoder that is not asked again in its run, and how outcomes say so. Pure.

What it failed by, a defect or want of memory, is no consequence of its inputs. So the
record alone can say that it happened: whoever goes on with the run, or replays it,
reads it there.
"""

from typing import Final

from bci_bridge.header import MAX_TEXT
from bci_bridge.outcomes import Outcome, TrialOutcome
from runtime.answers import TrialReport

ENDED: Final = "DECODER_ENDED: "
"""Before the reason, wherever an outcome gives it."""


class RecordedEndError(Exception):
    """What a recording says that a decoder ended by, whole; raised in its place.

    Attributes:
        answered: Trials that another one had answered at the same place by then.
    """

    def __init__(self, said: str, answered: tuple[TrialReport, ...] = ()) -> None:
        super().__init__(said)
        self.answered = answered


def end_by(error: Exception) -> str:
    """Spell in one line what ends a run's decoding."""
    if isinstance(error, RecordedEndError):
        return str(error)
    text = f"{ENDED}{type(error).__name__}: {error}"
    return " ".join(text.split())[:MAX_TEXT]


def ended_in(outcome: Outcome) -> str:
    """Give what an outcome says that its decoder ended by; empty for nothing."""
    said = list(outcome.degraded)
    if isinstance(outcome, TrialOutcome):
        said.append(outcome.abstention or "")
    return next((reason for reason in said if reason.startswith(ENDED)), "")
