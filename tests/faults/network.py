"""A sender with a spool plays a run over a network that gets worse and better.

Real time is the run's own: a volume each TR. All that the server has on record is held
against what was played; how fast the sender catches up is read from the same record.

Packets are lost in a network namespace by nftables, all parties' alike, or where that
cannot be had by a filter in front of the proxy's sockets; a figure says which.

Most volumes are tiny, so that their headers meet the weather. Some cases play volumes
of 64 x 64 x 36 voxels of 16 bits, 288 KiB, which reach a socket in pieces whatever the
network does: over a line that is reset, and over one that sends the first `SLICE` bytes
of each piece of at most 64 KiB one byte in a packet, and what is left of the piece
together. That is some 2.5 KiB of each volume, its header among them, and all that is
said in return; with every byte in a packet of its own, as tiny volumes are sliced, one
of these would take a minute on a busy machine.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from neuroflow_client import Client, ClientError, VolumeOutcome

from bci_bridge.messages import Volume
from bci_bridge.player import play, run_start_from
from bci_bridge.recording_reader import scan_recording
from bci_bridge.segment import Logged
from bci_bridge.settings import ServeConfig
from bci_bridge.window import Window
from runtime.errors import NeuroFlowError
from tests.faults import lossy
from tests.faults.proxy import CHUNK, Proxy
from tests.faults.recordings import scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Settings
from tests.faults.supervised import ROOT, Supervised
from tests.faults.workers import mean_worker
from tests.integration.tiny import SHAPE, PlayedRun

TR_S = 0.1
CATCH_UP = {"full": 20.0, "short": 2.0}
"""Times real time at which a sender must make up for an outage. A short one's twenty
volumes are a single burst; a stall of a busy machine makes it ten times as long."""

DELAY_S = 0.05
LARGE = (64, 64, 36)
SLICE = 512
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Case:
    """One run and the weather in which it is played."""

    name: str
    volumes: int
    weather: Callable[[Proxy, threading.Event], None]
    loss: float = 0.0
    has_outage: bool = False
    shape: tuple[int, int, int] = SHAPE


@dataclass
class Played:
    """What became of one run."""

    lost: int = 0
    disordered: int = 0
    answered: int = 0
    resets: int = 0
    dropped: int = 0
    waited_worst_ms: float = 0.0
    """From the end of acquisition until the server had it on record."""
    catch_up: float | None = None
    troubles: list[str] = field(default_factory=list)


def cases(settings: Settings) -> list[Case]:
    """Give the runs of a form: some seconds each, or some tens."""
    is_short = settings.form == "short"
    n_volumes, outage_s = (25, 2.0) if is_short else (400, 10.0)
    n_large, n_sliced = (20, 5) if is_short else (200, 50)

    def resets(proxy: Proxy, over: threading.Event) -> None:
        _resets(proxy, over, 0.5 if is_short else 2)

    return [
        Case("resets", n_volumes, resets),
        Case(
            "outage",
            round(outage_s / TR_S) + n_volumes,
            lambda proxy, over: _outage(proxy, over, outage_s),
            has_outage=True,
        ),
        Case("slices", n_volumes, _whole_slices),
        Case("large resets", n_large, resets, shape=LARGE),
        Case("large slices", n_sliced, _slices, shape=LARGE),
        Case("latency", n_volumes, _latency),
        Case("loss 1 %", 2 * n_volumes, no_weather, loss=0.01),
        Case("loss 5 %", 2 * n_volumes, no_weather, loss=0.05),
    ]


def no_weather(proxy: Proxy, over: threading.Event) -> None:
    """Leave the network as it is."""
    del proxy
    over.wait()


def _resets(proxy: Proxy, over: threading.Event, every_s: float) -> None:
    while not over.wait(every_s):
        proxy.reset()


def _outage(proxy: Proxy, over: threading.Event, outage_s: float) -> None:
    over.wait(1.0)
    proxy.weather.is_cut = True
    proxy.reset()
    over.wait(outage_s)
    proxy.weather.is_cut = False


def _slices(proxy: Proxy, over: threading.Event) -> None:
    proxy.weather.slices = SLICE
    over.wait()


def _whole_slices(proxy: Proxy, over: threading.Event) -> None:
    proxy.weather.slices = CHUNK
    over.wait()


def _latency(proxy: Proxy, over: threading.Event) -> None:
    proxy.weather.delay_s = DELAY_S
    over.wait()


def _sabotaged(proxy: Proxy, over: threading.Event) -> None:
    # One whole volume of the tiny run is some three hundred bytes on the wire.
    over.wait(1.0)
    proxy.weather.swallows = 2000
    over.wait()


def run(settings: Settings) -> Finding:
    """Play each case against a server of its own."""
    found: dict[str, Played] = {}
    has_namespace = lossy.can_be()
    with ExitStack() as stack:
        every = cases(settings)
        if settings.sabotage:
            # Who never sends again what was lost loses it with the line.
            stack.enter_context(mock.patch.object(Window, "resume", _forgetful))
            stack.enter_context(mock.patch.object(Window, "go_back", _nothing_due))
            every = [dataclasses.replace(every[0], weather=_sabotaged), every[1]]
        for case in every:
            with scratch() as folder:
                found[case.name] = (
                    _played_with_loss(case)
                    if case.loss and has_namespace
                    else played(case, folder, is_sound=not settings.sabotage)
                )
    figures: dict[str, int | float | str] = {
        "cases": len(found),
        "volumes": sum(case.volumes for case in every),
        "large_volumes": sum(case.volumes for case in every if case.shape == LARGE),
        "lost": sum(one.lost for one in found.values()),
        "disordered": sum(one.disordered for one in found.values()),
        "unanswered": sum(case.volumes - found[case.name].answered for case in every),
        "troubles": sum(len(one.troubles) for one in found.values()),
        "resets": sum(one.resets for one in found.values()),
        "packets_lost": sum(one.dropped for one in found.values()),
        "loss_by": "nftables" if has_namespace else "socket filter",
    }
    for name, one in found.items():
        figures[f"{name}: worst_wait_ms"] = round(one.waited_worst_ms, 1)
        if "loss" in name:
            figures[f"{name}: packets_lost"] = one.dropped
        if one.catch_up is not None:
            figures["catch_up"] = round(one.catch_up, 1)
    return Finding(
        figures,
        {
            "volumes": Bound(at_least=100),
            "large_volumes": Bound(at_least=1),
            "lost": NONE,
            "disordered": NONE,
            "unanswered": NONE,
            "troubles": NONE,
            "resets": Bound(at_least=3),
            "packets_lost": Bound(at_least=1),
            "catch_up": Bound(at_least=CATCH_UP[settings.form]),
        },
        [f"{n}: {line}" for n, one in found.items() for line in one.troubles],
    )


def _forgetful(self: Window, received: int) -> bool:
    del received
    self.sent = self.next
    return True


def _nothing_due(self: Window) -> None:
    """What is lost stays lost."""


def _played_with_loss(case: Case) -> Played:
    """Play in a namespace, whose loss is that of everything in it."""
    permille = str(round(case.loss * 1000))
    command = [sys.executable, "-m", lossy.__name__, str(case.volumes), permille]
    done = subprocess.run(
        ["unshare", "-n", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return Played(**json.loads(done.stdout))


def played(case: Case, folder: Path, *, is_sound: bool = True) -> Played:
    """Play one run through the proxy, and judge what is on record of it."""
    found, over = Played(), threading.Event()
    recorded = PlayedRun("run-1", case.volumes, tr_s=TR_S, shape=case.shape)
    config = ServeConfig(address="tcp://127.0.0.1:*", recording=str(folder / "log"))
    worker = mean_worker(folder / "loads", shape=case.shape).command
    with Supervised(config, worker=worker) as server:
        with Proxy(server.address, loss=case.loss) as proxy:
            weather = threading.Thread(
                target=case.weather, args=(proxy, over), name="weather"
            )
            weather.start()
            begin_s = time.monotonic()
            try:
                play(
                    recorded,
                    proxy.address,
                    run_start=run_start_from(recorded, budget_s=60.0),
                    spool=folder / "spool",
                    outage_s=PATIENCE_S if is_sound else 5.0,
                    is_cancelled=lambda: (
                        time.monotonic() - begin_s > 4 * PATIENCE_S + 2 * case.volumes
                    ),
                )
            except NeuroFlowError as error:
                found.troubles.append(f"sender: {error}")
            finally:
                over.set()
                weather.join()
        found.resets, found.dropped = proxy.resets, proxy.dropped
        if is_sound and not found.troubles:
            # A run that was not sent to its end has none to be heard.
            found.answered = _answered(server.address, found)
        ended = server.stop()
    found.troubles += [ended.failure] if ended.failure else []
    _judge(case, folder / "log", found)
    return found


def _answered(address: str, found: Played) -> int:
    try:
        outcomes = list(Client(address, run="run-1", timeout_s=PATIENCE_S))
    except ClientError as error:
        found.troubles.append(f"client: {error}")
        return 0
    volumes = [one for one in outcomes if isinstance(one, VolumeOutcome)]
    return sum(
        (one.volume_index, one.input, one.label) == (index, "OK", f"{index}")
        for index, one in enumerate(volumes)
    )


def _judge(case: Case, log: Path, found: Played) -> None:
    logged = [
        (item.log_ns, item.envelope.record)
        for folder in sorted({path.parent for path in log.rglob("*.mcap")})
        for item in scan_recording(folder)
        if isinstance(item, Logged) and isinstance(item.envelope.record, Volume)
    ]
    indices = [record.volume_index for _, record in logged]
    found.lost = case.volumes - len({*indices})
    found.disordered = sum(a >= b for a, b in itertools.pairwise(indices))
    waits = [at_ns - (record.acquired_ns or 0) for at_ns, record in logged]
    found.waited_worst_ms = max(waits, default=0) / 1e6
    if case.has_outage and logged:
        found.catch_up = _catch_up(logged, waits)


def _catch_up(logged: list[tuple[int, Volume]], waits: list[int]) -> float:
    """Divide what had piled up, in real time, by the time it took to get rid of it."""
    worst = max(range(len(logged)), key=waits.__getitem__)
    begin_ns = logged[worst][0]
    piled = [
        at_ns
        for at_ns, record in logged[worst:]
        if (record.acquired_ns or 0) <= begin_ns
    ]
    took_ns = max(piled[-1] - begin_ns, 1)
    return (len(piled) - 1) * TR_S * 1e9 / took_ns


FAULT = Fault(
    "network", "a sender with a spool plays over a network that resets and loses", run
)
