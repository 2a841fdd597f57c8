"""What a sender has sent and not yet got rid of: the window of one stream.

Pure: no socket, no clock. A message leaves when the server has it on disk, or has it
at all where the server records nothing.
"""

from collections import deque
from typing import Final

from bci_bridge.messages import Ack
from bci_bridge.wire import Envelope

WINDOW: Final = 16
"""Messages under way at once; bounds what the server must hold."""

KEEP_BYTES: Final = 256 << 20
"""Messages that are not yet on the server's disk wait here; then the sender blocks."""


class Window:
    """One stream's messages, by sequence.

    Attributes:
        next: Sequence of the next message.
        received: The server has logged all sequences below.
        durable: The server has synced all sequences below.
    """

    def __init__(self) -> None:
        self.next = self.received = self.durable = 0
        self._is_recording = True
        self._kept: deque[Envelope] = deque()
        self._kept_bytes = 0

    @property
    def has_room(self) -> bool:
        """Another message may be sent."""
        return self.next - self.received < WINDOW and self._kept_bytes < KEEP_BYTES

    @property
    def is_settled(self) -> bool:
        """Nothing is left to wait for."""
        return self._settled >= self.next

    @property
    def _settled(self) -> int:
        return self.durable if self._is_recording else self.received

    def push(self, envelope: Envelope) -> None:
        """Keep the message that has sequence `next`."""
        self._kept.append(envelope)
        self._kept_bytes += len(envelope.payload)
        self.next += 1

    def acknowledge(self, ack: Ack) -> tuple[bool, bool]:
        """Let go of what the server has.

        Returns:
            Whether more is received, and whether more is durable, than before.
        """
        # No server can have what was never sent: a claim beyond that is cut.
        received = max(self.received, min(ack.received, self.next))
        durable = max(self.durable, min(ack.durable, received))
        news = received > self.received, durable > self.durable
        self.received, self.durable = received, durable
        self._is_recording = ack.recording == "ON"
        while self._kept and self.next - len(self._kept) < self._settled:
            self._kept_bytes -= len(self._kept.popleft().payload)
        return news

    def unacknowledged(self) -> list[Envelope]:
        """List what must be sent again, in order."""
        first = self.next - len(self._kept)
        return [
            envelope
            for sequence, envelope in enumerate(self._kept, first)
            if sequence >= self.received
        ]
