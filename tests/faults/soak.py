"""Runs of 500 volumes, one after another, a volume every 4 ms.

At a pace, and not as fast as acknowledgements allow: what waits would then be memory
that grows and shrinks with whatever else the machine does.

Every process is looked at several times a second: its own resident memory, that is
without pages of files, file descriptors and threads. Memory may settle during the first
half; over the second half a line is laid through it, and may rise by 1 KiB for every
1,000 volumes. That line is the median of those of all pairs, which sees what grows all
the time, and is blind to steps. So beside it stands by how much the most that the
process held in the last tenth of that half is above the most of the first tenth, for
each 1,000 volumes too (`..._grown_kib_per_1000`): steps and leaks alike. That may be
8 KiB.

The processes run under another allocator than Python's own, and under settings of the C
library's (`ALLOCATOR`), so that they can be weighed to the page; a server in use takes
and keeps memory in larger pieces. The numbers of descriptors and threads of the last
quarter must be those of the one before.

The short form is over before allocators have settled: it proves that the measurement
works, and finds a leak of half a KiB for every volume.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tests.faults.jsonlog import LogReader
from tests.faults.kill import judged
from tests.faults.live_system import Part, part, plan_in, serving, wait_until
from tests.faults.resources import Held, held_by, slope
from tests.faults.result import NONE, Bound, Fault, Figure, Finding, Progress, Settings
from tests.faults.scanner import Plan
from tests.faults.workers import mean_worker, real_worker

RUN = 500
PACE = 250.0
"""Volumes a second, a hundred times a scanner's."""
LOOK_S = 0.25
GROWN_KIB = {"full": 8, "short": 2048}
"""For each 1,000 volumes of the second half. A session of twelve runs has 2,256
volumes, and may take 18 KiB. A short form is one step of an allocator long."""
ALLOCATOR = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": "4096",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Memory is taken and given back by the page. Python's own allocator takes it by the
MiB: one such step, which an idle supervisor takes after six minutes, is 28 KiB for each
1,000 of 50,000 volumes, and hides the leak that is looked for."""


@dataclass
class Watched:
    """One process through the whole soak."""

    volumes: list[int] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def second_half(self, total: int) -> tuple[list[float], list[float]]:
        late = [
            (volumes / 1000, held.own_kib)
            for volumes, held in zip(self.volumes, self.held, strict=True)
            if volumes >= total / 2
        ]
        return [x for x, _ in late], [y for _, y in late]

    def grown(self, what: str, total: int) -> int:
        """How far descriptors or threads rose from the third quarter to the last.

        Both the least and the most of a leak rise. One alone may by chance: whether a
        sender is seen between two runs, when it has no sockets.
        """
        third, last = (
            [
                getattr(held, what)
                for volumes, held in zip(self.volumes, self.held, strict=True)
                if begin <= 4 * volumes / total < begin + 1
            ]
            for begin in (2, 3)
        )
        if not third or not last:
            return 0
        return int(min(min(last) - min(third), max(last) - max(third)))


def run(settings: Settings) -> Finding:
    """Play, look, and compare what was heard with what was said."""
    total = settings.tries(short=2_000, full=100_000)
    with tempfile.TemporaryDirectory(prefix="neuroflow-faults-") as name:
        folder = Path(name)
        loads, said, heard = (folder / n for n in ("loads", "said", "heard"))
        served = mean_worker(loads, kind="leaking" if settings.sabotage else "mean")
        if not (settings.tiny or settings.sabotage or settings.form == "short"):
            served = real_worker(loads)
        with ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, ALLOCATOR))
            server = stack.enter_context(serving(folder / "server", served))
            address = server.state.address
            listener = stack.enter_context(
                part("tests.faults.listener", address, heard)
            )
            wait_until(heard.exists)
            plan = Plan(
                address=address,
                spool=str(folder / "spool"),
                log=str(said),
                stop=str(folder / "stop"),
                shape=served.shape,
                seed=settings.seed,
                volumes=RUN,
                runs=-(-total // RUN),
                speed=PACE,
                pause_s=0.2,
            )
            sender = stack.enter_context(
                part("tests.faults.scanner", plan_in(folder, plan))
            )
            pids = {**server.pids, "sender": sender.pid, "subscriber": listener.pid}
            watched = _watch(pids, LogReader(heard), sender, total)
            status = sender.process.wait(60)
            wait_until(lambda: not _is_growing(heard), pause_s=0)
            restarts = sum(seat.restarts for seat in server.state.seats.values())
        verdict, examples = judged(said, heard)
    figures: dict[str, Figure] = {**verdict, "sender_status": status}
    figures["restarts"] = restarts
    bounds: dict[str, Bound] = {
        "volumes": Bound(at_least=total),
        "lost": NONE,
        "duplicated": NONE,
        "corrupt": NONE,
        "out_of_order": NONE,
        "sender_status": NONE,
        "restarts": NONE,
        "samples": Bound(at_least=8),
    }
    figures["samples"] = min(len(each.volumes) for each in watched.values())
    limit = Bound(at_most=512 if settings.form == "short" else 1)
    for name, each in watched.items():
        key = name.replace("-", "_")
        figures[f"{key}_rss_mib"] = round(each.held[-1].rss_kib / 1024, 1)
        late = each.second_half(total)
        figures[f"{key}_kib_per_1000"] = round(slope(*late), 2)
        kib = grown(late[1])
        figures[f"{key}_grown_kib"] = round(kib)
        figures[f"{key}_grown_kib_per_1000"] = round(kib / (total / 2000), 2)
        bounds[f"{key}_kib_per_1000"] = limit
        bounds[f"{key}_grown_kib_per_1000"] = Bound(at_most=GROWN_KIB[settings.form])
    for what in ("descriptors", "threads"):
        figures[f"{what}_grown"] = max(
            each.grown(what, total) for each in watched.values()
        )
        bounds[f"{what}_grown"] = Bound(at_most=0)
    return Finding(figures, bounds, examples)


def grown(kib: Sequence[float]) -> float:
    """Give by how much the most of the last tenth is above that of the first.

    Peaks, because a sender that is seen between two runs has given back what it holds.
    """
    tenth = -(-len(kib) // 10)
    return max(kib[-tenth:]) - max(kib[:tenth]) if kib else 0.0


def _watch(
    pids: dict[str, int], heard: LogReader, sender: Part, total: int
) -> dict[str, Watched]:
    watched = {name: Watched() for name in pids}
    volumes = 0
    progress = Progress("soak", total)
    while sender.process.poll() is None:
        volumes += sum(line["what"] == "volume" for line in heard.read())
        for name, pid in pids.items():
            try:
                held = held_by(pid)
            except (FileNotFoundError, KeyError):
                continue  # the sender has just ended
            watched[name].volumes.append(volumes)
            watched[name].held.append(held)
        progress.at(volumes)
        time.sleep(LOOK_S)
    return watched


def _is_growing(log: Path) -> bool:
    before = log.stat().st_size
    time.sleep(1.0)
    return log.stat().st_size != before


FAULT = Fault(
    "soak", "100,000 volumes are played to a live system, and it is weighed", run
)
