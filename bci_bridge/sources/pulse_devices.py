"""What a scanner's pulse comes in by: a key, a serial port, an LSL marker.

Thin edges: each says when pulses came, on this host's monotonic clock. A key and a byte
are stamped when they are read, which is within a millisecond while nothing else is
done; a marker brings its own time.
"""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from runtime.errors import BackendError, ScanError, UsageError

_RESOLVE_S: Final = 10.0


@runtime_checkable
class PulseDevice(Protocol):
    """Something that pulses."""

    def pulses(self, wait_s: float) -> list[int]:
        """Give the instants of the pulses that have come.

        Raises:
            ScanError: The device is gone.
        """
        ...

    def close(self) -> None:
        """Leave the device as it was."""
        ...


class Keyboard:
    """A key, as most trigger boxes type one; the terminal must have the focus."""

    def __init__(
        self,
        key: str = "5",
        *,
        fd: int | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Take single keys from the terminal, without echo.

        Raises:
            UsageError: The key is not one character.
            ScanError: There is no input.
        """
        if len(key.encode()) != 1:
            raise UsageError(f"--pulse-key: expected one character, found {key!r}")
        self._byte, self._clock_ns = key.encode(), clock_ns
        self._fd = _standard_input() if fd is None else fd
        self._before: Any = None
        if os.isatty(self._fd):
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)

    def pulses(self, wait_s: float) -> list[int]:
        """Give an instant for each press."""
        ready, _, _ = select.select([self._fd], [], [], wait_s)
        if not ready:
            return []
        now_ns = self._clock_ns()
        data = os.read(self._fd, 4096)
        if not data:
            raise ScanError("keyboard: expected keys, found the input closed")
        return [now_ns] * data.count(self._byte)

    def close(self) -> None:
        """Give the terminal back."""
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise ScanError("keyboard: expected keys, found the input closed") from error


class SerialPort:
    """Bytes of a serial port; pyserial comes from the extra `trigger`."""

    def __init__(
        self,
        port: str,
        baud: int = 115_200,
        byte: int | None = None,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Open the port.

        Args:
            port: Such as /dev/ttyUSB0.
            baud: Its speed.
            byte: The one that is a pulse; any by default.
            clock_ns: Monotonic clock.

        Raises:
            UsageError: No byte has that number.
            BackendError: pyserial is missing.
            ScanError: There is no such port, or it is in use.
        """
        if byte is not None and not 0 <= byte <= 255:
            raise UsageError(f"--pulse-byte: expected 0 to 255, found {byte}")
        try:
            import serial
        except ImportError as error:
            raise BackendError(
                "pyserial: expected it for serial triggers, found none installed. "
                "Install the extra `trigger`."
            ) from error
        try:
            self._port = serial.Serial(port, baud, timeout=0, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise ScanError(
                f"{port}: expected a free serial port, found: {error}"
            ) from error
        self._name, self._byte, self._clock_ns = port, byte, clock_ns

    def pulses(self, wait_s: float) -> list[int]:
        """Give an instant for each byte."""
        try:
            ready, _, _ = select.select([self._port.fileno()], [], [], wait_s)
            now_ns = self._clock_ns()
            data: bytes = self._port.read(4096) if ready else b""
        except OSError as error:  # pyserial's own errors are of this kind
            raise ScanError(
                f"{self._name}: expected the serial port that was there, found: {error}"
            ) from error
        n_pulses = len(data) if self._byte is None else data.count(self._byte)
        return [now_ns] * n_pulses

    def close(self) -> None:
        """Close the port."""
        self._port.close()


class LslMarker:
    """Samples of an LSL stream; pylsl comes from the extra `lsl`.

    LSL has no keys: whoever is on the network can offer a stream of that name.
    """

    def __init__(
        self,
        name: str,
        marker: str = "",
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Find the stream.

        Args:
            name: Of the stream.
            marker: The sample that is a pulse, as text; any by default.
            clock_ns: Monotonic clock.

        Raises:
            BackendError: pylsl is missing.
            ScanError: There is no such stream.
        """
        try:
            import pylsl
        except (ImportError, RuntimeError, OSError) as error:
            raise BackendError(
                "pylsl: expected it and its library for LSL markers, found none. "
                "Install the extra `lsl`."
            ) from error
        found = pylsl.resolve_byprop("name", name, timeout=_RESOLVE_S)
        if not found:
            raise ScanError(
                f"LSL stream {name!r}: expected one within {_RESOLVE_S:g} s, found none"
            )
        self._lsl, self._marker, self._clock_ns = pylsl, marker, clock_ns
        self._inlet = pylsl.StreamInlet(found[0], recover=True)

    def pulses(self, wait_s: float) -> list[int]:
        """Give the instants that the stream's sender stamped."""
        found: list[int] = []
        timeout_s = wait_s
        while True:
            sample, stamp_s = self._inlet.pull_sample(timeout=timeout_s)
            if sample is None:
                return found
            timeout_s = 0.0
            if self._marker and str(sample[0]) != self._marker:
                continue
            # The stamp is on the sender's clock, the correction leads to this host's.
            here_s = stamp_s + self._inlet.time_correction(timeout=1.0)
            ago_s = self._lsl.local_clock() - here_s
            found.append(self._clock_ns() - round(ago_s * 1e9))

    def close(self) -> None:
        """Let go of the stream."""
        self._inlet.close_stream()
