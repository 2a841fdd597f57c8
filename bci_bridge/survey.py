"""What to know of a log before it is replayed: its losses, and what computed it.

Pure: no file, no clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bci_bridge.messages import RigNote
from bci_bridge.recording_reader import Break
from bci_bridge.segment import Logged

INFORMATIVE: Final = frozenset({"python", "neuroflow-rt"})
"""Versions that are on record but change no arithmetic by themselves: whether they
changed an answer is what a replay finds out."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a log holds besides messages that decode."""

    rigs: tuple[RigNote, ...]
    """What each worker that answered computed with."""
    losses: tuple[str, ...]
    """What cannot be read."""


def survey(log: Iterable[Logged | Break]) -> Survey:
    """Look through a whole log."""
    rigs: list[RigNote] = []
    losses: list[str] = []
    for item in log:
        if isinstance(item, Break):
            if item.kind == "LOST":
                losses.append(item.what)
        elif isinstance(item.envelope.record, RigNote):
            rigs.append(item.envelope.record)
    return Survey(tuple(rigs), tuple(losses))


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
