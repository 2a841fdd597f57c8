"""What becomes of answers that came too late, as their run asked. Pure.

`flag` says LATE and leaves them as they are. `hold-last` answers a volume with what the
volume before it got, `drop` with ABSTAIN. A trial has no answer before its own that
could be held: that would be another trial's. So both withhold what was decoded of it.
"""

from dataclasses import replace
from typing import Final

from bci_bridge.header import LatePolicy
from bci_bridge.outcomes import Timing, VolumeOutcome
from bci_bridge.record import answer_from
from runtime.answers import Answer, TrialReport

DROPPED: Final = "LATE_DROPPED"
HELD: Final = "LATE_HELD_LAST"
TOO_LATE: Final = Answer("ABSTAIN", reason="too late")


class Lateness:
    """The policy of one run, and the answer that it may have to hold."""

    def __init__(self, policy: LatePolicy = "flag") -> None:
        self._policy = policy
        self._last: Answer | None = None

    def know(self, answered: VolumeOutcome) -> None:
        """Take a volume's answer that is on record already."""
        if self._policy == "hold-last" and answered.decision is not None:
            self._last = answer_from(answered)

    def of_volume(
        self, answer: Answer | None, timing: Timing
    ) -> tuple[Answer | None, tuple[str, ...]]:
        """Give what a volume is answered with, and what that is degraded by."""
        if answer is None or timing != "LATE" or self._policy == "flag":
            self._last = answer
            return answer, ()
        if self._policy == "drop":
            return TOO_LATE, (DROPPED,)
        return self._last or TOO_LATE, (HELD,)

    def of_trial(self, report: TrialReport, timing: Timing) -> TrialReport:
        """Give what is said of a trial; what was measured of it stays."""
        if timing != "LATE" or self._policy == "flag":
            return report
        degraded = (*report.degraded, DROPPED)
        return replace(report, answer=TOO_LATE, z_v=None, image=None, degraded=degraded)
