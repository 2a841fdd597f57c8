"""One segment of a log as its writer holds it: an open file that only grows."""

import os
from pathlib import Path

from bci_bridge.segment import channel_record, chunk_parts, opening
from bci_bridge.wire import Envelope


class SegmentFile:
    """One open file; what it holds ends with a whole chunk or is cut there.

    Attributes:
        good_bytes: Where the last whole write ended.
    """

    def __init__(self, path: Path, *, is_spilt: bool) -> None:
        """Make the file, which must not exist.

        Args:
            path: Where it goes.
            is_spilt: That is not the log's own folder.

        Raises:
            OSError: It cannot be made or written.
        """
        self.path, self.is_spilt, self.good_bytes = path, is_spilt, 0
        self._channels: dict[str, tuple[int, bytes]] = {}
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self.write([opening()])
        except OSError:
            os.close(self.fd)
            path.unlink(missing_ok=True)
            raise

    def append(self, topic: str, order: int, log_ns: int, envelope: Envelope) -> None:
        """Write one message.

        Raises:
            OSError: Half of it may be in the file, beyond `good_bytes`.
        """
        number = len(self._channels) + 1
        if topic not in self._channels:
            self._channels[topic] = number, channel_record(number, topic)
        number, channel = self._channels[topic]
        self.write(chunk_parts(channel, number, order, log_ns, envelope))

    def write(self, parts: list[bytes]) -> None:
        """Write all of some byte strings.

        Raises:
            OSError: Half of them may be in the file, beyond `good_bytes`.
        """
        left = [memoryview(part) for part in parts if part]
        total = sum(map(len, left))
        while left:
            # A full disk shortens a write without an exception; the next one raises.
            written = os.writev(self.fd, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]
        self.good_bytes += total
