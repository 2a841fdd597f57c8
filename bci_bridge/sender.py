"""The sending end: one stream of one run, as a scanner or stimulus software speaks.

Blocking and single-threaded: whoever sends also turns the crank, by sending, by
`Sender.pump` while waiting, and by `Sender.close`. Sending does not wait for the
server, which may be away for a while: `bci_bridge.delivery` keeps and sends again. With
a spool the sender may be killed, too: the next one with that spool goes on.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final
from uuid import uuid4

import numpy as np
from msgspec import UNSET

from bci_bridge.delivery import Delivery, Patience
from bci_bridge.header import Header, Role, VoxelType
from bci_bridge.keyring import Credentials
from bci_bridge.line import Line
from bci_bridge.messages import (
    Event,
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
from bci_bridge.spool import Spool
from bci_bridge.spool_format import Progress
from bci_bridge.type_cache import clear_type_cache
from runtime.arrays import Shaped
from runtime.errors import (
    ArtifactError,
    NeuroFlowError,
    PeerError,
    TensorMismatchError,
    UsageError,
)

_VOXEL_TYPES: Final[dict[VoxelType, str]] = {
    "i2": "int16",
    "u2": "uint16",
    "i4": "int32",
    "f4": "float32",
}
"""numpy's names by its codes; codes are asked for, because they leave nothing behind
(`runtime.preprocess.mask`)."""


class Sender:
    """One stream of one run; use as a context manager or call `close`.

    Attributes:
        resumed: What an earlier process said in this run; None where this is the first.
    """

    def __init__(
        self,
        address: str,
        run: RunStart | str,
        *,
        role: Role = "scanner",
        stream: str | None = None,
        timeout_s: float = 10.0,
        outage_s: float = 60.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        is_cancelled: Callable[[], bool] = lambda: False,
        credentials: Credentials | None = None,
        spool: Path | None = None,
    ) -> None:
        """Connect, and begin the run or go on with it.

        A sender whose role is ``stimulus`` does not begin runs.

        Args:
            address: Where the server listens.
            run: The run; its header fields but `run` are filled in here. Its name is
                enough for a stimulus program, which begins none.
            role: What this sender may say.
            stream: Name of the stream; that of the role by default.
            timeout_s: How long the server may be silent until it has answered once.
            outage_s: How long it may be away afterwards.
            clock_ns: Monotonic clock.
            is_cancelled: Asked while waiting for the server; True gives up.
            credentials: This device's key and the server's, where it asks for keys.
            spool: Folder in which messages survive this process; for it alone.

        Raises:
            BackendError: If no server answers, or the wait was cancelled.
            PeerError: If the server refuses the stream or the run, or has forgotten it.
            UsageError: If the spool is another sender's, or holds another run, or a
                run that begins here has only a name.
            ArtifactError: If the spool has lost messages that the server has.
        """
        if isinstance(run, str):
            run = _named(run, role)
        # A scanner's program sends for weeks, a run at a time.
        clear_type_cache()
        stream = stream or role
        self._role = role
        self._has_left = False
        self.resumed: Progress | None = None
        self._spool = None if spool is None else Spool(spool)
        lease = uuid4().hex
        try:
            if self._spool is not None:
                lease = self._spool.begin(run, role, stream, lambda: lease)
                if self._spool.next > 0:
                    self.resumed = copy.deepcopy(self._spool.progress)
            self._said = copy.deepcopy(self.resumed) or Progress()
            self._line = Line(address, stream, credentials)
        except BaseException:
            self._release_spool()
            raise
        # Another run may have begun by the time this one's last answer is waited for.
        hello = Hello(
            run=run.run, stream=stream, role=role, software="neuroflow-rt", lease=lease
        )
        patience = Patience(round(timeout_s * 1e9), round(outage_s * 1e9), is_cancelled)
        try:
            self._delivery = Delivery(
                self._line, hello, run.run, self._spool, clock_ns, patience
            )
            if role != "stimulus":
                if self._delivery.count == 0:
                    self._delivery.post(run)
                self._delivery.wait(lambda: self._delivery.is_received)
        except BaseException as error:
            if isinstance(error, (PeerError, ArtifactError)):
                self._forget_unless_begun(error)
            self._hang_up()
            raise

    @property
    def refusals(self) -> list[Reject]:
        """REJECTs of messages whose content the server does not use."""
        return self._delivery.refusals

    @property
    def welcome(self) -> Welcome:
        """What the server said when it was greeted last."""
        return self._delivery.welcome

    @property
    def resent(self) -> int:
        """Messages that were sent more than once."""
        return self._delivery.resent

    @property
    def is_behind(self) -> bool:
        """The server has yet to take so much that one more message would wait."""
        return self._delivery.is_behind

    @property
    def spool_state(self) -> str:
        """OFF, ON, or DEGRADED once the disk did not take a message."""
        return "OFF" if self._spool is None else self._spool.state

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
        self,
        volume_index: int,
        volume: Shaped[np.ndarray, "x y z"],
        acquired_ns: int,
        confounds: Mapping[str, float] | None = None,
    ) -> None:
        """Send one acquisition; waits only where memory and spool are full.

        Args:
            volume_index: Which acquisition it is, from 0.
            volume: int16, uint16, int32 or float32.
            acquired_ns: End of its acquisition on this host's monotonic clock.
            confounds: What else is known of it, by the names that the bundle's
                estimator has.

        Raises:
            TensorMismatchError: If the dtype cannot be sent.
            PeerError: If the server refuses the stream.
            BackendError: If the server is away for too long.
        """
        code = volume.dtype.str[1:]
        dtype = next((known for known in _VOXEL_TYPES if known == code), None)
        if dtype is None:
            raise TensorMismatchError(
                "volume",
                expected="/".join(_VOXEL_TYPES.values()),
                found=str(volume.dtype),
            )
        x, y, z = volume.shape
        record = Volume(
            volume_index=volume_index,
            acquired_ns=acquired_ns,
            dtype=dtype,
            shape=(x, y, z),
            confounds=dict(confounds) if confounds else UNSET,
        )
        payload = np.ascontiguousarray(volume, dtype=f"<{dtype}").tobytes()
        self._say(record, payload)

    def missing(self, volume_index: int, reason: str = "") -> None:
        """Say that an acquisition will never come."""
        self._say(Missing(volume_index=volume_index, reason=reason))

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
        self._say(
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
        self._say(Trigger(volume_index=volume_index, pulsed_ns=pulsed_ns))

    def shown(
        self,
        what: str,
        shown_ns: int,
        trial_id: str = "",
        display_frame: int | None = None,
    ) -> None:
        """Put on record what reached the participant.

        Args:
            what: In words or by name.
            shown_ns: When, on this host's monotonic clock.
            trial_id: The trial that it belongs to, if one.
            display_frame: On which frame of the display.
        """
        self._say(
            Shown(
                what=what,
                shown_ns=shown_ns,
                trial_id=trial_id,
                display_frame=display_frame,
            )
        )

    def pump(self, timeout_ms: int = 0) -> None:
        """Wait for the server's answers, send what is due, show life.

        Raises:
            PeerError: If the server refuses the stream, or has forgotten the run.
            BackendError: If the server is away for too long.
        """
        self._delivery.pump(timeout_ms)

    def close(self, count: int | None = None, *, aborted: bool = False) -> None:
        """End the run, wait until all is on the server's disk, and disconnect.

        Args:
            count: Acquisitions made; by default up to the highest index sent.
            aborted: The run was broken off.
        """
        if self._has_left:
            return
        try:
            if self._role != "stimulus" and not self._said.has_ended:
                end = self._said.volumes if count is None else count
                self._say(RunEnd(count=end, aborted=aborted))
            self._delivery.wait(lambda: self._delivery.is_settled)
            if self._spool is not None:
                self._spool.finish()
        finally:
            self._hang_up()

    def _say(self, record: Header, payload: bytes = b"") -> None:
        self._delivery.post(record, payload)
        self._said.add(record)

    def _forget_unless_begun(self, error: PeerError | ArtifactError) -> None:
        """Keep nothing of a run that the server does not want and has nothing of.

        Nor of one that it has from another sender: whoever names the run anew, as the
        error asks for, must find the spool free.
        """
        spool = self._spool
        if spool is None or spool.held is None or spool.held.is_begun:
            return
        is_refused = isinstance(error, PeerError) and error.reason != "BUSY"
        if self.resumed is None or is_refused:
            spool.forget()

    def _hang_up(self) -> None:
        self._has_left = True
        self._line.close()
        self._release_spool()

    def _release_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()


def _named(run: str, role: Role) -> RunStart:
    """Stand for a run of which nothing but the name is looked at.

    Raises:
        UsageError: The role begins runs, which have more than a name.
    """
    if role != "stimulus":
        raise UsageError(
            f"run {run!r}: expected its RunStart from a sender that is {role}, found "
            "its name alone"
        )
    return RunStart(run=run, shape=(1, 1, 1), tr_s=1, expected_volumes=1, budget_s=1)
