"""What to know of a log before it is replayed: its losses, and what computed it.

Pure: no file, no clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bci_bridge.difference import DISK
from bci_bridge.messages import RigNote, RunStart
from bci_bridge.outcomes import Outcome, RunEnded
from bci_bridge.recording_reader import Break
from bci_bridge.segment import Logged

INFORMATIVE: Final = frozenset({"python", "neuroflow-rt"})
"""Versions that are on record but change no arithmetic by themselves: whether they
changed an answer is what a replay finds out."""


@dataclass(slots=True)
class Answered:
    """What the answers of a run say of how far they are on record."""

    has_end: bool = False
    degraded: int = 0
    """Answers that say RECORDING_DEGRADED."""

    def add(self, outcome: Outcome) -> None:
        """Take one that can be read."""
        self.has_end = self.has_end or isinstance(outcome, RunEnded)
        self.degraded += DISK in outcome.degraded


@dataclass(frozen=True, slots=True)
class Survey:
    """What a log holds besides messages that decode."""

    rigs: tuple[RigNote, ...]
    """What each worker that answered computed with."""
    losses: tuple[str, ...]
    """What cannot be read."""
    runs: dict[str, Answered] = field(default_factory=dict)
    """Those that the log knows of, in the order in which they began."""


def survey(log: Iterable[Logged | Break]) -> Survey:
    """Look through a whole log."""
    rigs: list[RigNote] = []
    losses: list[str] = []
    runs: dict[str, Answered] = {}
    for item in log:
        if isinstance(item, Break):
            if item.kind == "LOST":
                losses.append(item.what)
            continue
        record = item.envelope.record
        if isinstance(record, RigNote):
            rigs.append(record)
        elif isinstance(record, RunStart):
            runs.setdefault(record.run, Answered())
        elif isinstance(record, Outcome):
            runs.setdefault(record.run, Answered()).add(record)
    return Survey(tuple(rigs), tuple(losses), runs)


def doubts(
    runs: dict[str, Answered], *, is_written: bool, is_all_here: bool
) -> dict[str, str]:
    """Say of each run that may lack something what shows it; nothing of the others.

    Args:
        runs: In the order in which they began.
        is_written: A server records there now.
        is_all_here: What is in memory alone was found, and is read.
    """
    newest = next(reversed(runs), None)
    found = {
        name: _doubt(
            run, is_written=is_written and name == newest, is_all_here=is_all_here
        )
        for name, run in runs.items()
    }
    return {name: text for name, text in found.items() if text}


def _doubt(run: Answered, *, is_written: bool, is_all_here: bool) -> str:
    flagged = f"{DISK} in {run.degraded} of them"
    gone = "what followed was in memory alone and is not here"
    if run.has_end and run.degraded and not is_all_here:
        return (
            f"expected its answers on a disk that took all, found {flagged}: what was "
            "in memory alone, if anything, is not here"
        )
    if run.has_end:
        return ""
    if is_written:
        found = "that it is being written"
    elif is_all_here:
        found = "none: its server was killed"
    elif run.degraded:
        found = f"{flagged}: {gone}"
    else:
        found = f"none: its server was killed, or {gone}"
    return f"expected its answers to their end, found {found}"


def rig_differences(recorded: RigNote, here: RigNote) -> list[str]:
    """List in what two rigs may compute differently, one line each.

    The confidence to abstain below is no difference: a replay takes the recorded one.
    """
    pairs = [
        ("backend", recorded.backend, here.backend),
        ("precision", recorded.precision, here.precision),
        # numpy's library shares the products of whitening and gallery out by them,
        # whatever threads the engine is given.
        ("processors", str(recorded.processors), str(here.processors)),
        *(
            (name, version, here.versions.get(name, "none"))
            for name, version in sorted(recorded.versions.items())
            if name not in INFORMATIVE
        ),
    ]
    listed = [
        f"{name}: expected {wanted}, found {found}"
        for name, wanted, found in pairs
        if wanted != found
    ]
    cpu = set(recorded.cpu) ^ set(here.cpu)
    if cpu:
        lacking = ", ".join(sorted(set(recorded.cpu) - set(here.cpu))) or "nothing"
        added = ", ".join(sorted(set(here.cpu) - set(recorded.cpu))) or "nothing"
        listed.append(f"cpu: expected {lacking}, found {added} instead")
    return listed
