"""What a fault is told, what it measures, and what both are printed as."""

import datetime
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Form = Literal["short", "full"]
Figure = int | float | str
MAX_EXAMPLES = 10
"""Violations that are written out; all are counted."""


@dataclass(frozen=True)
class Settings:
    """What a fault is told."""

    form: Form = "short"
    seed: int = 0
    sabotage: bool = False
    """Break the thing under test, in this process only: the check must then fail."""
    count: int | None = None
    """How often to try; the form's own number by default."""
    first: int | None = None
    """Of numbered tries, the one to begin with, by the number that a trouble names."""
    tiny: bool = False
    """Serve with the mean of a volume where the fault has a model by default."""

    def tries(self, *, short: int, full: int) -> int:
        if self.count is not None:
            return self.count
        return short if self.form == "short" else full


@dataclass(frozen=True)
class Bound:
    """What a figure must be: within both limits that are given."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, figure: Figure | None) -> bool:
        if not isinstance(figure, int | float):
            return False
        above = self.at_least is None or figure >= self.at_least
        return above and (self.at_most is None or figure <= self.at_most)

    def __str__(self) -> str:
        if self.at_least == self.at_most:
            return f"{self.at_least:,}"
        limits = ((">=", self.at_least), ("<=", self.at_most))
        return " and ".join(f"{sign} {x:,}" for sign, x in limits if x is not None)


NONE = Bound(at_least=0, at_most=0)


@dataclass(frozen=True)
class Finding:
    """What a fault measured, and what that had to be."""

    figures: dict[str, Figure]
    bounds: dict[str, Bound]
    """By figure; a bound whose figure is absent does not hold."""
    examples: list[str] = field(default_factory=list)
    """The first violations, in words."""

    @property
    def passed(self) -> bool:
        return bool(self.bounds) and all(
            bound.holds(self.figures.get(name)) for name, bound in self.bounds.items()
        )


@dataclass(frozen=True)
class Fault:
    """One family of faults."""

    name: str
    what: str
    """One line: what is done to whom."""
    run: Callable[[Settings], Finding]


def carry_out(fault: Fault, settings: Settings) -> dict[str, Any]:
    """Run a fault and return its record, which JSON can hold."""
    begin = time.monotonic()
    finding = fault.run(settings)
    return {
        "name": fault.name,
        "what": fault.what,
        "form": settings.form,
        "seed": settings.seed,
        "sabotage": settings.sabotage,
        "passed": finding.passed,
        "figures": finding.figures,
        "bounds": {name: str(bound) for name, bound in finding.bounds.items()},
        "failed": [
            name
            for name, bound in finding.bounds.items()
            if not bound.holds(finding.figures.get(name))
        ],
        "examples": finding.examples[:MAX_EXAMPLES],
        "seconds": round(time.monotonic() - begin, 2),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def machine() -> str:
    """Name the processor and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    cores = len(os.sched_getaffinity(0))
    return f"{models[0] if models else 'unknown processor'}, {cores} cores"


def resident_mib() -> float:
    """Memory of this process that is really there."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Progress:
    """Says on standard error how far a long form is, at most every ten seconds."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._begin = self._told = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told >= 10:
            self._told = now
            rate = done / (now - self._begin)
            sys.stderr.write(
                f"{self._name}: {done:,} of {self._total:,}, {rate:,.0f}/s\n"
            )
