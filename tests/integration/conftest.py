"""Real sockets on loopback, and no test may leave one behind."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from bci_bridge.messages import RigNote
from bci_bridge.server import Endpoints, ServeConfig, ServeReport, serve
from tests.integration.tiny import MeanDecoder

_CONTEXTS: weakref.WeakSet[zmq.Context] = weakref.WeakSet()
"""All that were made; to look for them among all objects takes longer than a test."""


_make = zmq.Context.__init__


def _make_and_note(context: zmq.Context, *args: object, **kwargs: object) -> None:
    _make(context, *args, **kwargs)
    if type(context) is zmq.Context:
        _CONTEXTS.add(context)


zmq.Context.__init__ = _make_and_note


def _open_contexts() -> list[zmq.Context]:
    return [context for context in _CONTEXTS if not context.closed]


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    threads, contexts = set(threading.enumerate()), _open_contexts()

    yield

    more = set(threading.enumerate()) - threads
    for thread in more:
        # Libraries tell a thread to end and do not wait (a progress bar's, for one).
        thread.join(5)
    left = [thread.name for thread in more if thread.is_alive()]
    assert not left, f"threads left: {left}"
    more = [one for one in _open_contexts() if one not in contexts]
    assert not more, "ZeroMQ contexts left"


@dataclass
class Running:
    """A server in a thread."""

    endpoints: Endpoints
    stop: Callable[[], ServeReport]
    troubles: list[str]
    """What it said of itself."""

    @property
    def address(self) -> str:
        return self.endpoints.address


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers on free ports; they are stopped when the test is over."""
    with ExitStack() as stack:

        def start(
            decoder: object = None, rig: RigNote | None = None, **config: object
        ) -> Running:
            settings = {"address": "tcp://127.0.0.1:*", "recording": str(tmp_path)}
            ready, stopping = threading.Event(), threading.Event()
            endpoints: list[Endpoints] = []
            reports: list[ServeReport] = []
            troubles: list[str] = []

            def body() -> None:
                reports.append(
                    serve(
                        ServeConfig(**{**settings, **config}),
                        decoder or MeanDecoder(),
                        stopping.is_set,
                        lambda found: (endpoints.append(found), ready.set()),
                        rig=rig,
                        on_trouble=troubles.append,
                    )
                )

            thread = threading.Thread(target=body, name="server-under-test")
            thread.start()

            def stop() -> ServeReport:
                stopping.set()
                thread.join(10)
                return reports[0]

            stack.callback(lambda: (stopping.set(), thread.join(10)))
            assert ready.wait(10)
            return Running(endpoints[0], stop, troubles)

        yield start
