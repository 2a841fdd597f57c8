"""A scanner in a process of its own: ``python -m tests.faults.scanner PLAN``.

It plays one run after another with a spool, so that killed at any instant its successor
goes on. What it is about to hand to its sender, and what is about to leave, it writes
down first: its log never knows less than the server can. PLAN is a JSON file.

Where the plan asks for mishaps, some volumes come late, twice, in the wrong shape or
never. Which ones follows from the plan, so that a successor has the same.
"""

import random
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from msgspec import structs

from bci_bridge import player
from bci_bridge.header import LatePolicy, Pace
from bci_bridge.line import Line
from bci_bridge.messages import RunStart, Volume
from bci_bridge.sender import Sender
from bci_bridge.unfinished import held_run
from bci_bridge.urgency import SERVER, become_urgent
from bci_bridge.wire import Envelope
from tests.faults.jsonlog import JsonLog
from tests.integration.tiny import PlayedEvent

MISHAPS = ("late", "twice", "gap", "missing", "shape")
LATE_S = 0.05


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to play, to whom, and where to write it down."""

    address: str
    spool: str | None
    log: str
    stop: str
    """Once this file is there, no further run begins."""
    shape: tuple[int, int, int]
    seed: int = 0
    volumes: int = 500
    """Of one run."""
    runs: int | None = None
    """None plays until `stop` is there."""
    prefix: str = "run"
    tr_s: float = 1.0
    """As announced."""
    speed: float | None = 50.0
    budget_s: float = 60.0
    """By default longer than any outage: what is not OK was lost."""
    late: LatePolicy = "flag"
    pace: Pace | None = None
    """As announced; by default what the speed says."""
    mishaps: float = 0.0
    """Share of the volumes that meet one of `MISHAPS`."""
    event_every: int = 10
    updates: bool = False
    """Earlier estimates of trials are asked for."""
    pause_s: float = 0.0
    """Between two runs."""


@dataclass(frozen=True)
class RandomRun:
    """A run whose volumes differ, and are the same for every process that plays it."""

    plan: Plan
    number: int
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))

    @property
    def run_id(self) -> str:
        return f"{self.plan.prefix}-{self.number:05d}"

    @property
    def tr_s(self) -> float:
        return self.plan.tr_s

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.plan.shape

    @property
    def volume_count(self) -> int:
        return self.plan.volumes

    @property
    def events(self) -> tuple[PlayedEvent, ...]:
        every = self.plan.event_every
        return tuple(
            PlayedEvent(f"t-{n}", n * every * self.tr_s, self.tr_s / 2)
            for n in range(1, self.plan.volumes // every)
        )

    def volumes(self) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng([self.plan.seed, self.number])
        size = (self.plan.volumes, *self.plan.shape)
        return rng.normal(1000, 20, size).astype(np.int16)


class _TellingSender(Sender):
    """Writes down what it is handed before it takes it."""

    log: JsonLog
    run: str
    plan: Plan

    def volume(
        self,
        volume_index: int,
        volume: Any,
        acquired_ns: int,
        confounds: Mapping[str, float] | None = None,
    ) -> None:
        mishap = _mishap(self.plan, self.run, volume_index)
        if mishap == "gap":
            return
        if mishap == "missing":
            self.missing(volume_index, "as planned")
            return
        if mishap == "late":
            self.pump()
            time.sleep(LATE_S)
        if mishap == "shape":
            volume = volume[:, :, :-1]
        self._tell(volume_index, volume, acquired_ns)
        super().volume(volume_index, volume, acquired_ns, confounds)
        if mishap == "twice":
            super().volume(volume_index, volume, acquired_ns, confounds)

    def _tell(self, volume_index: int, volume: Any, acquired_ns: int) -> None:
        self.log.write(
            "volume",
            run=self.run,
            index=volume_index,
            payload_crc32=zlib.crc32(np.ascontiguousarray(volume).tobytes()),
            at_ns=time.monotonic_ns(),
            acquired_ns=acquired_ns,
        )

    def event(self, trial_id: str, *args: Any, **kwargs: Any) -> None:
        at_ns = time.monotonic_ns()
        self.log.write("event", run=self.run, trial_id=trial_id, at_ns=at_ns)
        super().event(trial_id, *args, **kwargs)


def _mishap(plan: Plan, run: str, index: int) -> str:
    """Say what happens to a volume; mostly nothing."""
    dice = random.Random(f"{plan.seed} {run} {index}")
    return dice.choice(MISHAPS) if dice.random() < plan.mishaps else ""


def _telling_line(log: JsonLog) -> Any:
    """A line that writes down each volume that leaves, with a CRC of its own making."""
    transmit = Line.transmit

    def told(line: Line, envelope: Envelope) -> bool:
        record = envelope.record
        if isinstance(record, Volume):
            header, payload = envelope.frames
            log.write(
                "message",
                run=record.run,
                index=record.volume_index,
                payload_crc32=zlib.crc32(payload),
                crc32=zlib.crc32(payload, zlib.crc32(header[:-4])),
            )
        return transmit(line, envelope)

    return told


def _first_run(plan: Plan) -> int:
    """Find the run that a killed predecessor was in, or the one after its last."""
    held = None if plan.spool is None else held_run(Path(plan.spool))
    if held is None:
        return 0
    number = int(held.run.rpartition("-")[2])
    return number + 1 if held.is_finished else number


def main(file: str) -> None:
    plan = msgspec.json.decode(Path(file).read_bytes(), type=Plan)
    # It stands for another machine: when it sends is not to hang on what this one does.
    become_urgent(SERVER)
    log = JsonLog(Path(plan.log))
    number = _first_run(plan)
    with mock.patch.object(Line, "transmit", _telling_line(log)):
        while plan.runs is None or number < plan.runs:
            if Path(plan.stop).exists() and not _is_unfinished(plan):
                break
            run = RandomRun(plan, number)
            log.write("run", run=run.run_id, count=run.volume_count)
            known = {"log": log, "run": run.run_id, "plan": plan}
            told = type("Told", (_TellingSender,), known)
            with mock.patch.object(player, "Sender", told):
                player.play(
                    run,
                    plan.address,
                    plan.speed,
                    run_start=_announced(run),
                    spool=None if plan.spool is None else Path(plan.spool),
                )
            number += 1
            time.sleep(plan.pause_s)


def _announced(run: RandomRun) -> RunStart:
    plan = run.plan
    start = player.run_start_from(run, speed=plan.speed, budget_s=plan.budget_s)
    return structs.replace(
        start,
        late=plan.late,
        pace=plan.pace or start.pace,
        updates=plan.updates,
    )


def _is_unfinished(plan: Plan) -> bool:
    held = None if plan.spool is None else held_run(Path(plan.spool))
    return held is not None and not held.is_finished


if __name__ == "__main__":
    main(sys.argv[1])
