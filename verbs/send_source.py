"""Send what an opened source yields: announced by the options, in one loop.

What a folder holds at the start is its own decision: whose files these are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bci_bridge.header import Pace
from bci_bridge.keyfolder import read_credentials
from bci_bridge.memory_cap import cap_memory
from bci_bridge.signals import stop_on_signals
from bci_bridge.sources.driver import send_runs
from bci_bridge.sources.folder import place
from bci_bridge.sources.journal import Journal
from bci_bridge.sources.past import Left, Said
from bci_bridge.sources.plan import Plan
from bci_bridge.sources.recorded import Recorded
from bci_bridge.sources.source import Source
from bci_bridge.telling import tell
from runtime.errors import UsageError
from verbs.send_commands import Sending

if TYPE_CHECKING:
    from bci_bridge.sources.dicom_folder import DicomFolder
    from bci_bridge.sources.folder_source import FolderSource

_MEMORY_BYTES: Final = 4 << 30
"""Of address space: whatever a file or a peer does, it does to this process alone."""


def send_watched(
    path: Path,
    sending: Sending,
    watch: Callable[..., "FolderSource | DicomFolder"],
    said: Said,
    pattern: str = "*",
) -> None:
    """Send what comes into a folder, once it is clear whose the files are in it.

    Those of an earlier run would be sent as if the scanner gave them now. Where an
    earlier process of these runs was killed, what it left out is left out again, and
    whatever else is there came since it began.

    Raises:
        UsageError: There are files, and nobody said whose; or an option is out of its
            range, or the spool cannot be used.
        ScanError: There is no such folder.
    """
    journal = Journal(sending.spool, plan_of(sending))
    goes_on = journal.goes_on(place(path, pattern), said)
    source = watch(is_new_only=said == "--new-only", past=journal.past)
    if source.n_there and not (goes_on or said):
        files = "1 file" if source.n_there == 1 else f"{source.n_there} files"
        raise UsageError(
            f"{path}: expected a folder that fills from now on, found {files} in it. "
            "If these are of earlier runs, say --new-only; if they belong to this one, "
            "--from-start"
        )
    if goes_on:
        tell("an earlier process was killed: what came since it began is sent")
    send(source, sending, journal=journal, left=source.left)


def said_of(is_new_only: bool, is_from_start: bool) -> Said:
    """Read what the operator says of the files that a folder holds.

    Raises:
        UsageError: Both flags are given.
    """
    if is_new_only and is_from_start:
        raise UsageError(
            "--new-only and --from-start: expected one of them, found both"
        )
    return "--new-only" if is_new_only else "--from-start" if is_from_start else ""


def send_recorded(file: Recorded, sending: Sending, speed: float | None) -> None:
    """Send a recording, which knows how long it is; from its start, if stopped."""
    pace: Pace = "live" if speed is not None else "catchup"
    send(file, sending, volumes=file.volumes, pace=pace, speed=speed or 1.0)


def send(
    source: Source,
    sending: Sending,
    *,
    volumes: int | None = None,
    pace: Pace = "live",
    speed: float = 1.0,
    journal: Journal | None = None,
    left: Left | None = None,
) -> None:
    """Send what a source yields until the runs are complete, and close it.

    Args:
        source: Opened.
        sending: The options that all sources have.
        volumes: What a recording has, the volumes to be discarded included.
        pace: "catchup" where nobody waits for answers.
        speed: Of a recording in real time or slower.
        journal: The spool's, where it was asked about the source's folder.
        left: Which files of its folder the source leaves out; None where it has none.

    Raises:
        UsageError: An option is out of its range, one key file is named without the
            other, or the spool holds another run.
        ScanError: The source is gone, or over too early.
        ArtifactError: A key file is missing, damaged or open to others; or the spool
            has lost messages that the server has.
        PeerError: The server refuses the run.
        BackendError: There is no server, or it is away for too long.
    """
    try:
        plan = plan_of(sending, volumes, pace, speed)
        journal = journal or Journal(sending.spool, plan)
        if volumes is not None:
            journal.begin_again()
        cap_memory(_MEMORY_BYTES)
        # Numbers that overflow are refused in lines of ours; numpy would add its own.
        with np.errstate(all="ignore"), stop_on_signals() as stop:
            send_runs(
                source,
                plan,
                sending.to,
                tell=tell,
                is_stopped=stop,
                credentials=read_credentials(sending.key, sending.server_key),
                spool=sending.spool,
                journal=journal,
                left=left,
            )
    finally:
        source.close()


def plan_of(
    sending: Sending,
    volumes: int | None = None,
    pace: Pace = "live",
    speed: float = 1.0,
) -> Plan:
    """Read the announcement off the options.

    Raises:
        UsageError: One is out of its range, or nobody says how long a run is.
    """
    count = sending.volumes
    if count is None and volumes is not None:
        count = volumes - sending.discard
        if count < 1:
            raise UsageError(
                f"--discard: expected less than the {volumes} volumes of the file, "
                f"found {sending.discard}"
            )
    if count is None:
        raise UsageError(
            "--volumes: expected how many acquisitions the run has, found nothing. "
            "The decoder's drift model needs the length of the run at its start"
        )
    return Plan(
        run=sending.run,
        volumes=count,
        runs=sending.runs,
        discard=sending.discard,
        tr_s=sending.tr_s,
        budget_s=sending.budget_s,
        pace=pace,
        speed=speed,
        subject=sending.subject,
        session=sending.session,
        task=sending.task,
        is_rehearsal=sending.rehearsal,
        quiet_s=sending.quiet_s,
        reorder=sending.reorder,
        updates=sending.updates,
        late=sending.late,
    )
