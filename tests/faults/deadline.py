"""How often a live system is late, beside how often one without work is late.

Two supervised servers stand side by side: one with the exported model, one whose
decoder takes a mean of the same volumes. Runs with a TR of 20 ms and a budget of 20 ms
are played to the one and the other in turn, so that what else the machine does meets
both. Both record to disk, and both are asked for their metrics once a second, as a
monitor does. All the while raw TCP connections of ill will are made to both.

A miss is a volume outcome whose timing is LATE or whose input is MISSING. The share of
the model's may exceed that of the empty worker by 0.1 % of the volumes at most; what
both share is the machine's. Each must be flagged: no outcome decided after its deadline
may say LIVE, none decided within it LATE. Sender, subscriber and attacker share the
processors with both servers, as they do not in a laboratory.

The servers have no keys: here it is their time that is attacked; that nobody comes in
is held by the security tests.
"""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.jsonlog import LogReader
from tests.faults.kill import judged
from tests.faults.live_system import Part, Server, part, plan_in, serving, wait_until
from tests.faults.outage import percentile
from tests.faults.result import NONE, Bound, Fault, Figure, Finding, Progress, Settings
from tests.faults.scanner import Plan
from tests.faults.scraper import Scraper
from tests.faults.workers import Served, mean_worker, real_worker

TR_S = 0.02
BUDGET_S = 0.02
RUN = 500
EXTRA = {"full": 0.001, "short": 0.25}
"""Misses of the model beyond those of the empty worker, as a share. One stall of the
machine makes a burst of misses, and a short form is too short to meet both alike: it
holds that nothing is lost and every miss is flagged, and finds a decoder that is
always late."""

SCRAPES_PER_S = {"full": 0.8, "short": 0.2}
"""Pages of metrics from each server, of which one a second is asked for."""


@dataclass
class Side:
    """One of the two servers, and what is said to it and heard of it."""

    name: str
    folder: Path
    server: Server
    shape: tuple[int, int, int]
    volumes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def said(self) -> Path:
        return self.folder / "said"

    @property
    def heard(self) -> Path:
        return self.folder / "heard"

    def play(self, number: int, volumes: int, seed: int) -> int:
        """Play one run; return the sender's exit status."""
        plan = Plan(
            address=self.server.state.address,
            spool=None,
            log=str(self.said),
            stop=str(self.folder / "stop"),
            shape=self.shape,
            seed=seed + number,
            volumes=volumes,
            runs=1,
            prefix=f"run-{number}",
            tr_s=TR_S,
            speed=1.0,
            budget_s=BUDGET_S,
            event_every=50,
        )
        file = plan_in(self.folder, plan)
        return Part("tests.faults.scanner", file).process.wait(60 + 2 * volumes * TR_S)

    def take(self) -> None:
        """Read what was heard."""
        lines = LogReader(self.heard).read()
        self.volumes = [line for line in lines if line["what"] == "volume"]

    def figures(self) -> dict[str, Figure]:
        misses = [one for one in self.volumes if is_miss(one)]
        missing = sum(one["input"] == "MISSING" for one in self.volumes)
        delays = [
            (one["decided_ns"] - one["acquired_ns"]) / 1e6
            for one in self.volumes
            if one["acquired_ns"] is not None
        ]
        return {
            f"{self.name}_volumes": len(self.volumes),
            f"{self.name}_misses": len(misses),
            f"{self.name}_missing": missing,
            f"{self.name}_unflagged": sum(map(is_unflagged, self.volumes)),
            f"{self.name}_decided_p50_ms": round(percentile(delays, 50), 2),
            f"{self.name}_decided_p99_ms": round(percentile(delays, 99), 2),
        }

    @property
    def share(self) -> float:
        return sum(map(is_miss, self.volumes)) / max(len(self.volumes), 1)


def is_miss(line: dict[str, Any]) -> bool:
    """Say whether an outcome admits that it came too late."""
    return line["timing"] == "LATE" or line["input"] == "MISSING"


def is_unflagged(line: dict[str, Any]) -> bool:
    """Say whether an outcome's timing contradicts its own instants."""
    if line["deadline_ns"] is None:
        return line["input"] != "MISSING"
    is_late = line["decided_ns"] > line["deadline_ns"]
    return is_late != (line["timing"] == "LATE")


def run(settings: Settings) -> Finding:
    """Play to both in turn, and count who was late."""
    total = settings.tries(short=500, full=30_000)
    per_run = min(RUN, max(total // 2, 50))
    with tempfile.TemporaryDirectory(prefix="neuroflow-faults-") as name:
        folder = Path(name)
        loads = folder / "loads"
        kind = "slow" if settings.sabotage else "mean"
        real = real_worker(loads)
        model = real if not (settings.tiny or settings.sabotage) else None
        shape = real.shape
        with ExitStack() as stack:
            sides = [
                _side(stack, folder, name, served)
                for name, served in (
                    ("model", model or mean_worker(loads, shape=shape, kind=kind)),
                    ("empty", mean_worker(loads, shape=shape)),
                )
            ]
            addresses = [side.server.state.address for side in sides]
            storm = stack.enter_context(
                part("tests.faults.stormer", folder / "storm", *addresses)
            )
            begin = time.monotonic()
            with Scraper([side.server.state.health for side in sides]) as scraper:
                statuses, restarts = _play(sides, total, per_run, settings.seed)
            is_stormy = storm.process.poll() is None
            seconds = time.monotonic() - begin
        storms = LogReader(folder / "storm").read()
        verdicts = [judged(side.said, side.heard) for side in sides]
        for side in sides:
            side.take()
    model_side, empty_side = sides
    figures: dict[str, Figure] = {**model_side.figures(), **empty_side.figures()}
    figures["misses_percent"] = round(100 * model_side.share, 3)
    figures["empty_misses_percent"] = round(100 * empty_side.share, 3)
    figures["beyond_empty_percent"] = round(
        100 * (model_side.share - empty_side.share), 3
    )
    figures["hostile_connections"] = sum(one["connections"] for one in storms)
    figures["hostile_per_s"] = round(figures["hostile_connections"] / seconds)
    figures["is_stormy_to_the_end"] = int(is_stormy)
    figures["scrapes_per_s"] = scraper.per_s
    figures["scrapes_failed"] = len(scraper.failures)
    figures["senders_failed"] = sum(status != 0 for status in statuses)
    figures["restarts"] = restarts
    for what in ("lost", "duplicated", "corrupt", "out_of_order", "invented"):
        figures[what] = sum(int(verdict[what]) for verdict, _ in verdicts)
    zero = (
        "scrapes_failed",
        "model_unflagged",
        "empty_unflagged",
        "senders_failed",
        "restarts",
        "lost",
        "duplicated",
        "corrupt",
        "out_of_order",
        "invented",
    )
    bounds = {
        "model_volumes": Bound(at_least=total),
        "empty_volumes": Bound(at_least=total),
        "beyond_empty_percent": Bound(at_most=100 * EXTRA[settings.form]),
        "is_stormy_to_the_end": Bound(at_least=1),
        "scrapes_per_s": Bound(at_least=SCRAPES_PER_S[settings.form]),
        **dict.fromkeys(zero, NONE),
    }
    examples = [line for _, found in verdicts for line in found]
    return Finding(figures, bounds, examples + scraper.failures)


def _side(stack: ExitStack, folder: Path, name: str, served: Served) -> Side:
    own = folder / name
    server = stack.enter_context(serving(own / "server", served, has_health=True))
    side = Side(name, own, server, served.shape)
    stack.enter_context(part("tests.faults.listener", server.state.address, side.heard))
    wait_until(side.heard.exists)
    return side


def _play(
    sides: list[Side], total: int, per_run: int, seed: int
) -> tuple[list[int], int]:
    statuses, done, number = [], 0, 0
    progress = Progress("deadline", total)
    while done < total:
        # Who comes first changes, so that neither always follows the other.
        order = sides if number % 2 == 0 else sides[::-1]
        statuses += [side.play(number, per_run, seed) for side in order]
        done, number = done + per_run, number + 1
        progress.at(done)
    time.sleep(1.0)
    seats = [seat for side in sides for seat in side.server.state.seats.values()]
    return statuses, sum(seat.restarts for seat in seats)


FAULT = Fault(
    "deadline",
    "a server is stormed, and may be late no more often than an empty one",
    run,
)
