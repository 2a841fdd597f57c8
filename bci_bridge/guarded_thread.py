"""A thread without which its server must not go on."""

import threading
from collections.abc import Callable

from runtime.errors import GuardError


class GuardedThread:
    """Runs a body that ends only when it is told to; remembers why it ended before."""

    def __init__(self, name: str, what: str, body: Callable[[], None]) -> None:
        """Start at once.

        Args:
            name: Of the thread.
            what: What it does, for the error.
            body: Ends soon after its owner has told it to.
        """
        self._what, self._run = what, body
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._body, name=name)
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on without it.

        Raises:
            GuardError: It has ended.
        """
        if not self._thread.is_alive():
            raise GuardError(
                f"{self._what}: expected its thread to run, "
                f"found it dead: {self._failure!r}. Start the server again"
            ) from self._failure

    def join(self) -> None:
        """Wait for its end, once it is told to."""
        self._thread.join()

    def _body(self) -> None:
        try:
            self._run()
        # The entry of a thread: whatever ends it must end the server, by `check`.
        except Exception as error:
            self._failure = error
