"""The live system's front: `serve`, from a configuration and a decoder to outcomes.

`bci_bridge.loop` turns; here things are opened, closed in the right order, and signals
become a wish to stop.
"""

import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bci_bridge.endpoints import check_address
from bci_bridge.loop import Loop
from bci_bridge.messages import RigNote
from bci_bridge.recorder import Recorder
from bci_bridge.settings import Endpoints, ServeConfig, ServeReport
from bci_bridge.worker import Decoder
from runtime.errors import BackendError

__all__ = ["Endpoints", "ServeConfig", "ServeReport", "serve", "stop_on_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    config: ServeConfig,
    decoder: Decoder,
    stop: Callable[[], bool],
    on_ready: Callable[[Endpoints], None] | None = None,
    *,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    rig: RigNote | None = None,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> ServeReport:
    """Serve until `stop` says so; then end a run that is under way as aborted.

    Args:
        config: Where to listen and what to keep.
        decoder: Loaded and warm.
        stop: Asked at least every `bci_bridge.loop.POLL_MS`.
        on_ready: Called once, when peers can connect.
        clock_ns: The server's monotonic clock.
        rig: What the decoder computes with, to begin the log.
        on_trouble: Told once of each trouble that does not end the server.

    Raises:
        UsageError: If an address or the recording folder is not allowed.
        ArtifactError: If a key file is missing, damaged or open to others.
        BackendError: If an address cannot be bound, or nobody guards the sockets.
    """
    for address in (config.address, config.publish, config.replay):
        check_address(address, has_keys=config.keys is not None)
    with contextlib.ExitStack() as stack:
        recorder = None
        if config.recording is not None:
            recorder = Recorder(Path(config.recording))
            stack.callback(recorder.close)
        server = Loop(config, decoder, recorder, clock_ns, stack, rig)
        # What exists now lives as long as the server: no pause should look at it.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        try:
            while not server.has_held() and not stop():
                server.turn()
            if on_ready is not None and not stop():
                on_ready(server.endpoints)
            _turn(server, stop, on_trouble)
        except BackendError:
            server.end_run()
            raise
        return server.finish()


def _turn(
    server: Loop, stop: Callable[[], bool], on_trouble: Callable[[str], None]
) -> None:
    told = ""
    while not stop():
        server.turn()
        trouble, before = server.trouble, told
        told = trouble
        if trouble and trouble != before:
            on_trouble(trouble)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a `stop` that becomes true on SIGTERM or SIGINT; main thread only."""
    caught: list[int] = []

    def catch(number: int, _frame: object) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in _SIGNALS}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
