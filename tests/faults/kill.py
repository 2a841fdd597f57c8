"""Processes of a live system are killed, one after another, while runs are played.

Victims are drawn among the ingress, the active worker, the standby, the publisher and
the sender, which plays runs of 500 volumes, one every 20 ms, and is started again as
whoever runs an experiment would. Pauses between kills are drawn from 50 to 300 ms.

A worker is killed only while the other one is ready: a spare that still loads is no
spare, and two deaths within one load are an outage as long as a load. How often and how
long the kills waited for that is among the figures. A supervisor gives a place up after
20 deaths in a row within a second of their start, which it must take for a fault that
no restart mends; the kills stop short of that.

Every fourth kill (of the short form: every second) is measured, as
`tests.faults.outage` says: of the active worker and of the others in turn, so that a
full form measures more than a hundred of either, while the other kills are drawn. Of
fewer than a hundred nothing is called a 99th percentile; the longest is given instead.

Beside the subscriber that others install, a bare socket writes down every frame that is
announced: that package leaves out what it has had, so that only there can be seen
whether an outcome was announced twice.

A budget of a minute makes a MISSING a loss: nothing here lasts that long. Deadlines are
another fault's.
"""

import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.faults.checker import FIGURES
from tests.faults.jsonlog import LogReader
from tests.faults.live_system import Part, Server, part, plan_in, serving, wait_until
from tests.faults.outage import WINDOW_NS, Heard, Kill, outages_ms, percentile
from tests.faults.result import NONE, Bound, Fault, Figure, Finding, Progress, Settings
from tests.faults.scanner import Plan
from tests.faults.workers import mean_worker, real_worker

ROLES = ("ingress", "active worker", "standby", "publisher", "sender")
OTHERS = ("ingress", "standby", "publisher")
"""Whose deaths are measured beside the active worker's; a dead sender sends nothing
that could be late."""
EVERY = {"full": 4, "short": 2}
"""One in so many kills is measured."""
ENOUGH = 100
"""Deaths of which one in a hundred may be told apart from the others."""
PAUSE_S = (0.05, 0.3)
CALM_NS = 25_000_000
"""A volume is heard within this when nothing ails."""

LIMITS_MS = {"full": (50, 400, 500), "short": (500, 2000, 5000)}
"""Of an outage, of the active worker and of the others, and of the median start of a
worker without its engine's load. A short form measures a handful of kills, beside
whatever else tests do: it holds the order of magnitude."""

TOO_QUICK = 15
"""Quick deaths in a row after which a place is left alone for a moment."""


class Killer:
    """Draws victims, and writes down what it did."""

    def __init__(
        self, server: Server, sender: Part, heard: LogReader, dice: random.Random
    ) -> None:
        self.kills: list[Kill] = []
        self.waits, self.waited_s, self.restless = 0, 0.0, 0
        self._server, self._sender = server, sender
        self._heard, self._dice = heard, dice
        self._newest: dict[str, Any] | None = None
        self._replaced: dict[str, tuple[float, int]] = {}

    def kill(self, role: str | None = None) -> None:
        """Kill one.

        Args:
            role: Whose death is measured; None lets the dice choose whom to kill, and
                measures nothing.
        """
        time.sleep(self._dice.uniform(*PAUSE_S))
        is_measured = role is not None
        role = self._dice.choice(ROLES) if role is None else role
        if is_measured:
            self._await_spare()
            # A busy machine may give no calm: nothing is measured then.
            is_measured = wait_until(self._is_calm, timeout_s=10)
            self.restless += not is_measured
        if role == "sender":
            at_ns = time.monotonic_ns()
            self._sender.kill()
            self._sender.start()
        else:
            at_ns = self._kill(role)
        self.kills.append(Kill(at_ns, role, is_measured))
        if is_measured:
            time.sleep(WINDOW_NS / 1e9)

    def _kill(self, role: str) -> int:
        name = role
        if role in ("active worker", "standby"):
            self._await_spare()
            name = self._worker(role)
        born, quick = self._replaced.get(name, (0.0, 0))
        quick = quick + 1 if time.monotonic() - born < 1.0 else 0
        if quick == TOO_QUICK:
            time.sleep(1.0)
            quick = 0
        at_ns, _ = self._server.kill(name)
        self._replaced[name] = time.monotonic(), quick
        return at_ns

    def _worker(self, role: str) -> str:
        seats = self._server.state.seats
        return next(
            name
            for name, seat in seats.items()
            if name.startswith("worker") and seat.is_active == (role == "active worker")
        )

    def _await_spare(self) -> None:
        if self._has_spare():
            return
        begin = time.monotonic()
        if not wait_until(self._has_spare, timeout_s=60):
            raise RuntimeError(f"workers: expected a spare, found {self._server.state}")
        self.waits += 1
        self.waited_s += time.monotonic() - begin

    def _has_spare(self) -> bool:
        seats = self._server.state.seats
        workers = [seat for name, seat in seats.items() if name.startswith("worker")]
        is_ready = len(workers) == 2 and all(seat.is_ready for seat in workers)
        return is_ready and sum(seat.is_active for seat in workers) == 1

    def _is_calm(self) -> bool:
        for line in self._heard.read():
            if line["what"] == "volume":
                self._newest = line
        last_ns = self.kills[-1].at_ns if self.kills else 0
        newest = self._newest
        if newest is None or newest["acquired_ns"] is None:
            return False
        is_new = time.monotonic_ns() - newest["heard_ns"] < 2 * CALM_NS
        latency_ns = newest["heard_ns"] - newest["acquired_ns"]
        return is_new and newest["acquired_ns"] > last_ns and latency_ns < CALM_NS


def run(settings: Settings) -> Finding:
    """Kill while runs are played, let the last run end, then compare the logs."""
    tries = settings.tries(short=20, full=1000)
    measured = itertools.cycle(
        role for other in OTHERS for role in ("active worker", other)
    )
    with tempfile.TemporaryDirectory(prefix="neuroflow-faults-") as name:
        folder = Path(name)
        loads, said, heard, announced = (
            folder / n for n in ("loads", "said", "heard", "announced")
        )
        is_broken = settings.sabotage
        served = (
            mean_worker(loads, kind="forgetful" if is_broken else "mean")
            if settings.tiny
            else real_worker(loads, kind="forgetful-real" if is_broken else "real")
        )
        with ExitStack() as stack:
            server = stack.enter_context(serving(folder / "server", served))
            address, publish = server.state.address, server.state.publish
            stack.enter_context(part("tests.faults.listener", address, heard))
            stack.enter_context(part("tests.faults.tap", publish, announced))
            plan = Plan(
                address=address,
                spool=str(folder / "spool"),
                log=str(said),
                stop=str(folder / "stop"),
                shape=served.shape,
                seed=settings.seed,
            )
            file = plan_in(folder, plan)
            sender = stack.enter_context(part("tests.faults.scanner", file))
            wait_until(lambda: heard.exists() and announced.exists())
            killer = Killer(
                server, sender, LogReader(heard), random.Random(settings.seed)
            )
            progress = Progress("kill", tries)
            for number in range(tries):
                is_measured = number % EVERY[settings.form] == 0
                killer.kill(next(measured) if is_measured else None)
                progress.at(number)
            (folder / "stop").touch()
            status = sender.process.wait(120)
            _await_silence(heard)
        figures, examples = judged(said, heard, announced)
        figures["sender_status"] = status
        figures |= _account(killer, server.folder, loads, said, heard)
    worker_ms, other_ms, start_ms = LIMITS_MS[settings.form]
    is_full = settings.form == "full"
    enough = Bound(at_least=ENOUGH if is_full else 1)
    worst = "p99" if is_full else "max"
    bounds: dict[str, Bound] = {
        "kills": Bound(at_least=tries),
        "measured_worker": enough,
        "measured_other": enough,
        "volumes": Bound(at_least=1),
        "trials": Bound(at_least=1),
        "announced": Bound(at_least=1),
        "sender_status": NONE,
        f"outage_worker_{worst}_ms": Bound(at_most=worker_ms),
        f"outage_other_{worst}_ms": Bound(at_most=other_ms),
        "cold_start_worker_ms": Bound(at_most=start_ms),
    }
    zero = (*FIGURES, "announced_twice")
    return Finding(figures, bounds | dict.fromkeys(zero, NONE), examples)


def _await_silence(heard: Path) -> None:
    """Wait until nothing more is heard: what has not come by then is lost."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 5.0:
        if heard.stat().st_size != size:
            size, since = heard.stat().st_size, time.monotonic()
        time.sleep(0.1)


def judged(*logs: Path) -> tuple[dict[str, Figure], list[str]]:
    """Let an interpreter that knows nothing of this project compare the logs.

    Args:
        logs: What was said, what was heard, and the frames announced where they are on
            record.
    """
    checker = Path(__file__).with_name("checker.py")
    done = subprocess.run(
        [sys.executable, "-I", str(checker), *map(str, logs)],
        check=True,
        capture_output=True,
    )
    verdict = json.loads(done.stdout)
    return verdict["figures"], verdict["examples"]


def _account(
    killer: Killer, server: Path, loads: Path, said: Path, heard: Path
) -> dict[str, Figure]:
    lines = LogReader(heard).read()
    volumes = [
        Heard(line["acquired_ns"], line["heard_ns"])
        for line in lines
        if line["what"] == "volume" and line["acquired_ns"] is not None
    ]
    outages = outages_ms(killer.kills, volumes)
    worker = outages.pop("active worker", [])
    other = [ms for each in outages.values() for ms in each]
    figures: dict[str, Figure] = {
        "kills": len(killer.kills),
        **{f"kills_{n}".replace(" ", "_"): c for n, c in _by_role(killer).items()},
        "measured_worker": len(worker),
        "measured_other": len(other),
        "kills_not_measured_for_lack_of_calm": killer.restless,
        "waits_for_a_spare": killer.waits,
        "waited_for_a_spare_s": round(killer.waited_s, 1),
        "subscriber_restarts": sum(line["what"] == "restart" for line in lines),
        "latency_p50_ms": _median_ms([one.latency_ns for one in volumes]),
        "outage_worker_p50_ms": percentile(worker, 50),
        **worst_of("outage_worker", worker),
        **worst_of("outage_other", other),
    }
    for victim, each in sorted(outages.items()):
        figures[f"outage_{victim}_max_ms"] = max(each)
    return figures | _cold_starts(server, loads) | _sender_away(killer, said)


def worst_of(name: str, outages: Sequence[float]) -> dict[str, Figure]:
    """Give the longest outage, and the 99th percentile of those that have one."""
    found: dict[str, Figure] = {f"{name}_max_ms": max(outages, default=math.nan)}
    if len(outages) >= ENOUGH:
        found[f"{name}_p99_ms"] = percentile(outages, 99)
    return found


def _by_role(killer: Killer) -> Counter[str]:
    return Counter(kill.victim for kill in killer.kills)


def _median_ms(values_ns: list[int]) -> float:
    return round(percentile(values_ns, 50) / 1e6, 2)


def _cold_starts(server: Path, loads: Path) -> dict[str, Figure]:
    """Split the start of a worker: the engine's load, the rest, and catching up."""
    load_ms = {line["pid"]: line["load_ms"] for line in LogReader(loads).read()}
    noted = LogReader(server / "starts.jsonl").read()
    up_ms = {one["pid"]: one["total_ms"] for one in noted if one["what"] == "start"}
    behind = [
        one["total_ms"] - up_ms[one["pid"]]
        for one in noted
        if one["what"] == "caught up"
    ]
    starts = [
        (ms - load_ms[pid], load_ms[pid]) for pid, ms in up_ms.items() if pid in load_ms
    ]
    rest, load = ([one[at] for one in starts] for at in (0, 1))
    return {
        "cold_start_worker_ms": round(percentile(rest, 50)),
        "cold_start_worker_max_ms": round(max(rest, default=0)),
        "engine_load_ms": round(percentile(load, 50)),
        "catch_up_worker_ms": round(percentile(behind, 50)),
        "catch_up_worker_max_ms": round(max(behind, default=0)),
    }


def _sender_away(killer: Killer, said: Path) -> dict[str, Figure]:
    at_ns = [line["at_ns"] for line in LogReader(said).read() if "at_ns" in line]
    away = [
        next((at for at in at_ns if at > kill.at_ns), kill.at_ns) - kill.at_ns
        for kill in killer.kills
        if kill.victim == "sender"
    ]
    return {"sender_away_p50_ms": round(_median_ms(away)) if away else 0}


FAULT = Fault(
    "kill", "processes of a live system are killed while runs are played", run
)
