"""`neuroflow play`: a recording that behaves like a scanner."""

import math
import sys
from pathlib import Path

from bci_bridge.keyfolder import read_credentials
from bci_bridge.player import play, run_start_from
from bci_bridge.server import stop_on_signals
from runtime.errors import UsageError
from runtime.recording import open_recording


def check_speed(speed: float | None) -> None:
    """Refuse a pace that no clock can keep.

    Raises:
        UsageError: The speed is not a positive number.
    """
    if speed is not None and not 0 < speed < math.inf:
        raise UsageError(f"--speed: expected a number above 0, found {speed:g}")


def play_recording(
    folder: Path,
    address: str,
    *,
    runs: tuple[str, ...],
    speed: float | None,
    label: str = "",
    key: Path | None = None,
    server_key: Path | None = None,
) -> None:
    """Send runs one after another.

    Raises:
        RecordingError: The recording is missing or damaged.
        UsageError: The speed is not positive, or one key file is named without other.
        ArtifactError: A key file is missing, damaged or open to others.
        PeerError: The server refuses the run.
        BackendError: There is no server, or it falls silent.
    """
    check_speed(speed)
    credentials = read_credentials(key, server_key)
    recording = open_recording(folder, runs or None)
    with stop_on_signals() as stop:
        for run in recording.runs:
            if stop():
                break
            name = f"{run.run_id}_{label}" if label else run.run_id
            start = run_start_from(run, speed=speed, run_id=name)
            sent = play(
                run,
                address,
                speed,
                run_start=start,
                is_cancelled=stop,
                credentials=credentials,
            )
            print(f"{run.run_id}: {sent} volumes sent", file=sys.stderr)
