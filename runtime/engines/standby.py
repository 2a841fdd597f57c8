"""An engine with others behind it, which take over where it fails."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

from runtime.engine import Array, Engine
from runtime.errors import BackendError

Opener = Callable[[], Engine]
_MAX_TROUBLE: Final = 480  # an outcome takes 512 characters of a reason


@final
class StandbyEngine:
    """One graph, computed by the first of several engines that does not fail."""

    def __init__(self, what: str, first: Engine, behind: Sequence[Opener]) -> None:
        """Put engines in order.

        Args:
            what: Name of the graph, for the account of what failed.
            first: Computes, until it fails.
            behind: Each opens another engine of the same graph; called only when
                all before have failed, so that they take no memory until then.
        """
        self._what, self._engine, self._behind = what, first, list(behind)
        self.name, self.version = first.name, first.version
        self.troubles: tuple[str, ...] = ()
        """A line for every engine that failed and was replaced."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`.

        Raises:
            TensorMismatchError: Another name, shape or dtype.
            BackendError: The last engine failed.
        """
        try:
            return self._engine.run(inputs)
        except BackendError as error:
            failure = error
        while self._behind:
            try:
                engine = self._behind.pop(0)()
            except BackendError:
                continue
            try:
                outputs = engine.run(inputs)
            except BackendError:
                engine.close()
                continue
            self._take_over(engine, failure)
            return outputs
        raise failure

    def _take_over(self, engine: Engine, failure: BackendError) -> None:
        line = f"ENGINE_FAILED {self._what}: {failure}"[:_MAX_TROUBLE]
        self.troubles = (*self.troubles, f"{line}; {engine.name} took over")
        # A library whose device is gone may fail once more.
        with contextlib.suppress(BackendError):
            self._engine.close()
        self._engine = engine
        self.name, self.version = engine.name, engine.version

    def close(self) -> None:
        """Close the engine that computes, and forget those behind it."""
        self._behind.clear()
        self._engine.close()
