"""A sender's line to the simulated server, over a network that is played."""

from collections import deque
from collections.abc import Callable, Iterator

from bci_bridge.header import Header
from bci_bridge.line import Greeting, Line
from bci_bridge.messages import Goodbye, Hello, Welcome
from bci_bridge.wire import Envelope, encode
from runtime.errors import BackendError
from tests.faults.world import MS, Server, World

QUICKEST_NS = 50_000
"""The shortest that a message is under way; `SPREAD_NS` is what chance adds at most."""

SPREAD_NS = 3 * MS - QUICKEST_NS


class SimulatedLine(Line):
    """One connection after another; a message of an earlier one is lost.

    What is logged travels as the bytes of the wire; answers, of which nothing is kept,
    as the records that they are.
    """

    def __init__(self, world: World, server: Server, name: str) -> None:
        # Nothing of a real line is made: every method is this class's own.
        self.address = "simulated"
        self._world, self._server, self._name = world, server, name
        self._inbox: deque[Header] = deque()
        self._cut_until_ns = 0
        # A stream each way: what is sent later does not arrive earlier.
        self._last_there_ns = self._last_back_ns = 0
        self._connection, self._number = 0, 0
        self._has_left = False
        self._peer = b""
        self.reconnect()

    @property
    def is_closed(self) -> bool:
        """`close` was called."""
        return self._has_left

    def reconnect(self) -> None:
        """Begin anew, under another routing id."""
        self._server.ways.pop(self._peer, None)
        self._number += 1
        self._peer = f"{self._name}-{self._number}".encode()
        self._server.ways[self._peer] = self._answer
        self._connection += 1
        self._inbox.clear()

    def cut(self, for_ns: int) -> None:
        """Lose what is under way; nothing passes for a while."""
        self._cut_until_ns = self._world.now_ns + for_ns
        self._connection += 1

    def transmit(self, envelope: Envelope) -> bool:
        """Let a message go its way; False where the connection is down."""
        world = self._world
        if world.now_ns < self._cut_until_ns:
            return False
        at_ns = world.now_ns + QUICKEST_NS + int(world.dice.random() * SPREAD_NS)
        if at_ns < self._last_there_ns:
            at_ns = self._last_there_ns
        self._last_there_ns = at_ns
        frames = envelope.header, envelope.payload
        world.at(at_ns, self._reach_server, self._connection, frames)
        return True

    def _reach_server(self, connection: int, frames: tuple[bytes, bytes]) -> None:
        if connection == self._connection and not self._has_left:
            self._server.receive(self._peer, frames)

    def _answer(self, record: Header) -> None:
        world = self._world
        if world.now_ns < self._cut_until_ns:
            return
        at_ns = world.now_ns + QUICKEST_NS + int(world.dice.random() * SPREAD_NS)
        if at_ns < self._last_back_ns:
            at_ns = self._last_back_ns
        self._last_back_ns = at_ns
        world.at(at_ns, self._reach_sender, self._connection, record)

    def _reach_sender(self, connection: int, record: Header) -> None:
        if connection == self._connection and not self._has_left:
            self._inbox.append(record)

    def poll(self, timeout_ms: int) -> bool:
        """Let time pass until an answer is there."""
        self._world.run_until(self._world.now_ns + timeout_ms * MS, self._inbox)
        return bool(self._inbox)

    def answers(self) -> Iterator[Header]:
        """Read what has arrived."""
        while self._inbox:
            yield self._inbox.popleft()

    def greet(
        self,
        hello: Hello,
        timeout_ns: int,
        clock_ns: Callable[[], int],
        is_cancelled: Callable[[], bool],
    ) -> Greeting:
        """Present the sender until the server answers."""
        del is_cancelled
        begin_ns = clock_ns()
        while clock_ns() < begin_ns + timeout_ns:
            self.transmit(encode(hello))
            if self.poll(100):
                for record in self.answers():
                    if isinstance(record, Welcome):
                        # Late or doubled, it may answer any of them: no later than
                        # the first.
                        return Greeting(record, begin_ns, clock_ns())
        raise BackendError("simulated: expected an answer, found none")

    def close(self) -> None:
        """Say goodbye."""
        if not self._has_left:
            self.transmit(encode(Goodbye()))
        self._world.run_until(self._world.now_ns + 20 * MS)
        self._has_left = True
        self._server.ways.pop(self._peer, None)
