"""What one connection says, apart from the socket that it comes through."""

from collections.abc import Callable, Generator

from bci_bridge.sources.source import Arrival

Conversation = Generator[int | bytes, bytes, None]
"""Yields how many bytes it needs next, or bytes to send, for which it is given none.
`EOFError` is thrown into one whose peer has left between two messages."""

NewConversation = Callable[[str, list[Arrival]], Conversation]
"""Begins one: a name for the connection, and where its volumes are to go."""
