"""A real server for faults that need one: its address, and how to stop it.

The one place that knows how a server is started; everything else speaks to the address.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bci_bridge.server import Endpoints, ServeConfig, ServeReport, serve
from tests.faults.mutate import deaf_to_utf8
from tests.integration.tiny import MeanDecoder


@dataclass
class Rig:
    """A server that runs."""

    address: str
    stop: Callable[[], "Stopped"]
    """Stop it if it still runs; may be called again."""


@dataclass(frozen=True)
class Stopped:
    """How a server ended."""

    report: ServeReport | None
    failure: str
    """What ended it before it was told to; empty where nothing did."""


def start_server(recording: Path, *, is_broken: bool = False) -> Rig:
    """Start a server with a tiny decoder on free ports of the loopback interface.

    Args:
        recording: Folder for its log.
        is_broken: Let the first header that is no UTF-8 end it.
    """
    ready, stopping = threading.Event(), threading.Event()
    endpoints: list[Endpoints] = []
    reports: list[ServeReport] = []
    failures: list[str] = []
    broken = deaf_to_utf8()

    def is_ready(found: Endpoints) -> None:
        endpoints.append(found)
        ready.set()

    def body() -> None:
        # As fast as it goes: how much a peer may say is not what is tried here.
        config = ServeConfig(
            address="tcp://127.0.0.1:*",
            recording=str(recording),
            rate_per_s=1_000_000,
            burst=1_000_000,
        )
        try:
            reports.append(serve(config, MeanDecoder(), stopping.is_set, is_ready))
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
        finally:
            ready.set()

    if is_broken:
        broken.start()
    thread = threading.Thread(target=body, name="server-under-test")
    thread.start()
    is_stopped = False

    def stop() -> Stopped:
        nonlocal is_stopped
        stopping.set()
        thread.join(10)
        if is_broken and not is_stopped:
            broken.stop()
        is_stopped = True
        if thread.is_alive():
            failures.append("expected to stop within 10 s, found still running")
        return Stopped(reports[0] if reports else None, "; ".join(failures))

    if not ready.wait(10) or not endpoints:
        raise RuntimeError(f"server: expected to start, found {stop().failure}")
    return Rig(endpoints[0].address, stop)
