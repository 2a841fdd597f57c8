"""An engine with others behind it, which take over where it fails.

Nobody looks at an engine that takes over in mid-run, so it is judged before its first
answer counts, as every engine is when a model is opened.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

from runtime.buffers import Array
from runtime.engine import Engine
from runtime.errors import BackendError, NeuroFlowError

Opener = Callable[[], Engine]
Judge = Callable[[Engine], None]
_MAX_TROUBLE: Final = 480  # an outcome takes 512 characters of a reason


@final
class StandbyEngine:
    """One graph, computed by the first of several engines that does not fail."""

    def __init__(
        self, what: str, first: Engine, behind: Sequence[Opener], judge: Judge
    ) -> None:
        """Put engines in order.

        Args:
            what: Name of the graph, for the account of what failed.
            first: Computes, until it fails; judged already.
            behind: Each opens another engine of the same graph; called only when
                all before have failed, so that they take no memory until then. One
                that is of no use then is asked again when the next call fails.
            judge: Raises a `NeuroFlowError` where an engine does not compute the
                graph's golden vectors; no answer of such an engine is given.
        """
        self._what, self._engine, self._behind = what, first, list(behind)
        self._judge = judge
        self.name, self.version = first.name, first.version
        self.keeps_last = first.keeps_last
        self.troubles: tuple[str, ...] = ()
        """A line for every engine that failed and was replaced."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`.

        Raises:
            TensorMismatchError: Another name, shape or dtype.
            BackendError: No engine is left that works and computes what it must; says
                what each of them lacked.
        """
        try:
            return self._engine.run(inputs)
        except BackendError as error:
            failure = error
        refused: list[str] = []
        # One that is passed over stays: what it lacked, such as memory, may be there
        # when it is asked again, and it is judged again before it answers.
        for place, opened in enumerate(self._behind):
            try:
                engine = opened()
            except NeuroFlowError as error:
                refused.append(str(error))
                continue
            try:
                self._judge(engine)
                outputs = engine.run(inputs)
            except NeuroFlowError as error:
                refused.append(str(error))
                with contextlib.suppress(BackendError):
                    engine.close()
                continue
            del self._behind[place]
            self._take_over(engine, failure)
            return outputs
        if refused:
            raise BackendError("; ".join((str(failure), *refused))) from failure
        raise failure

    def _take_over(self, engine: Engine, failure: BackendError) -> None:
        line = f"ENGINE_FAILED {self._what}: {failure}"[:_MAX_TROUBLE]
        self.troubles = (*self.troubles, f"{line}; {engine.name} took over")
        # A library whose device is gone may fail once more.
        with contextlib.suppress(BackendError):
            self._engine.close()
        self._engine = engine
        self.name, self.version = engine.name, engine.version
        self.keeps_last = engine.keeps_last

    def close(self) -> None:
        """Close the engine that computes, and forget those behind it."""
        self._behind.clear()
        self._engine.close()
