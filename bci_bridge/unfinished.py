"""What an earlier sender left in its spool: whose it is, and bringing it to its end."""

from dataclasses import dataclass
from pathlib import Path

from bci_bridge.keyring import Credentials
from bci_bridge.messages import RunStart
from bci_bridge.sender import Sender
from bci_bridge.spool import Spool


@dataclass(frozen=True, slots=True)
class Held:
    """The run of a spool."""

    run: str
    is_finished: bool
    """The server has all of it."""
    start: RunStart
    """As it was announced."""
    volumes: int
    """One more than the highest acquisition of which its sender spoke."""
    has_ended: bool = False
    """Its sender said that it ends."""


def held_run(folder: Path) -> Held | None:
    """Say which run a spool holds, or held last; None where there is none.

    That may be one of which nothing is sent yet: its sender died while it looked for
    the server, and the run before it is at the server as a whole.

    Raises:
        UsageError: If it cannot be used, or a sender has it.
    """
    spool = Spool(folder)
    try:
        if spool.held is None:
            return None
        start = spool.held.start
        said = spool.progress
        return Held(
            start.run,
            spool.held.is_finished,
            start,
            int(said.volumes),
            said.has_ended,
        )
    finally:
        spool.close()


def finish_spool(
    address: str,
    folder: Path,
    *,
    timeout_s: float = 10.0,
    outage_s: float = 60.0,
    credentials: Credentials | None = None,
) -> str:
    """Send what an earlier process left, and end its run.

    A run without RUN_END is ended as aborted: nobody is there to go on with it.

    Args:
        address: Where the server listens.
        folder: The spool.
        timeout_s: How long the server may be silent until it has answered once.
        outage_s: How long it may be away afterwards.
        credentials: This device's key and the server's, where it asks for keys.

    Returns:
        The run; empty where nothing was left to do.

    Raises:
        UsageError: If the spool cannot be used, or a sender has it.
        BackendError: If no server answers, or it is away for too long.
        PeerError: If the server refuses the stream or does not know the run.
        ArtifactError: If the spool has lost messages that the server has.
    """
    spool = Spool(folder)
    held, is_unfinished = spool.held, spool.is_unfinished
    spool.close()
    if held is None or not is_unfinished:
        return ""
    sender = Sender(
        address,
        held.start,
        role=held.role,
        stream=held.stream,
        timeout_s=timeout_s,
        outage_s=outage_s,
        credentials=credentials,
        spool=folder,
    )
    sender.close(aborted=True)
    return held.start.run


def forget_spool(folder: Path) -> None:
    """Delete what a spool says of runs that the server has; others stay.

    Raises:
        UsageError: If it cannot be used, or a sender has it.
    """
    spool = Spool(folder)
    try:
        if not spool.is_unfinished:
            spool.forget()
    finally:
        spool.close()
