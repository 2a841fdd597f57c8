"""`neuroflow send trigger`: the scanner's pulses, on record."""

from pathlib import Path

from bci_bridge.keyfolder import read_credentials
from bci_bridge.signals import stop_on_signals
from bci_bridge.sources.pulse_devices import (
    Keyboard,
    LslMarker,
    PulseDevice,
    SerialPort,
)
from bci_bridge.sources.pulses import PulsePlan
from bci_bridge.sources.trigger import send_triggers
from bci_bridge.telling import tell
from runtime.errors import UsageError


def send_trigger(
    device: str,
    address: str,
    *,
    run: str,
    runs: int | None,
    discard: int,
    every: int,
    tr_s: float | None,
    quiet_s: float,
    pulse_key: str,
    pulse_byte: int | None,
    baud: int,
    marker: str,
    key: Path | None,
    server_key: Path | None,
) -> None:
    """Send pulses until stopped, or until so many runs are over.

    Raises:
        UsageError: There is no such kind of device, or an option is out of its range.
        ScanError: The device is missing, or gone.
        BackendError: A library is missing; or there is no server.
        PeerError: The server refuses the stream.
        ArtifactError: A key file is missing, damaged or open to others.
    """
    plan = PulsePlan(
        run=run, runs=runs, discard=discard, every=every, tr_s=tr_s, quiet_s=quiet_s
    )
    credentials = read_credentials(key, server_key)
    opened = _opened(device, pulse_key, pulse_byte, baud, marker)
    try:
        with stop_on_signals() as stop:
            send_triggers(
                opened,
                plan,
                address,
                tell=tell,
                is_stopped=stop,
                credentials=credentials,
            )
    finally:
        opened.close()


def _opened(
    device: str, pulse_key: str, pulse_byte: int | None, baud: int, marker: str
) -> PulseDevice:
    kind, _, name = device.partition(":")
    if kind == "keyboard" and not name:
        return Keyboard(pulse_key)
    if kind == "serial" and name:
        return SerialPort(name, baud, pulse_byte)
    if kind == "lsl" and name:
        return LslMarker(name, marker)
    raise UsageError(
        f"device: expected keyboard, serial:PORT or lsl:STREAM, found {device!r}"
    )
