"""Simulated sessions with faults on a virtual clock: every failure repeats its seed.

A trouble names the seed of its session; ``sessions --full --first SEED --count 1``
lives through that one alone.
"""

import contextlib
import functools
import gc
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from bci_bridge.answering import Answering
from bci_bridge.delivery import Delivery, Patience
from bci_bridge.messages import Event, Hello, RunEnd, RunStart, Volume
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, VolumeOutcome
from runtime.answers import TrialReport, VolumeReport
from tests.faults.result import NONE, Bound, Fault, Finding, Progress, Settings
from tests.faults.simulated_line import SimulatedLine
from tests.faults.world import MS, Server, World
from tests.integration.tiny import MeanDecoder

RUNS, VOLUMES, TR_S = 12, 188, 1.6
"""Of a full session; the short form has `SHORT_RUNS`."""
TRIAL_EVERY_S, BLANK_EVERY = 4.0, 6
"""These are the Natural Scenes Dataset's: 75 trials a run, of which 62 or 63 have a
picture (Allen et al., 2022, Nature Neuroscience 25, Methods)."""
SHORT_RUNS = 2
PAUSES_S = (60, 540)
"""Before each run: with them, twelve runs take two hours."""
PUMPS_MS = (1000, 3000)
"""Longest wait of a sender between two volumes, drawn by run: with and without a
heartbeat between them."""

SHAPE = (1, 1, 2)
VICTIMS = ("ingress", "worker", "standby", "publisher")
UNWANTED = VolumeReport(0, None, {}, {})
"""Of a volume whose answer is on record."""

PATIENCE = Patience(60 * 10**9, 600 * 10**9, lambda: False)


class _FewVoxels(MeanDecoder):
    """The same answers, without latents and without what NumPy costs for two voxels."""

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray[Any, Any],
        *,
        is_wanted: bool = True,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        if is_wanted:
            return super().add_volume(volume_index, volume)
        self._mean = self._mean_of(volume)
        return UNWANTED, self._due(volume_index)

    def _mean_of(self, volume: np.ndarray[Any, Any]) -> float:
        [[[one, other]]] = volume.tolist()
        return (one + other) / 2

    def _latent(self) -> None:
        return None


@dataclass
class Lived:
    """One session that is over.

    Attributes:
        server: With all that is on record.
        tally: What happened.
        trouble: What must not have.
    """

    server: Server
    tally: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)


def lived(seed: int, runs: int = RUNS) -> Lived:
    """Live through one session."""
    world = World(seed)
    found = Lived(Server(world, lambda: _FewVoxels(SHAPE)))
    server, tally = found.server, found.tally
    began_ns = world.now_ns
    for number in range(runs):
        run, place = f"run-{number}", (len(server.inputs), len(server.outcomes))
        _pause(world, server)
        sent = _live(world, server, run, VOLUMES, tally)
        world.run_until(world.now_ns + 1000 * MS)
        wrong = _wrong(server, run, place, VOLUMES, sent)
        found.trouble += [f"seed {seed}: {line}" for line in wrong]
    tally["sessions"] += 1
    tally["seconds"] += (world.now_ns - began_ns) // 10**9
    tally["deaths"] += sum(server.deaths.values())
    return found


def session(seed: int, runs: int = RUNS) -> tuple[Counter[str], list[str]]:
    """Live through one session; return what happened, and what must not have."""
    found = lived(seed, runs)
    return found.tally, found.trouble


def _pause(world: World, server: Server) -> None:
    """Let time pass without a run; processes die in it as well."""
    dice = world.dice
    span_ns = dice.randrange(*PAUSES_S) * 10**9
    _let_die(world, server, world.now_ns, span_ns, dice.randrange(0, 2))
    world.run_until(world.now_ns + span_ns)


def _live(
    world: World, server: Server, run: str, count: int, tally: Counter[str]
) -> int:
    """Send one run at its TR, while processes die and the network fails."""
    line = SimulatedLine(world, server, f"scanner-{run}")
    hello = Hello(stream="scanner", role="scanner", lease=f"lease-{run}")
    delivery = Delivery(line, hello, run, None, world.clock, PATIENCE)
    begin_ns = world.now_ns
    delivery.post(
        RunStart(shape=SHAPE, tr_s=TR_S, expected_volumes=count, budget_s=TR_S)
    )
    tr_ns = round(TR_S * 1e9)
    _let_fail(world, server, line, begin_ns, count * tr_ns, tally)
    pump_ms, slot = world.dice.choice(PUMPS_MS), 0
    for index in range(count):
        due_ns = begin_ns + (index + 1) * tr_ns
        while world.now_ns < due_ns:
            left_ms = -((world.now_ns - due_ns) // MS)
            # No word of life at the very instant at which a volume is one.
            if left_ms > pump_ms:
                delivery.pump(pump_ms)
            elif line.poll(left_ms):
                delivery.pump()
        while (onset_s := slot * TRIAL_EVERY_S) < (index + 1) * TR_S:
            if slot % BLANK_EVERY:
                trial = f"t-{slot}"
                delivery.post(Event(trial_id=trial, onset_s=onset_s, duration_s=3.0))
            slot += 1
        record = Volume(
            volume_index=index, acquired_ns=world.now_ns, dtype="i2", shape=SHAPE
        )
        delivery.post(record, index.to_bytes(2, "little") * 2)
        tally["volumes"] += 1
    delivery.post(RunEnd(count=count))
    delivery.wait(lambda: delivery.is_settled)
    delivery.close()
    tally["resent"] += delivery.resent
    return delivery.count


def _let_fail(
    world: World,
    server: Server,
    line: SimulatedLine,
    begin_ns: int,
    span_ns: int,
    tally: Counter[str],
) -> None:
    """Put this run's faults on the agenda."""
    dice = world.dice
    _let_die(world, server, begin_ns, span_ns, dice.randrange(0, 6))
    for _ in range(dice.randrange(0, 3)):
        at_ns = begin_ns + dice.randrange(span_ns) - world.now_ns
        cut_ns = dice.choice([5, 50, 500, 5000, 20_000]) * MS
        world.after(max(at_ns, 0), line.cut, cut_ns)
        tally["cuts"] += 1


def _let_die(
    world: World, server: Server, begin_ns: int, span_ns: int, deaths: int
) -> None:
    dice = world.dice
    for _ in range(deaths):
        victim = dice.choice(VICTIMS)
        at_ns = begin_ns + dice.randrange(span_ns) - world.now_ns
        world.after(max(at_ns, 0), server.kill, victim)


def _wrong(
    server: Server, run: str, place: tuple[int, int], count: int, sent: int
) -> list[str]:
    """Hold what is on record of a run, since it began, against what must be."""
    records = [
        one.envelope.record
        for one in server.outcomes[place[1] :]
        if one.envelope.record.run == run and isinstance(one.envelope.record, Outcome)
    ]
    volumes = [one for one in records if type(one) is VolumeOutcome]
    trials = [one.trial_id for one in records if type(one) is TrialOutcome]
    inputs = [
        one.envelope.record
        for one in server.inputs[place[0] :]
        if one.topic == "in/scanner" and one.envelope.record.run == run
    ]
    said = {one.volume_index for one in inputs if type(one) is Volume}
    events = [one.trial_id for one in inputs if type(one) is Event]
    wrong = []
    if [one.sequence for one in inputs] != list(range(sent)):
        wrong.append(f"{run}: inputs: expected {sent} in order, found {len(inputs)}")
    if said != set(range(count)):
        wrong.append(f"{run}: volumes lost: {sorted(set(range(count)) - said)[:5]}")
    if [one.volume_index for one in volumes] != list(range(count)):
        wrong.append(f"{run}: expected {count} volume outcomes, found {len(volumes)}")
    for one in volumes:
        if one.input == "OK" and one.label != str(one.volume_index):
            wrong.append(f"{run}: volume {one.volume_index} answered {one.label}")
        if one.input == "INVALID":
            wrong.append(f"{run}: volume {one.volume_index} INVALID: {one.degraded}")
    if sorted(trials) != sorted(events):
        wrong.append(f"{run}: expected {len(events)} trials, found {len(trials)}")
    if [one.outcome_index for one in records] != list(range(len(records))):
        wrong.append(f"{run}: outcomes are not numbered without a gap")
    if not records or not isinstance(records[-1], RunEnded) or records[-1].aborted:
        wrong.append(f"{run}: expected a whole run's end, found another")
    outbox = server.outbox
    if outbox is None or outbox.count != len(records):
        wrong.append(f"{run}: expected {len(records)} outcomes given out")
    return wrong


def run(settings: Settings) -> Finding:
    """Live through sessions on all processors."""
    sessions = settings.tries(short=4, full=400)
    first = settings.seed * 1_000_000 if settings.first is None else settings.first
    seeds = range(first, first + sessions)
    tally: Counter[str] = Counter()
    trouble: list[str] = []
    progress = Progress("sessions", sessions)
    begin = time.monotonic()
    runs = RUNS if settings.form == "full" else SHORT_RUNS
    one = functools.partial(_sabotaged if settings.sabotage else session, runs=runs)
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        done = map(one, seeds)
        if settings.form == "full":
            pool = stack.enter_context(
                ProcessPoolExecutor(cores, initializer=gc.freeze)
            )
            done = pool.map(one, seeds, chunksize=4)
        for number, (found, wrong) in enumerate(done):
            tally += found
            trouble += wrong
            progress.at(number)
    minutes = (time.monotonic() - begin) / 60
    figures = {
        "first_seed": first,
        "sessions": tally["sessions"],
        "hours_simulated": round(tally["seconds"] / 3600, 1),
        "volumes": tally["volumes"],
        "deaths": tally["deaths"],
        "cuts": tally["cuts"],
        "resent": tally["resent"],
        "violations": len(trouble),
        "sessions_per_minute": round(sessions / minutes, 1),
    }
    bounds = {
        "violations": NONE,
        "sessions": Bound(at_least=sessions),
        "deaths": Bound(at_least=1),
        "cuts": Bound(at_least=1),
    }
    if settings.form == "full":
        bounds["sessions_per_minute"] = Bound(at_least=200)
    return Finding(figures, bounds, trouble)


def _sabotaged(seed: int, runs: int) -> tuple[Counter[str], list[str]]:
    """Workers that do not look at what is on record already."""
    with mock.patch.object(Answering, "know"):
        return session(seed, runs)


FAULT = Fault("sessions", "processes die and cables break, on a virtual clock", run)
