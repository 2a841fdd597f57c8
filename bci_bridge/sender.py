"""The sending end: a window of messages, cumulative acknowledgements, resending.

Blocking and single-threaded: whoever sends also turns the crank, by sending, by
`Sender.pump` while waiting, and by `Sender.close`. A message is kept until the server
says that it is on disk (or that it records nothing), and is sent again, with all after
it, when acknowledgements stand still.
"""

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final
from uuid import uuid4

import numpy as np
import zmq
from jaxtyping import Shaped
from msgspec import structs

from bci_bridge.header import Header, Role, VoxelType
from bci_bridge.keyring import Credentials
from bci_bridge.messages import (
    Ack,
    Event,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    Reject,
    RunEnd,
    RunStart,
    Shown,
    Trigger,
    Volume,
    Welcome,
)
from bci_bridge.window import WINDOW, Window
from bci_bridge.wire import Envelope, checked, decode, encode
from runtime.errors import (
    BackendError,
    NeuroFlowError,
    PeerError,
    TensorMismatchError,
    UsageError,
)

RESEND_NS: Final = 50_000_000
"""Without progress for this long, all that is unacknowledged is sent again."""

GOODBYE_MS: Final = 200
"""How long a farewell may take to leave."""

HEARTBEAT_NS: Final = 250_000_000
_VOXEL_TYPES: Final[dict[str, VoxelType]] = {
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "float32": "f4",
}
_HARMLESS = frozenset({"BAD_CRC", "BAD_HEADER", "BAD_SIZE", "BAD_PARTS"})
"""Damage on the way: sending again heals it."""


class Sender:
    """One stream of one run; use as a context manager or call `close`.

    Attributes:
        refusals: REJECTs of messages whose content the server does not use.
        welcome: What the server said when the connection was made.
        resent: Messages that were sent more than once.
    """

    def __init__(
        self,
        address: str,
        run: RunStart,
        *,
        role: Role = "scanner",
        stream: str | None = None,
        timeout_s: float = 10.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        is_cancelled: Callable[[], bool] = lambda: False,
        credentials: Credentials | None = None,
    ) -> None:
        """Connect, and begin the run unless the role is ``stimulus``.

        Args:
            address: Where the server listens.
            run: The run; its header fields but `run` are filled in here.
            role: What this sender may say.
            stream: Name of the stream; that of the role by default.
            timeout_s: How long the server may be silent.
            clock_ns: Monotonic clock.
            is_cancelled: Asked while waiting for the server; True gives up.
            credentials: This device's key and the server's, where it asks for keys.

        Raises:
            BackendError: If no server answers, or the wait was cancelled.
            PeerError: If the server refuses the stream or the run.
        """
        self.refusals: list[Reject] = []
        self.resent = 0
        self._run, self._role, self._stream = run, role, stream or role
        self._timeout_ns = round(timeout_s * 1e9)
        self._address, self._clock_ns = address, clock_ns
        self._is_cancelled, self._credentials = is_cancelled, credentials
        self._window = Window()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        # Progress: of what is received, or since it was last sent again.
        self._progress_ns = self._advanced_ns = self._sent_ns = clock_ns()
        self._volumes = 0
        try:
            self._connect()
            self.welcome = self._greet()
            if role != "stimulus":
                self._send(run)
                self._wait(lambda: self._window.received > 0)
        except BaseException:
            self._hang_up()
            raise

    def __enter__(self) -> "Sender":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, NeuroFlowError):
            self._hang_up()
        else:
            with contextlib.suppress(NeuroFlowError):
                self.close(aborted=True)

    def volume(
        self, volume_index: int, volume: Shaped[np.ndarray, "x y z"], acquired_ns: int
    ) -> None:
        """Send one acquisition; blocks while the window is full.

        Args:
            volume_index: Which acquisition it is, from 0.
            volume: int16, uint16, int32 or float32.
            acquired_ns: End of its acquisition on this host's monotonic clock.

        Raises:
            TensorMismatchError: If the dtype cannot be sent.
            PeerError: If the server refuses the stream.
            BackendError: If the server falls silent.
        """
        dtype = _VOXEL_TYPES.get(volume.dtype.newbyteorder("=").name)
        if dtype is None:
            raise TensorMismatchError(
                "volume", expected="/".join(_VOXEL_TYPES), found=str(volume.dtype)
            )
        x, y, z = volume.shape
        record = Volume(
            volume_index=volume_index,
            acquired_ns=acquired_ns,
            dtype=dtype,
            shape=(x, y, z),
        )
        payload = np.ascontiguousarray(volume, dtype=f"<{dtype}").tobytes()
        self._volumes = max(self._volumes, volume_index + 1)
        self._send(record, payload)

    def missing(self, volume_index: int, reason: str = "") -> None:
        """Say that an acquisition will never come."""
        self._volumes = max(self._volumes, volume_index + 1)
        self._send(Missing(volume_index=volume_index, reason=reason))

    def event(
        self,
        trial_id: str,
        onset_s: float,
        duration_s: float,
        *,
        stimulus_id: str = "",
        shown_ns: int | None = None,
    ) -> None:
        """Announce a presentation; times count from the start of volume 0."""
        self._send(
            Event(
                trial_id=trial_id,
                onset_s=onset_s,
                duration_s=duration_s,
                stimulus_id=stimulus_id,
                shown_ns=shown_ns,
            )
        )

    def trigger(self, volume_index: int, pulsed_ns: int) -> None:
        """Pass on the scanner's pulse."""
        self._send(Trigger(volume_index=volume_index, pulsed_ns=pulsed_ns))

    def shown(self, what: str, shown_ns: int, trial_id: str = "") -> None:
        """Put on record what reached the participant."""
        self._send(Shown(what=what, shown_ns=shown_ns, trial_id=trial_id))

    def pump(self, timeout_ms: int = 0) -> None:
        """Wait for the server's answers, send again what is lost, show life."""
        if self._socket.poll(timeout_ms):
            self._read()
        now_ns = self._clock_ns()
        if self._window.unacknowledged() and now_ns - self._progress_ns > RESEND_NS:
            self._resend(now_ns)
        if now_ns - self._sent_ns > HEARTBEAT_NS:
            self._transmit(encode(Heartbeat(stream=self._stream, sent_ns=now_ns)))

    def close(self, count: int | None = None, *, aborted: bool = False) -> None:
        """End the run, wait until all is on the server's disk, and disconnect.

        Args:
            count: Acquisitions made; by default up to the highest index sent.
            aborted: The run was broken off.
        """
        if self._socket.closed:
            return
        try:
            if self._role != "stimulus":
                end = self._volumes if count is None else count
                self._send(RunEnd(count=end, aborted=aborted))
            self._wait(lambda: self._window.is_settled)
        finally:
            self._hang_up()

    def _connect(self) -> None:
        options: dict[int, int | bytes] = {
            zmq.ROUTING_ID: f"{self._stream}-{uuid4().hex[:12]}".encode(),
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.RECONNECT_IVL: 10,
            zmq.RECONNECT_IVL_MAX: 100,
            zmq.SNDHWM: 2 * WINDOW,
        }
        if self._address.startswith("tcp://["):
            options[zmq.IPV6] = 1
        if self._credentials is not None:
            pair = self._credentials.pair
            options[zmq.CURVE_PUBLICKEY] = pair.public_key.encode()
            options[zmq.CURVE_SECRETKEY] = pair.secret_key.encode()
            options[zmq.CURVE_SERVERKEY] = self._credentials.server_key.encode()
        for option, value in options.items():
            self._socket.setsockopt(option, value)
        try:
            self._socket.connect(self._address)
        except zmq.ZMQError as error:
            raise UsageError(
                f"address {self._address!r}: expected tcp://HOST:PORT or ipc://PATH, "
                f"found {error.strerror}"
            ) from error

    def _greet(self) -> Welcome:
        hello = Hello(stream=self._stream, role=self._role, software="neuroflow-rt")
        deadline_ns = self._clock_ns() + self._timeout_ns
        refusal: PeerError | None = None
        while self._clock_ns() < deadline_ns:
            if self._is_cancelled():
                raise BackendError(
                    f"server {self._address}: expected an answer, "
                    "found none before the wait was cancelled"
                )
            self._transmit(encode(hello))
            if not self._socket.poll(100):
                continue
            answer = decode(self._socket.recv_multipart()).record
            if isinstance(answer, Welcome):
                return answer
            if isinstance(answer, Reject):
                refusal = PeerError(answer.reason, answer.detail)
                if answer.reason != "BUSY":
                    break
                self._socket.poll(50)  # the other sender may be about to leave
        if refusal is not None:
            raise refusal
        remedy = "Is it running?"
        if self._credentials is not None:
            remedy += " If so, is this key allowed, and is the server's key right?"
        raise BackendError(
            f"server {self._address}: expected an answer within "
            f"{self._timeout_ns / 1e9:g} s, found none. {remedy}"
        )

    def _send(self, record: Header, payload: bytes = b"") -> None:
        self._wait(lambda: self._window.has_room)
        now_ns = self._clock_ns()
        if self._window.received == self._window.next:
            self._progress_ns = now_ns
        filled = checked(
            structs.replace(
                record,
                run=self._run.run,
                stream=self._stream,
                sequence=self._window.next,
                sent_ns=now_ns,
            )
        )
        envelope = encode(filled, payload)
        self._window.push(envelope)
        self._transmit(envelope)
        self.pump()

    def _wait(self, is_done: Callable[[], bool]) -> None:
        begin_ns = self._clock_ns()
        while not is_done():
            self.pump(10)
            since_ns = max(begin_ns, self._advanced_ns)
            if self._clock_ns() - since_ns > self._timeout_ns:
                raise BackendError(
                    f"server {self._address}: expected acknowledgements, found "
                    f"none that is new for {self._timeout_ns / 1e9:g} s"
                )

    def _transmit(self, envelope: Envelope) -> None:
        self._sent_ns = self._clock_ns()
        try:
            self._socket.send_multipart(envelope.frames, zmq.NOBLOCK)
        except zmq.Again:
            # No connection at the moment: the timer sends again when there is one.
            return

    def _resend(self, now_ns: int) -> None:
        self._progress_ns = now_ns
        for envelope in self._window.unacknowledged():
            self._transmit(envelope)
            self.resent += 1

    def _read(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            record = decode(frames).record
            if isinstance(record, Ack) and record.run == self._run.run:
                self._acknowledged(record)
            elif isinstance(record, Reject):
                self._rejected(record)

    def _acknowledged(self, ack: Ack) -> None:
        is_received, is_durable = self._window.acknowledge(ack)
        if is_received:
            self._progress_ns = self._clock_ns()
        if is_received or is_durable:
            self._advanced_ns = self._clock_ns()

    def _rejected(self, reject: Reject) -> None:
        if reject.is_consumed:
            self.refusals.append(reject)
        elif reject.reason == "NO_HELLO":
            hello = Hello(stream=self._stream, role=self._role)
            self._transmit(encode(hello))
        elif reject.reason not in _HARMLESS:
            raise PeerError(reject.reason, reject.detail)

    def _hang_up(self) -> None:
        if not self._socket.closed:
            self._transmit(encode(Goodbye(stream=self._stream)))
        self._socket.close(linger=GOODBYE_MS)
        self._context.term()
