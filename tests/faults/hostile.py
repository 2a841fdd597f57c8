"""A storm of connections without a right, at each of a server's three sockets, while a
run plays under keys."""

import json
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from bci_bridge.keyfolder import make_device, revoke_device
from bci_bridge.recording_reader import scan_recording
from bci_bridge.segment import Logged
from bci_bridge.settings import ServeConfig
from bci_bridge.urgency import SERVER, urgent
from tests.faults import storm
from tests.faults.legitimate import SCANNER, WATCHER, Legitimate, play_for
from tests.faults.recordings import scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Settings
from tests.faults.supervised import ROOT, Supervised

KEYED_SHARE = 100
"""One connection of so many comes through libzmq, under a key that is not in force."""

ALONE_S = 5.0
"""How long a run plays without the storm, to see what the storm costs."""

PATIENCE_S = 3600.0


def run(settings: Settings) -> Finding:
    """Play alone, play in the storm, and look for anything that came of the storm."""
    count = settings.tries(short=2000, full=1_000_000)
    with scratch() as folder:
        keys = None if settings.sabotage else _keys(folder / "keys")
        config = ServeConfig(
            address="tcp://127.0.0.1:*",
            keys=None if keys is None else str(keys),
            recording=str(folder / "log"),
        )
        # The peers that measure stand for other machines: they wait for nobody here.
        with Supervised(config) as server, urgent(SERVER):
            alone = play_for(server.address, keys, ALONE_S)
            with Legitimate(server.address, keys) as legitimate:
                begin = time.monotonic()
                found = _storm(server.sockets, count, settings.seed, keys)
                storm_s = time.monotonic() - begin
            ended = server.stop()
        logged = _hostile_messages(folder / "log")
    rejected = {} if ended.report is None else ended.report.rejected
    kinds = {*storm.sayings_kinds(), *storm.KEYED}
    connections = sum(n for kind, n in found.items() if kind in kinds)
    troubles = [*alone.troubles, *legitimate.troubles]
    troubles += [ended.failure] if ended.failure else []
    answered = Bound(at_least=0, at_most=10 if settings.form == "full" else 1000)
    return Finding(
        {
            "connections": connections,
            "connections_per_s": round(connections / storm_s),
            **{kind.replace(" ", "_"): found[kind] for kind in sorted(kinds)},
            **{f"at_{at}": found[storm.at_socket(at)] for at in storm.SOCKETS},
            "let_in": found["let in"],
            **{f"let_in_at_{at}": found[storm.let_in_at(at)] for at in storm.SOCKETS},
            "outlasted_the_server": found["outlasted the server"],
            "hostile_messages_read": sum(rejected.values()),
            "hostile_messages_logged": logged,
            "legitimate_volumes": legitimate.sent,
            "legitimate_lost": legitimate.lost + alone.lost,
            "deaths": sum(ended.restarts.values()),
            "troubles": len(troubles),
            "answer_p99_alone_ms": alone.answer_ms(0.99),
            "answer_p50_ms": legitimate.answer_ms(0.5),
            "answer_p99_ms": legitimate.answer_ms(0.99),
            "answer_worst_ms": legitimate.answer_ms(1.0),
        },
        {
            "connections": Bound(at_least=count),
            **{f"at_{at}": Bound(at_least=count // 4) for at in storm.SOCKETS},
            **{f"let_in_at_{at}": NONE for at in storm.SOCKETS},
            "hostile_messages_read": NONE,
            "hostile_messages_logged": NONE,
            "legitimate_volumes": Bound(at_least=10),
            "legitimate_lost": NONE,
            "deaths": NONE,
            "troubles": NONE,
            "answer_p99_ms": answered,
        },
        troubles,
    )


def _keys(folder: Path) -> Path:
    make_device(folder, SCANNER, ("scanner",))
    make_device(folder, WATCHER, ("observer",))
    make_device(folder, storm.REVOKED, ("scanner", "stimulus", "observer"))
    revoke_device(folder, storm.REVOKED, datetime.now(UTC))
    return folder


def _storm(addresses: str, count: int, seed: int, keys: Path | None) -> Counter[str]:
    """Let processes of their own connect; return what became of it all."""
    n_keyed = 0 if keys is None else max(count // KEYED_SHARE, len(storm.KEYED))
    orders = [[str(count - n_keyed), str(seed)]]
    if keys is not None:
        orders.append([str(n_keyed), str(seed), str(keys)])
    started = [
        subprocess.Popen(
            [sys.executable, "-m", storm.__name__, addresses, *order],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for order in orders
    ]
    found: Counter[str] = Counter()
    for process in started:
        said, _ = process.communicate(timeout=PATIENCE_S)
        found.update(json.loads(said or "{}"))
    return found


def _hostile_messages(log: Path) -> int:
    """Count what is on record of any stream that is not the legitimate scanner's."""
    return sum(
        item.envelope.record.stream == storm.STREAM
        for folder in sorted({path.parent for path in log.rglob("*.mcap")})
        for item in scan_recording(folder)
        if isinstance(item, Logged)
    )


FAULT = Fault(
    "hostile",
    "connections without a right storm a server with keys, beside a run that plays",
    run,
)
