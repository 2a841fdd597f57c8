"""What a sender was given and has not yet got rid of: the window of one stream.

Pure: no socket, no clock, no file. The window bounds what is under way; what lies
beyond it waits, in memory or in the spool. A message leaves when the server has it on
disk, or has it at all where the server records nothing.

    first <= received <= sent <= next,   sent - received <= WINDOW
"""

from typing import Final

from bci_bridge.messages import Ack
from bci_bridge.wire import Envelope

WINDOW: Final = 16
"""Messages under way at once; bounds what the server must hold."""

KEEP_BYTES: Final = 256 << 20
"""Messages that are not yet on the server's disk wait here, or in a spool."""


class Window:
    """One stream's messages, by sequence.

    Attributes:
        first: The oldest message that is still held.
        received: The server has logged all sequences below.
        sent: The first message that is not under way.
        next: Sequence of the next message.
    """

    def __init__(self, first: int = 0, after: int = 0) -> None:
        """Begin, with the messages `first` up to `after` in a spool."""
        self.first = self.received = self.sent = first
        self.next = after
        self._durable = first
        self._is_recording = True
        self._kept: dict[int, Envelope] = {}
        self._kept_bytes = 0

    @property
    def has_memory(self) -> bool:
        """Another message may be kept in memory."""
        return self._kept_bytes < KEEP_BYTES

    @property
    def is_full(self) -> bool:
        """One more message could not be sent at once."""
        return self.next - self.received >= WINDOW

    @property
    def is_settled(self) -> bool:
        """Nothing is left to wait for."""
        return self.first >= self.next

    def push(self, envelope: Envelope, *, is_spooled: bool = False) -> None:
        """Take the message that has sequence `next`; a spooled one needs no memory."""
        if self.has_memory or not is_spooled:
            self._kept[self.next] = envelope
            self._kept_bytes += len(envelope.payload)
        self.next += 1

    def kept(self, sequence: int) -> Envelope | None:
        """Give a message that is held; None where the spool has it."""
        return self._kept.get(sequence)

    def due(self) -> range:
        """List what may be sent now, in order; `sent_up_to` tells that it was."""
        return range(self.sent, min(self.next, self.received + WINDOW))

    def sent_up_to(self, sequence: int) -> None:
        """Note that all below a sequence is under way."""
        self.sent = sequence

    def go_back(self) -> None:
        """Hold nothing for under way any more: all that is not received is due."""
        self.sent = self.received

    def acknowledge(self, ack: Ack) -> tuple[bool, bool]:
        """Let go of what the server has.

        Returns:
            Whether more is received, and whether more is durable, than before.
        """
        # No server can have what was never sent: a claim beyond that is cut.
        received = min(ack.received, self.next)
        is_received = received > self.received
        if is_received:
            self.received = received
            self.sent = max(self.sent, received)
        durable = min(ack.durable, self.received)
        is_durable = durable > self._durable
        if is_durable:
            self._durable = durable
        self._is_recording = ack.recording == "ON"
        settled = self._durable if self._is_recording else self.received
        if settled > self.first:
            self._let_go(settled)
        return is_received, is_durable

    def resume(self, received: int) -> bool:
        """Go on where a server stands that has just greeted.

        It may have less than it acknowledged: a power cut takes what it had not synced.

        Returns:
            False, and nothing is changed, where what it expects next is not held.
        """
        if not self.first <= received <= self.next:
            return False
        self.received = self.sent = received
        return True

    def _let_go(self, settled: int) -> None:
        for sequence in range(self.first, settled):
            envelope = self._kept.pop(sequence, None)
            if envelope is not None:
                self._kept_bytes -= len(envelope.payload)
        self.first = settled
