"""`neuroflow play`: a recording that behaves like a scanner."""

import math
from pathlib import Path

import msgspec

from bci_bridge.header import LatePolicy
from bci_bridge.keyfolder import read_credentials
from bci_bridge.messages import confound_names
from bci_bridge.names import require_name
from bci_bridge.player import play, run_start_from
from bci_bridge.signals import stop_on_signals
from bci_bridge.telling import tell
from bci_bridge.unfinished import forget_spool, held_run
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
    subject: str | None = None,
    speed: float | None,
    label: str = "",
    key: Path | None = None,
    server_key: Path | None = None,
    spool: Path | None = None,
    is_rehearsal: bool = False,
    confounds: tuple[str, ...] = (),
    updates: bool = False,
    late: LatePolicy = "flag",
) -> None:
    """Send runs one after another.

    With a spool that an earlier process left, its run is gone on with, and the runs
    before it are left out: they were sent.

    Raises:
        RecordingError: The recording is missing or damaged, lacks a confound, or holds
            several participants of whom none is named.
        UsageError: The speed is not positive, one key file is named without other, a
            run's name has other characters than one may, or the spool holds another
            run.
        ArtifactError: A key file is missing, damaged or open to others; or the spool
            has lost messages that the server has.
        PeerError: The server refuses the run.
        BackendError: There is no server, or it is away for too long.
    """
    check_speed(speed)
    credentials = read_credentials(key, server_key)
    recording = open_recording(folder, runs or None, subject=subject)
    if recording.left_out:
        tell(f"{folder}: {recording.left_out}")
    named = [
        (f"{run.run_id}_{label}" if label else run.run_id, run)
        for run in recording.runs
    ]
    for name, _ in named:
        require_name("--label" if label else f"{folder}: name of a run", name)
    # All of them before the first volume leaves.
    runs_told = recording.runs if confounds else ()
    told = {run.run_id: run.confounds(confounds) for run in runs_told}
    n_done = 0 if spool is None else _count_done([name for name, _ in named], spool)
    with stop_on_signals() as stop:
        for name, run in named[n_done:]:
            if stop():
                return
            start = msgspec.structs.replace(
                run_start_from(run, speed=speed, run_id=name),
                is_rehearsal=is_rehearsal,
                updates=updates,
                late=late,
                confound_names=confound_names(confounds),
            )
            sent = play(
                run,
                address,
                speed,
                run_start=start,
                confounds=told.get(run.run_id, ()),
                is_cancelled=stop,
                credentials=credentials,
                spool=spool,
            )
            tell(f"{run.run_id}: {sent} volumes sent")
    if spool is not None:
        forget_spool(spool)


def _count_done(names: list[str], spool: Path) -> int:
    held = held_run(spool)
    if held is None or held.run not in names:
        return 0
    return names.index(held.run) + held.is_finished
