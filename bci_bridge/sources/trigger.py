"""The loop that hears pulses and puts them on record as a run's triggers.

A thin edge: which pulse is which acquisition's, and of which run, is decided in
`bci_bridge.sources.pulses`. A trigger is a stream of its own, beside the volumes; what
it says is logged with the run, in the order in which it came.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Final

from bci_bridge.keyring import Credentials
from bci_bridge.line import Line
from bci_bridge.messages import Hello, Welcome
from bci_bridge.sender import Sender
from bci_bridge.sources.pulse_devices import PulseDevice
from bci_bridge.sources.pulses import PulseClock, PulsePlan
from bci_bridge.wire import encode
from runtime.errors import BackendError, PeerError

_STREAM: Final = "trigger"
_WATCH: Final = "trigger-watch"
_ASK_NS: Final = 200_000_000
_OUTAGE_NS: Final = 60_000_000_000
_WAIT_S: Final = 0.02


def send_triggers(
    device: PulseDevice,
    plan: PulsePlan,
    address: str,
    *,
    tell: Callable[[str], None],
    is_stopped: Callable[[], bool] = lambda: False,
    credentials: Credentials | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> None:
    """Send the pulses of runs that others send the volumes of.

    Args:
        device: What pulses; the caller closes it.
        plan: What is said of the pulses.
        address: Where the server listens.
        tell: Takes a line for the operator.
        is_stopped: Asked all the time; True ends the call.
        credentials: A key with the roles stimulus and scanner, and the server's.
        clock_ns: Monotonic clock.

    Raises:
        ScanError: The device is gone.
        PeerError: The server refuses the stream.
        BackendError: There is no server, or it is away for too long.
    """
    clock, sender, n_sent = PulseClock(plan), None, 0
    watch = _Watch(address, credentials, clock_ns, is_stopped)
    try:
        tell("waiting for pulses")
        while not (clock.is_done or is_stopped()):
            for pulsed_ns in device.pulses(_WAIT_S):
                clock.take(pulsed_ns)
            run = watch.run()
            clock.attend(run if plan.is_ours(run) else "")
            if sender is not None and sender[0] != clock.run:
                _leave(sender[1])
                tell(f"run {sender[0]}: {n_sent} triggers")
                sender, n_sent = None, 0
            if sender is None and clock.run:
                sender = clock.run, _joined(address, clock.run, credentials, clock_ns)
                tell(f"run {clock.run}: triggers go on record")
            if sender is not None:
                with contextlib.suppress(_OverError):
                    n_sent += _said(sender[1], clock.due())
    finally:
        watch.close()
        if sender is not None:
            _leave(sender[1])
            tell(f"run {sender[0]}: {n_sent} triggers")


class _OverError(Exception):
    """The run ended while a trigger was under way."""


def _said(sender: Sender, due: list[tuple[int, int]]) -> int:
    try:
        for index, pulsed_ns in due:
            sender.trigger(index, pulsed_ns)
        sender.pump()
    except PeerError as error:
        if error.reason not in ("ILLEGAL_STATE", "WRONG_RUN"):
            raise
        raise _OverError from error
    return len(due)


def _joined(
    address: str,
    run: str,
    credentials: Credentials | None,
    clock_ns: Callable[[], int],
) -> Sender:
    return Sender(
        address,
        run,
        role="stimulus",
        stream=_STREAM,
        credentials=credentials,
        clock_ns=clock_ns,
    )


def _leave(sender: Sender) -> None:
    # What came too late for its run is no loss: the run is over.
    with contextlib.suppress(PeerError):
        sender.close()


class _Watch:
    """Knows which run a server has under way, without ever waiting for it."""

    def __init__(
        self,
        address: str,
        credentials: Credentials | None,
        clock_ns: Callable[[], int],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._line = Line(address, _WATCH, credentials)
        self._clock_ns = clock_ns
        hello = Hello(stream=_WATCH, role="stimulus", software="neuroflow-rt")
        self._hello = encode(hello)
        try:
            self._welcome = self._line.greet(
                hello, 10_000_000_000, clock_ns, is_stopped
            ).welcome
        except BaseException:
            self._line.close()
            raise
        self._asked_ns = self._heard_ns = clock_ns()

    def run(self) -> str:
        """Name the run under way; empty where there is none."""
        now_ns = self._clock_ns()
        if now_ns - self._asked_ns > _ASK_NS:
            self._asked_ns = now_ns
            self._line.transmit(self._hello)
        for record in self._line.answers():
            if isinstance(record, Welcome):
                self._welcome, self._heard_ns = record, now_ns
        if now_ns - self._heard_ns > _OUTAGE_NS:
            raise BackendError(
                f"server {self._line.address}: expected an answer, found none for "
                f"{_OUTAGE_NS / 1e9:g} s"
            )
        return self._welcome.run if self._welcome.is_running else ""

    def close(self) -> None:
        """Leave."""
        self._line.close()
