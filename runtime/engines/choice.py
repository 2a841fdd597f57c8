"""Which engine a rig takes, from what was measured on it. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from runtime.errors import BackendError

MARGIN: Final = 0.05
"""What is slower by less than this is as fast: two runs differ by as much."""


class Candidate(msgspec.Struct, frozen=True):
    """A way to compute."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate on this rig."""

    candidate: Candidate
    median_s: float = 0.0
    """Of one decoded sample: encoder and flow."""
    trouble: str = ""
    """Why it cannot be taken; empty where it gives the golden vectors."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The order in which engines are to be used."""

    order: tuple[Candidate, ...]
    """First the one to take, then those that take over where it fails."""
    reasons: tuple[str, ...]
    """A line for each candidate, as they were given."""


def choose(measured: Sequence[Measured]) -> Choice:
    """Order the candidates that can be taken by what they need.

    Among those as fast as the fastest, the one listed first is taken: whoever lists
    them puts the more exact or the simpler one first.

    Raises:
        BackendError: None can be taken.
    """
    sound = [one for one in measured if not one.trouble]
    if not sound:
        said = "; ".join(f"{one.candidate}: {one.trouble}" for one in measured)
        raise BackendError(
            "auto: expected an engine that gives the golden vectors, found "
            f"{said or 'no candidate'}"
        )
    fastest_s = min(one.median_s for one in sound)
    as_fast = [one for one in sound if one.median_s <= fastest_s * (1 + MARGIN)]
    taken = as_fast[0]
    rest = sorted((o for o in sound if o is not taken), key=lambda one: one.median_s)
    return Choice(
        order=tuple(one.candidate for one in (taken, *rest)),
        reasons=tuple(_reason(one, taken, fastest_s) for one in measured),
    )


def _reason(one: Measured, taken: Measured, fastest_s: float) -> str:
    if one.trouble:
        return f"{one.candidate}: not taken: {one.trouble}"
    figure = f"{one.candidate}: {1e3 * one.median_s:.3g} ms a sample"
    if one is not taken:
        return f"{figure}, not taken"
    if one.median_s > fastest_s:
        return f"{figure}, taken: within {MARGIN:.0%} of the fastest, and listed first"
    return f"{figure}, taken: the fastest that gives the golden vectors"
