"""Volumes as sources yield them, and what their feed says of them, for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from bci_bridge.sources.feed import Feed
from bci_bridge.sources.plan import Plan
from bci_bridge.sources.source import Arrival, Exhausted, Reading
from bci_bridge.sources.speech import Begin, End, SayMissing, SayVolume, Tell
from bci_bridge.sources.volume import Geometry, ScannedVolume

SHAPE = (3, 4, 2)
SECOND = 1_000_000_000


def recorded_data(name: str) -> Path:
    """Find a folder of recorded data; skip the test, aloud, where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"recorded data: expected {folder}, found none")
    return folder


def plan(**changes):
    return Plan(**{"run": "rest", "volumes": 5, **changes})


def scanned(
    number,
    series="s-1",
    *,
    shape=SHAPE,
    tr_s=1.0,
    affine=None,
    voxels=None,
    first=0,
):
    """A volume that holds its number, but for one voxel."""
    if voxels is None:
        voxels = np.full(shape, number, np.int16)
        voxels.flat[0] = -1
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    geometry = Geometry(shape, affine, tr_s)
    return ScannedVolume(series, number, voxels, geometry, first=first)


class Told:
    """What a feed decided, in words: (what, number) pairs, and lines."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.now_ns = feed, 0
        self.said: list[tuple[object, ...]] = []
        self.lines: list[str] = []

    def take(self, arrival: Arrival, after_s: float = 0.0) -> None:
        self.now_ns += round(after_s * SECOND)
        self.add(self.feed.take(arrival, self.now_ns))

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND)
        self.add(self.feed.tick(self.now_ns))

    def add(self, actions) -> None:
        for action in actions:
            match action:
                case Begin(start=start):
                    self.said.append(("begin", start.run))
                case SayVolume(index=index):
                    self.said.append(("volume", index))
                case SayMissing(index=index):
                    self.said.append(("missing", index))
                case End(count=count, is_aborted=is_aborted):
                    self.said.append(("aborted" if is_aborted else "end", count))
                case Tell(line=line):
                    self.lines.append(line)


class Listed:
    """A source that yields what it was given, then nothing, or `Exhausted`."""

    def __init__(self, arrivals: Iterable[Arrival], *, is_recording: bool = True):
        self.arrivals = list(arrivals)
        self.is_recording, self.is_closed = is_recording, False

    def poll(self, wait_s: float) -> Arrival | None:
        if self.arrivals:
            return self.arrivals.pop(0)
        return Exhausted() if self.is_recording else None

    def close(self) -> None:
        self.is_closed = True


class Clock:
    """Time that passes while somebody sleeps, and a little with each look."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        self.now_s += 1e-4
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


def polled(source, n=3):
    """What a few looks find; a plain file needs two."""
    looks = [source.poll(0.05) for _ in range(n)]
    return [one for one in looks if one is not None and not isinstance(one, Reading)]
