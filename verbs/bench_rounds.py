"""Turns: stage by stage, every engine once a round, in changing order.

A virtual machine is faster or slower by a sixth for seconds or minutes. What is
compared is measured one after the other, and not with minutes between.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from statistics import median_low
from typing import final

from runtime.bench.result import (
    LimitRound,
    PacedSeries,
    Series,
    Steps,
    Who,
)
from runtime.errors import BackendError
from verbs.bench_orders import Child, Order, Reply

MOST_CALLS = 2000
"""Of one stage in one round."""
MODELS = ("encoder", "served flow", "decoder")
"""Stages that are the model's, and so are compared with others'."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how often."""

    rounds: int
    seconds: float
    """About this long for each stage of each engine, over all rounds."""
    evaluations: tuple[int, ...]
    period_s: float
    volumes: int
    """At the pace of the scanner; 0 for none."""


@final
class Taken:
    """Raw samples as they come in."""

    def __init__(self) -> None:
        self.limits: dict[int, list[LimitRound]] = {}
        self._stages: dict[tuple[str, Who], list[Reply]] = {}
        self._flows: dict[Who, list[list[int]]] = {}

    def stage(self, name: str, who: Who, reply: Reply) -> None:
        """Keep a stage's round."""
        self._stages.setdefault((name, who), []).append(reply)

    def flow(self, who: Who, times: list[int]) -> None:
        """Keep a round's T(N)."""
        self._flows.setdefault(who, []).append(times)

    def series(self) -> tuple[Series, ...]:
        """Return all stages."""
        return tuple(
            Series(
                stage=name,
                who=who,
                rounds_ns=tuple(reply.samples_ns for reply in replies),
                cpu_ns=tuple(reply.cpu_ns for reply in replies),
            )
            for (name, who), replies in self._stages.items()
        )

    def steps(self, evaluations: tuple[int, ...]) -> tuple[Steps, ...]:
        """Return all flows."""
        return tuple(
            Steps(who=who, evaluations=evaluations, rounds_ns=tuple(map(tuple, rounds)))
            for who, rounds in self._flows.items()
        )


Turn = Callable[[Taken], None]


@final
@dataclass(slots=True)
class Turns:
    """The processes that take turns."""

    plan: Plan
    say: Callable[[str], None]
    engines: dict[Who, Child] = field(default_factory=dict)
    limits: dict[int, Child] = field(default_factory=dict)
    _counts: dict[tuple[str, Who], int] = field(default_factory=dict)

    def take(self, *, first: Collection[Who]) -> Taken:
        """Measure every round.

        Args:
            first: Whose stages besides the model's are measured, too.
        """
        taken = Taken()
        whos = list(self.engines)
        for who in whos:
            for stage in self._stages(who, first):
                self._calibrate(stage, who)
        groups = [*self._by_stage(whos, first), self._flows_and_limits(whos)]
        for i in range(self.plan.rounds):
            self.say(f"round {i + 1} of {self.plan.rounds}")
            for turns in groups:
                # Whoever comes first finds another cache and clock than who comes last.
                for one in turns[i % len(turns) :] + turns[: i % len(turns)]:
                    one(taken)
        return taken

    def _by_stage(
        self, whos: list[Who], first: Collection[Who]
    ) -> Iterator[list[Turn]]:
        of = {who: self._stages(who, first) for who in whos}
        for stage in dict.fromkeys(one for stages in of.values() for one in stages):
            yield [
                functools.partial(self._stage, stage, who)
                for who in whos
                if stage in of[who]
            ]

    def _flows_and_limits(self, whos: list[Who]) -> list[Turn]:
        return [
            *(functools.partial(self._limit, threads) for threads in self.limits),
            *(functools.partial(self._flow, who) for who in whos),
        ]

    def _limit(self, threads: int, taken: Taken) -> None:
        rounds = taken.limits.setdefault(threads, [])
        rounds.append(_limit(self.limits[threads]))

    def _stage(self, stage: str, who: Who, taken: Taken) -> None:
        order = Order(stage=stage, count=self._counts[stage, who])
        taken.stage(stage, who, self.engines[who].ask(order))

    def pace(self, whos: list[Who]) -> list[PacedSeries]:
        """Measure whole decodes at the scanner's pace, one engine at a time."""
        found = []
        period_ns = round(self.plan.period_s * 1e9)
        for who in whos if self.plan.volumes else ():
            self.say(f"{who}: {self.plan.volumes} volumes at the scanner's pace")
            order = Order(stage="decode", count=self.plan.volumes, period_ns=period_ns)
            paced = self.engines[who].ask(order).paced
            if paced is None:
                raise BackendError(f"{who}: expected paced latencies, found none")
            found.append(
                PacedSeries(
                    stage="decode",
                    who=who,
                    period_ns=period_ns,
                    deadline_ns=period_ns,
                    paced=paced,
                )
            )
        return found

    def _stages(self, who: Who, first: Collection[Who]) -> tuple[str, ...]:
        own = self.engines[who].ready.stages
        if who in first:
            return own
        return tuple(name for name in own if name in MODELS)

    def _calibrate(self, stage: str, who: Who) -> None:
        """Find out how many calls fill a stage's share of a round; warms up as well."""
        samples = self.engines[who].ask(Order(stage=stage, count=3)).samples_ns
        share_ns = self.plan.seconds * 1e9 / self.plan.rounds
        count = round(share_ns / max(min(samples), 1))
        self._counts[stage, who] = max(1, min(count, MOST_CALLS))

    def _flow(self, who: Who, taken: Taken) -> None:
        times = []
        for n in self.plan.evaluations:
            order = Order(stage="flow", evaluations=n, count=self._repeats(n, who))
            times.append(median_low(self.engines[who].ask(order).samples_ns))
        taken.flow(who, times)

    def _repeats(self, n: int, who: Who) -> int:
        key = (f"flow {n}", who)
        if key not in self._counts:
            order = Order(stage="flow", evaluations=n)
            taken_ns = self.engines[who].ask(order).samples_ns[0]
            share_ns = self.plan.seconds * 1e9 / self.plan.rounds
            count = round(share_ns / len(self.plan.evaluations) / max(taken_ns, 1))
            self._counts[key] = max(1, min(count, MOST_CALLS))
        return self._counts[key]


def _limit(child: Child) -> LimitRound:
    reply = child.ask(Order())
    if reply.flop is None or reply.memory is None:
        raise BackendError("limits: expected two rates, found none")
    return LimitRound(flop=reply.flop, memory=reply.memory)
