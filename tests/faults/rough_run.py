"""One recording of a run that goes badly, and the plan of what goes wrong in it.

A supervised server with a real model records while a scanner process plays a short run
through a proxy. At volumes that the plan names, somebody is killed with SIGKILL: a
process of the server, the scanner, or the whole server, which another one on the same
recording then replaces, or never does. Or the cable is cut for a moment. Besides, the
scanner has mishaps (`tests.faults.scanner.MISHAPS`).

Workers are killed without a look at the other one: if both are gone, answers wait until
one has loaded. Nothing of that may show in an answer but its instants.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bci_bridge.header import LatePolicy, Pace
from bci_bridge.outcomes import RunEnded
from bci_bridge.places import OUTCOMES, held_places
from bci_bridge.settings import WORKERS, ServeConfig
from bci_bridge.tail import Tail
from tests.faults.jsonlog import LogReader
from tests.faults.live_system import Part, Server, part, plan_in, wait_until
from tests.faults.proxy import Proxy
from tests.faults.scanner import Plan
from tests.faults.workers import Input, Served

VOLUMES = 80
PERIOD_S = 0.02
"""A volume each."""

MISHAPS = 0.1
POLICIES: tuple[LatePolicy, ...] = ("flag", "hold-last", "drop")
BUDGETS_S = (0.002, 0.01, 0.05)
"""From one that no answer keeps to one that most do."""

OTHERS = ("ingress", "active worker", "standby", "publisher", "sender", "cable")
CUT_S = (0.02, 0.2)
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Script:
    """What one recording is made of; all of it follows from a seed and a number."""

    number: int
    seed: int
    input_kind: Input
    late: LatePolicy
    pace: Pace
    budget_s: float
    acts: tuple[tuple[int, str], ...]
    """After which volume, and what: one of `OTHERS`, ``server`` or ``end``."""

    @classmethod
    def drawn(cls, seed: int, number: int) -> "Script":
        """Vary by number what must not be left to chance, and draw the rest."""
        dice = random.Random(f"{seed} {number}")
        # The active worker first: somebody must go on with what another one began.
        whats = ["active worker", *dice.choices(OTHERS, k=dice.randint(2, 5))]
        # Odd periods: each of these meets both kinds of model.
        if number % 5 == 1:
            whats.insert(dice.randint(1, len(whats)), "server")
        if number % 7 == 6:
            whats.append("end")
        at = sorted(dice.sample(range(10, VOLUMES - 10), len(whats)))
        return cls(
            number=number,
            seed=seed,
            input_kind="beta" if number % 2 else "volume",
            late=POLICIES[number // 2 % len(POLICIES)],
            pace="catchup" if number % 9 == 8 else "live",
            budget_s=dice.choice(BUDGETS_S),
            acts=tuple(zip(at, whats, strict=True)),
        )

    def plan(self, folder: Path, address: str, shape: tuple[int, int, int]) -> Plan:
        """Say what the scanner is to play.

        Trials are answered seconds after their onset, so that a run with trials
        announces a TR of a second, and is played fifty times as fast. A run without is
        what it announces: there, time declares volumes missing.
        """
        has_trials = self.input_kind == "beta"
        return Plan(
            address=address,
            spool=str(folder / "spool"),
            log=str(folder / "said"),
            stop=str(folder / "stop"),
            shape=shape,
            seed=self.seed * 1000 + self.number,
            volumes=VOLUMES,
            runs=1,
            tr_s=1.0 if has_trials else PERIOD_S,
            speed=1.0 / PERIOD_S if has_trials else 1.0,
            budget_s=self.budget_s,
            late=self.late,
            pace=self.pace,
            mishaps=MISHAPS,
            event_every=6,
            updates=has_trials,
        )


@dataclass
class Rough:
    """What became of a run."""

    recording: Path
    kills: Counter[str] = field(default_factory=Counter)
    cuts: int = 0
    troubles: list[str] = field(default_factory=list)


def record(script: Script, folder: Path, served: Served) -> Rough:
    """Play a script; return where the recording is, which no process writes to then."""
    found = Rough(folder / "recording")
    with ExitStack() as stack:
        try:
            stage = _Stage(stack, script, folder, served, found)
            for at, what in script.acts:
                stage.await_volume(at)
                stage.act(what)
            stage.await_end()
        except RuntimeError as error:
            found.troubles.append(f"recording {script.number}: {error}")
    # What a killed server left in memory, which its successor would have removed.
    with held_places(found.recording):
        return found


class _Stage:
    """The processes of one recording."""

    def __init__(
        self,
        stack: ExitStack,
        script: Script,
        folder: Path,
        served: Served,
        found: Rough,
    ) -> None:
        self._folder, self._served, self._found = folder, served, found
        self._dice = random.Random(f"{script.seed} {script.number} acts")
        self._servers = 0
        self._is_over = False
        self._server: Server | None = self._served_at("tcp://127.0.0.1:*")
        stack.callback(self._stop)
        self._address = self._server.state.address
        self._proxy = stack.enter_context(Proxy(self._address))
        plan = script.plan(folder, self._proxy.address, served.shape)
        self._said, self._newest = LogReader(Path(plan.log)), -1
        file = plan_in(folder, plan)
        self._sender: Part = stack.enter_context(part("tests.faults.scanner", file))

    def await_volume(self, index: int) -> None:
        """Wait until the scanner is there, or has ended."""
        if not wait_until(lambda: self._is_at(index), timeout_s=PATIENCE_S):
            raise RuntimeError(f"scanner: expected volume {index}, found none")

    def act(self, what: str) -> None:
        """Do one thing of the script."""
        if self._is_over or self._server is None:
            return
        if what == "cable":
            self._found.cuts += 1
            with self._cut():
                time.sleep(self._dice.uniform(*CUT_S))
            return
        self._found.kills[what if what != "end" else "server"] += 1
        match what:
            case "sender":
                self._sender.kill()
                self._sender.start()
            case "server" | "end":
                self._server.kill_all()
                self._server = None
                if what == "server":
                    self._server = self._served_at(self._address)
                else:
                    self._is_over = True
                    self._sender.kill()
            case _:
                self._server.kill(_place(self._server, what))

    def await_end(self) -> None:
        """Let the run end, and be answered to its end."""
        if self._is_over:
            return
        wait_until(self._has_left, timeout_s=2 * PATIENCE_S)
        status = self._sender.process.poll()
        if status != 0:
            raise RuntimeError(f"scanner: expected status 0, found {status}")
        outcomes = Tail([self._found.recording / OUTCOMES])
        with contextlib.closing(outcomes):
            if not wait_until(lambda: _has_end(outcomes), timeout_s=PATIENCE_S):
                raise RuntimeError("server: expected the run's end, found none")

    def _served_at(self, address: str) -> Server:
        config = ServeConfig(address=address, recording=str(self._found.recording))
        self._servers += 1
        folder = self._folder / f"server-{self._servers}"
        return Server(folder, self._served, config)

    def _stop(self) -> None:
        if self._server is not None and self._server.stop():
            self._found.troubles.append("server: expected it to end well")

    def _is_at(self, index: int) -> bool:
        for line in self._said.read():
            if line["what"] == "volume":
                self._newest = max(self._newest, line["index"])
        return self._newest >= index or self._has_left()

    def _has_left(self) -> bool:
        return self._sender.process.poll() is not None

    @contextlib.contextmanager
    def _cut(self) -> Iterator[None]:
        self._proxy.weather.is_cut = True
        self._proxy.reset()
        yield
        self._proxy.weather.is_cut = False


def _place(server: Server, role: str) -> str:
    if role not in ("active worker", "standby"):
        return role
    seats = server.state.seats
    is_active = role == "active worker"
    return next((n for n in WORKERS if seats[n].is_active == is_active), WORKERS[0])


def _has_end(outcomes: Tail) -> bool:
    return any(isinstance(one.envelope.record, RunEnded) for one in outcomes.read())


def shown(script: Script) -> str:
    """Write a script down, for whoever wants to see it again."""
    return msgspec.json.encode(script).decode()
