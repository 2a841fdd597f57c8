"""A whole server in one thread: what `bci_bridge.supervisor` does with processes.

For programs that embed a server, and for tests. The same three parts take turns; they
meet in the same logs.
"""

import contextlib
import gc
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from bci_bridge.admission import Admission
from bci_bridge.answerer import Answerer
from bci_bridge.decoder import Decoder
from bci_bridge.endpoints import check_address
from bci_bridge.ingress import Ingress
from bci_bridge.messages import RigNote
from bci_bridge.places import held_places
from bci_bridge.publisher import Publisher
from bci_bridge.settings import (
    WORKERS,
    Endpoints,
    ServeConfig,
    ServeReport,
    report_from,
)
from bci_bridge.unread import UnreadTold
from runtime.errors import BackendError

__all__ = ["Endpoints", "ServeConfig", "ServeReport", "serve"]


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
        stop: Asked at least every `bci_bridge.ingress.POLL_MS`.
        on_ready: Called once, when peers can connect.
        clock_ns: The server's monotonic clock.
        rig: What the decoder computes with, for the record.
        on_trouble: Told once of each trouble that does not end the server.

    Raises:
        UsageError: If an address or the recording folder is not allowed.
        ArtifactError: If a key file is missing, damaged or open to others.
        BackendError: If an address cannot be bound, or nobody guards the sockets.
    """
    for address in (config.address, config.publish, config.replay):
        check_address(address, has_keys=config.keys is not None)
    with contextlib.ExitStack() as stack:
        server = _Parts(config, decoder, clock_ns, rig, stack, on_trouble)
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
            server.finish(is_urgent=True)
            raise
        server.finish()
        return server.report()


class _Parts:
    """Ingress, worker and publisher, and what they sleep on together."""

    def __init__(
        self,
        config: ServeConfig,
        decoder: Decoder,
        clock_ns: Callable[[], int],
        rig: RigNote | None,
        stack: contextlib.ExitStack,
        tell: Callable[[str], None],
    ) -> None:
        recording = None if config.recording is None else Path(config.recording)
        places = stack.enter_context(held_places(recording, tell))
        self._publisher = Publisher(config, places, clock_ns, stack)
        self._ingress = Ingress(
            config,
            places,
            self._publisher.outlet,
            Admission.of(decoder),
            clock_ns,
            stack,
        )
        self._answerer = Answerer(WORKERS[0], places, decoder, clock_ns, stack, rig)
        outlet = self._publisher.outlet
        self.endpoints = Endpoints(
            address=self._ingress.endpoint,
            publish=outlet.publish,
            replay=outlet.replay,
        )
        self._poller = zmq.Poller()
        for one in (
            self._ingress.socket,
            self._answerer.socket,
            *self._publisher.sockets,
        ):
            self._poller.register(one, zmq.POLLIN)

    def turn(self) -> None:
        """Sleep until something happens, and deal with all of it."""
        parts = (self._ingress, self._answerer, self._publisher)
        self._poller.poll(min(part.sleep_ms() for part in parts))
        for part in parts:
            part.turn()

    def has_held(self) -> bool:
        """Say whether the attacks on itself have failed, and somebody answers."""
        is_safe = self._ingress.has_held() and self._publisher.has_held()
        return is_safe and self._answerer.is_active

    @property
    def trouble(self) -> str:
        """What must not stay silent, but stops nothing; empty while all is well."""
        return self._ingress.trouble or self._publisher.trouble

    @property
    def unread(self) -> dict[str, int]:
        """By log, messages that were logged and cannot be read."""
        return {**self._publisher.unread, **self._answerer.unread}

    def finish(self, *, is_urgent: bool = False) -> None:
        """End the run, and give out its last outcomes."""
        self._ingress.finish(is_urgent=is_urgent)
        self._answerer.drain()
        self._publisher.turn()

    def report(self) -> ServeReport:
        """Account for everything."""
        came, went = self._ingress.report(), self._publisher.report()
        return report_from(came, went)


def _turn(
    server: _Parts, stop: Callable[[], bool], on_trouble: Callable[[str], None]
) -> None:
    told, unread = "", UnreadTold()
    while not stop():
        server.turn()
        for loss in unread.news(server.unread):
            on_trouble(loss)
        trouble, before = server.trouble, told
        told = trouble
        if trouble and trouble != before:
            on_trouble(trouble)
