"""Calls between volumes that nobody asked for, so that a GPU does not fall asleep.

A volume comes every second or two. In between a GPU lowers its clocks, and the first
kernels of the next call are slow. Repeating the last call keeps them up, at the price
of power and of the wait for a call that is under way.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol, final, runtime_checkable

from runtime.buffers import Array
from runtime.engine import Engine
from runtime.errors import BackendError

PERIOD_S: Final = 0.05
"""Between two calls. How long a GPU keeps its clocks depends on the model; this is well
below what idle GPUs take to lower them, and was not measured."""


@runtime_checkable
class Warmable(Engine, Protocol):
    """An engine that can repeat its last call."""

    def warm(self) -> None:
        """Compute once more what is in the buffers."""
        ...


@final
class WarmEngine:
    """An engine that is called while nobody calls it, from a thread of its own."""

    def __init__(
        self,
        engine: Warmable,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        """Begin.

        Args:
            engine: Closed with this one.
            pause: Given what ends it and seconds, waits for whichever comes first and
                says whether it was the end.
        """
        self.name, self.version = engine.name, engine.version
        self.keeps_last = engine.keeps_last
        self._engine, self._pause = engine, pause
        self._over = threading.Event()
        self._is_used = threading.Lock()
        self._thread = threading.Thread(
            target=self._keep_warm, name="keep-warm", daemon=True
        )
        self._thread.start()

    def _keep_warm(self) -> None:
        while not self._pause(self._over, PERIOD_S):
            with self._is_used:
                if self._over.is_set():
                    return
                try:
                    self._engine.warm()
                except BackendError:
                    # The next call will meet the same, where it can be answered for.
                    return

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`.

        A repeated call writes the same outputs as the last one, so that what was
        returned stays as it is.
        """
        with self._is_used:
            return self._engine.run(inputs)

    def close(self) -> None:
        """End the thread, then give the engine's memory back."""
        self._over.set()
        self._thread.join()
        self._engine.close()
