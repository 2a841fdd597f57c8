"""What processes hold: memory, file descriptors, threads; and whether it grows."""

import itertools
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """What one process holds at one instant."""

    rss_kib: float
    own_kib: float
    """Of the resident memory what is no file's: pages of libraries come and go as the
    kernel likes, which may be at any time, and a leak is never among them."""
    descriptors: int
    threads: int


def held_by(pid: int) -> Held:
    """Look at a process."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    return Held(
        rss_kib=float(said["VmRSS"].split()[0]),
        own_kib=sum(float(said[name].split()[0]) for name in ("RssAnon", "RssShmem")),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(said["Threads"]),
    )


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of a line through points: the median of those of all pairs.

    Theil and Sen's: what grows all the time has it, what is taken once has not; by
    least squares a single buffer in the middle looks like a leak.
    """
    steps = [
        (y1 - y0) / (x1 - x0)
        for (x0, y0), (x1, y1) in itertools.combinations(zip(xs, ys, strict=True), 2)
        if x1 != x0
    ]
    return statistics.median(steps) if steps else 0.0
