"""A DICOM node of the console: it pushes images here (C-STORE), and no share is needed.

MR Image Storage and Enhanced MR Image Storage, uncompressed; C-ECHO answers. An image
is kept in memory until it is read: where there is no room the console hears "out of
resources" (PS3.4, table B.2-1) and knows that it must send again. DICOM encrypts
nothing, and a calling title is a word that anybody can say: beyond loopback this is
for the scanner's own network.
"""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    EnhancedMRImageStorage,
    MRImageStorage,
    Verification,
)

from bci_bridge.sources.dicom_elements import EXPLICIT, IMPLICIT, MAX_FILE_BYTES
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.dicom_values import IncompleteError
from bci_bridge.sources.listening import Place
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError, UsageError

STORED: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700

MAX_PDU_BYTES: Final = 1 << 17
MAX_PEERS: Final = 8
"""Connections at a time: a console needs one or two."""
HALF_SENT_S: Final = 10.0
"""A peer that stops in the middle of a message is cut off."""
SILENT_S: Final = 3600.0
"""A console may keep a connection through a session."""
HANDSHAKE_S: Final = 5.0
_READ: Final = "recv"
"""Of pynetdicom's AssociationSocket, which reads as many bytes as a peer announces."""
GOODBYE_S: Final = 2.0
"""A console that has sent its last image still has to say so."""
ROOM_S: Final = 2.0
"""The console waits for its answer meanwhile; then it hears that there is no room."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where a console finds this service, and which console may.

    Raises:
        UsageError: A title or address is none, or anybody could push.
    """

    place: Place
    title: str = "NEUROFLOW"
    callers: tuple[str, ...] = ()
    """Application entity titles that may push; empty: all, on loopback only."""
    room_bytes: int = 1 << 28
    """For images that wait to be read."""

    def __post_init__(self) -> None:
        for title in (self.title, *self.callers):
            if not (0 < len(title.strip()) <= 16 and _is_title(title)):
                raise UsageError(
                    "AE title: expected 1 to 16 printable characters without backslash,"
                    f" found {title!r}"
                )
        if self.place.is_plain and not self.callers:
            raise UsageError(
                f"--listen: expected loopback, found {self.place}. Other addresses need"
                " the console's own title: --callers TITLE"
            )


class DicomStore:
    """A source that consoles push to.

    Args:
        node: Where it listens.
        receiver: What becomes of a file.
        clock_s: A clock that never steps.

    Raises:
        ScanError: The port is taken, or the address is not this machine's.
    """

    def __init__(
        self,
        node: Node,
        receiver: DicomReceiver,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receiver = receiver
        self._clock_s = clock_s
        self._room = _Room(node.room_bytes)
        self._arrivals: deque[ScannedVolume | Refused] = deque()
        self._count = 0
        self._entity = _entity(node)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _opened, [self._entity]),
            (evt.EVT_CONN_CLOSE, _closed),
            (evt.EVT_C_STORE, _stored, [self._room]),
        ]
        try:
            server = self._entity.start_server(
                (node.place.host, node.place.port), block=False, evt_handlers=handlers
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ScanError(
                f"{node.place}: expected a free port, found: {reason}."
                " Stop the other program or give another port with --listen"
            ) from error
        port = server.server_address[1] if server else node.place.port
        self.place = Place(node.place.host, port)
        """Where it listens; the port is of interest where 0 was asked for."""

    def poll(self, wait_s: float) -> ScannedVolume | Refused | None:
        """Return the next volume of what was pushed."""
        end_s = self._clock_s() + wait_s
        while not self._arrivals:
            self._arrivals.extend(self._receiver.overdue(self._clock_s()))
            if self._arrivals:
                break
            data = self._room.take(end_s - self._clock_s())
            if data is None:
                return None
            self._count += 1
            what = f"image {self._count}"
            try:
                found = self._receiver.take(data, what, self._clock_s())
            except IncompleteError as error:
                found = [Refused(what, str(error))]
            self._arrivals.extend(found)
            if self._clock_s() > end_s:
                break  # many images that are left out: the rest at the next look
        return self._arrivals.popleft() if self._arrivals else None

    def close(self) -> None:
        """Let the console release what it holds, for a moment, and free the port."""
        end_s = self._clock_s() + GOODBYE_S
        while self._entity.active_associations and self._clock_s() < end_s:
            time.sleep(0.01)
        self._entity.shutdown()


class _Room:
    """Images between the threads that receive them and the one that reads them."""

    def __init__(self, room_bytes: int) -> None:
        self._free_bytes = room_bytes
        self._images: deque[bytes] = deque()
        self._changed = threading.Condition()

    def put(self, data: bytes, wait_s: float) -> bool:
        """Keep an image, or say that there is no room; an empty room takes any one."""
        with self._changed:
            has_room = self._changed.wait_for(
                lambda: len(data) <= self._free_bytes or not self._images, wait_s
            )
            if has_room:
                self._free_bytes -= len(data)
                self._images.append(data)
                self._changed.notify_all()
        return has_room

    def take(self, wait_s: float) -> bytes | None:
        """Return the oldest image, if one comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._images), max(wait_s, 0.0))
            if not self._images:
                return None
            data = self._images.popleft()
            self._free_bytes += len(data)
            self._changed.notify_all()
            return data


class _Bounded:
    """Reads of a connection, cut off where a peer announces or sends too much."""

    def __init__(self, read: Callable[[int], bytearray], line: socket.socket) -> None:
        self._read = read
        self.line = line
        self.left_bytes = MAX_FILE_BYTES

    def __call__(self, count: int) -> bytearray:
        self.left_bytes -= count
        if count > MAX_PDU_BYTES or self.left_bytes < 0:
            # The caller takes it for a connection that broke, and ends it.
            raise OSError("more than a console sends")
        return self._read(count)


def _entity(node: Node) -> AE:
    entity = AE(node.title)
    for image in (MRImageStorage, EnhancedMRImageStorage):
        entity.add_supported_context(image, [EXPLICIT, IMPLICIT])
    entity.add_supported_context(Verification, [EXPLICIT, IMPLICIT])
    entity.require_called_aet = True
    entity.require_calling_aet = list(node.callers)
    entity.maximum_associations = MAX_PEERS
    entity.maximum_pdu_size = MAX_PDU_BYTES
    entity.acse_timeout = HANDSHAKE_S
    entity.network_timeout = SILENT_S
    return entity


def _opened(event: evt.Event, entity: AE) -> None:
    line = event.assoc.dul.socket
    if line is None or line.socket is None:
        return
    # Before it has said who it is, a peer costs a thread: there is a limit to that.
    if len(entity.active_associations) >= 2 * MAX_PEERS:
        line.socket.shutdown(socket.SHUT_RDWR)
        return
    line.socket.settimeout(HALF_SENT_S)
    setattr(line, _READ, _Bounded(line.recv, line.socket))


def _closed(event: evt.Event) -> None:
    bounded = getattr(event.assoc.dul.socket, _READ, None)
    if isinstance(bounded, _Bounded):
        # pynetdicom leaves a socket open whose peer was the first to go.
        bounded.line.close()


def _stored(event: evt.Event, room: _Room) -> int:
    bounded = getattr(event.assoc.dul.socket, _READ, None)
    if isinstance(bounded, _Bounded):
        bounded.left_bytes = MAX_FILE_BYTES
    kept = room.put(event.encoded_dataset(), ROOM_S)
    return STORED if kept else OUT_OF_RESOURCES


def _is_title(title: str) -> bool:
    return title.isascii() and title.isprintable() and "\\" not in title
