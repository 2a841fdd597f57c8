"""Every bomb that a peer can throw, while a run plays: who holds how much, who dies."""

import time
from pathlib import Path

from bci_bridge.keyfolder import make_device
from bci_bridge.settings import ServeConfig
from tests.faults.bombs import BOMBER, BOMBS, Target
from tests.faults.legitimate import SCANNER, WATCHER, Legitimate
from tests.faults.recordings import scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Settings
from tests.faults.supervised import Ended, Supervised

CAP_MIB = 512
"""The least that a server may be given, so that bombs of little more are enough."""

ALIVE_S = 15.0
"""After a bomb, an answer to a volume that is sent then must come within this time."""


class _Rounds:
    """What came of the bombs, over the servers at which they were thrown."""

    def __init__(self) -> None:
        self.thrown = self.unanswered = self.lost = self.volumes = self.deaths = 0
        self.peak_mib: dict[str, float] = {}
        self.slowest_ms = 0.0
        self.examples: list[str] = []
        self.troubles: list[str] = []

    def take(
        self, ended: Ended, legitimate: Legitimate, peaks: dict[str, float]
    ) -> None:
        self.troubles += legitimate.troubles
        self.troubles += [ended.failure] if ended.failure else []
        self.lost += legitimate.lost
        self.volumes += legitimate.sent
        self.deaths += sum(ended.restarts.values())
        self.slowest_ms = max(self.slowest_ms, legitimate.answer_ms(1.0))
        for name, held in peaks.items():
            self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), held)


def run(settings: Settings) -> Finding:
    """Throw every bomb at a server without keys, and at one whose keys they hold."""
    rounds, seconds = _Rounds(), 1.0 if settings.form == "short" else 10.0
    for has_keys in (False, True):
        with scratch() as folder:
            keys = _keys(folder / "keys") if has_keys else None
            _bombard(folder, keys, seconds, rounds, is_capped=not settings.sabotage)
    peaks = {
        f"peak_mib_{name.replace('-', '_')}": round(held)
        for name, held in sorted(rounds.peak_mib.items())
    }
    return Finding(
        {
            "bombs": rounds.thrown,
            "cap_mib": CAP_MIB,
            **peaks,
            "legitimate_volumes": rounds.volumes,
            "legitimate_lost": rounds.lost,
            "unanswered_afterwards": rounds.unanswered,
            "troubles": len(rounds.troubles),
            "deaths": rounds.deaths,
            "slowest_answer_ms": rounds.slowest_ms,
        },
        {
            "bombs": Bound(at_least=2 * len(BOMBS)),
            **dict.fromkeys(peaks, Bound(at_least=1, at_most=CAP_MIB)),
            "peak_mib_ingress": Bound(at_least=1, at_most=CAP_MIB),
            "peak_mib_publisher": Bound(at_least=1, at_most=CAP_MIB),
            "legitimate_volumes": Bound(at_least=10),
            "legitimate_lost": NONE,
            "unanswered_afterwards": NONE,
            "troubles": NONE,
        },
        rounds.troubles + rounds.examples,
    )


def _keys(folder: Path) -> Path:
    make_device(folder, SCANNER, ("scanner",))
    make_device(folder, WATCHER, ("observer",))
    make_device(folder, BOMBER, ("stimulus", "observer"))
    return folder


def _bombard(
    folder: Path, keys: Path | None, seconds: float, rounds: _Rounds, *, is_capped: bool
) -> None:
    config = ServeConfig(
        address="tcp://127.0.0.1:*",
        keys=None if keys is None else str(keys),
        recording=str(folder / "log"),
        memory_mb=CAP_MIB,
    )
    sabotage = "" if is_capped else "uncapped"
    with Supervised(config, sabotage) as server:
        if server.endpoints is None:
            return
        target = Target(server.endpoints, CAP_MIB, keys, seconds)
        with Legitimate(server.address, keys) as legitimate:
            for name, throw in BOMBS.items():
                throw(target)
                rounds.thrown += 1
                if not _is_alive(legitimate):
                    rounds.unanswered += 1
                    with_keys = "without" if keys is None else "with"
                    rounds.examples.append(f"{name}, {with_keys} keys: no answer")
        rounds.take(server.stop(), legitimate, server.peak_mib)


def _is_alive(legitimate: Legitimate) -> bool:
    """Say whether a volume that is sent from now on is answered."""
    first, until = legitimate.sent + 1, time.monotonic() + ALIVE_S
    while time.monotonic() < until:
        if any(index >= first for index in list(legitimate.answered_ns)[-100:]):
            return True
        time.sleep(0.02)
    return False


FAULT = Fault(
    "memory", "peers send what is meant to burst a server's memory, beside a run", run
)
