"""A recording that plays itself as a scanner, with its events, in real time or faster.

Volume i leaves at the end of its acquisition, ``(i + 1) * tr_s``; an event leaves at
its onset, hence before the volume during which it happens. Of a volume that the
recording lacks, that is said when it would have left. An event that names a
picture is followed by the report that it was shown, as stimulus software sends one; it
has no frame of a display, because there is none. All go through one sender, so that
their order is the log's. Waiting turns the sender's crank.

With a spool, a player that was killed goes on where its predecessor was: a scanner does
not stop because a program does, so the time base is kept, and what was due meanwhile
leaves at once, with the instants at which it was due.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from bci_bridge.budget import budget_at
from bci_bridge.keyring import Credentials
from bci_bridge.messages import RunStart, slice_times_us
from bci_bridge.sender import Sender
from bci_bridge.spool_format import Progress
from runtime.arrays import Shaped
from runtime.errors import UsageError


@runtime_checkable
class RecordedEvent(Protocol):
    """One presentation of a recording."""

    @property
    def trial_id(self) -> str:
        """Name of the trial, unique in its run."""
        ...

    @property
    def stimulus_id(self) -> str:
        """What was shown."""
        ...

    @property
    def onset_s(self) -> float:
        """After the start of volume 0."""
        ...

    @property
    def duration_s(self) -> float:
        """How long it was shown."""
        ...


@runtime_checkable
class RecordedRun(Protocol):
    """One run of a recording, as `runtime.recording` opens it."""

    @property
    def run_id(self) -> str:
        """Name of the run."""
        ...

    @property
    def tr_s(self) -> float:
        """Repetition time."""
        ...

    @property
    def affine(self) -> Shaped[np.ndarray, "4 4"]:
        """Voxel indices to millimetres, 4 x 4."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        ...

    @property
    def volume_count(self) -> int:
        """Number of volumes."""
        ...

    def volumes(self) -> Shaped[np.ndarray, "times x y z"]:
        """Read the images: times, x, y, z."""
        ...

    @property
    def events(self) -> tuple[RecordedEvent, ...]:
        """Presentations in any order."""
        ...


def run_start_from(
    run: RecordedRun,
    *,
    speed: float | None = 1.0,
    budget_s: float | None = None,
    run_id: str | None = None,
) -> RunStart:
    """Announce a recorded run: live at a speed, or catching up without one.

    Subject, session and task are those that the recording tells, if it tells any.

    Args:
        run: What will be played.
        speed: 1 is real time; played slower, each answer has more time.
        budget_s: How long an answer may take at real time; a TR where none is given.
        run_id: Its name; by default its own.
    """
    return RunStart(
        run=run_id or run.run_id,
        shape=run.shape,
        tr_s=run.tr_s,
        expected_volumes=run.volume_count,
        budget_s=budget_at(speed, run.tr_s, budget_s),
        pace="catchup" if speed is None else "live",
        affine=tuple(float(entry) for entry in np.ravel(run.affine)),
        subject=getattr(run, "subject", ""),
        session=getattr(run, "session", ""),
        task=getattr(run, "task", ""),
        slice_times_us=slice_times_us(getattr(run, "slice_times_s", ())),
    )


def play(
    run: RecordedRun,
    address: str,
    speed: float | None = 1.0,
    *,
    run_start: RunStart | None = None,
    confounds: Sequence[Mapping[str, float]] = (),
    is_cancelled: Callable[[], bool] = lambda: False,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    wait_ms: Callable[[Sender, int], None] = Sender.pump,
    credentials: Credentials | None = None,
    spool: Path | None = None,
    outage_s: float = 60.0,
) -> int:
    """Send a recorded run to a server, as the scanner and the stimulus software would.

    Args:
        run: What to play.
        address: Where the server listens.
        speed: 1 is real time; None is as fast as acknowledgements allow.
        run_start: How to announce the run; by default `run_start_from`.
        confounds: What goes with each volume, by name; empty where nothing does.
        is_cancelled: Asked while waiting; True ends the run as aborted.
        clock_ns: Monotonic clock.
        wait_ms: Lets time pass; by default in the sender's `pump`.
        credentials: A key with the roles scanner and, for its events, stimulus.
        spool: Folder in which a run survives the end of this process.
        outage_s: How long the server may be away in mid-run.

    Returns:
        The number of volumes that this call sent.

    Raises:
        UsageError: If the speed is not positive, or the spool holds another run.
        PeerError: If the server refuses the run.
        BackendError: If there is no server, or it is away for too long.
        ArtifactError: If the spool has lost messages that the server has.
    """
    if speed is not None and not speed > 0:
        raise UsageError(f"speed: expected more than 0, found {speed:g}")
    start = run_start or run_start_from(run, speed=speed)
    volumes, missing = run.volumes(), getattr(run, "missing", frozenset[int]())
    n_sent = 0
    with Sender(
        address,
        start,
        clock_ns=clock_ns,
        is_cancelled=is_cancelled,
        credentials=credentials,
        spool=spool,
        outage_s=outage_s,
    ) as sender:
        resumed_ns = clock_ns()
        said = sender.resumed or Progress()
        begin_ns = _begin_ns(said, run.tr_s, speed, resumed_ns)
        for at_s, event, index in _remaining(run, said):
            due_ns = begin_ns if speed is None else begin_ns + round(at_s / speed * 1e9)
            if speed is None:
                while sender.is_behind and not is_cancelled():
                    wait_ms(sender, 10)
            while (left_ns := due_ns - clock_ns()) > 0 and not is_cancelled():
                wait_ms(sender, min(max(left_ns // 1_000_000, 1), 50))
            if is_cancelled():
                sender.close(aborted=True)
                return n_sent
            # What was due before a predecessor's successor came was acquired then.
            is_overdue = sender.resumed is not None and speed is not None
            is_overdue &= due_ns < resumed_ns
            now_ns = due_ns if is_overdue else clock_ns()
            if event is not None:
                _present(sender, event, said, now_ns)
            elif index in missing:
                sender.missing(index, "missing in the recording")
            else:
                told = confounds[index] if confounds else None
                sender.volume(index, volumes[index], now_ns, told)
                n_sent += 1
    return n_sent


def _present(sender: Sender, event: RecordedEvent, said: Progress, now_ns: int) -> None:
    """Say of an event what an earlier process, which may have died midway, has not."""
    if event.trial_id not in said.trials:
        sender.event(
            event.trial_id,
            float(event.onset_s),
            float(event.duration_s),
            stimulus_id=event.stimulus_id,
            shown_ns=now_ns,
        )
    if _is_to_report(event, said):
        sender.shown(event.stimulus_id, now_ns, event.trial_id)


def _is_to_report(event: RecordedEvent, said: Progress) -> bool:
    return bool(event.stimulus_id) and event.trial_id not in said.shown


def _begin_ns(said: Progress, tr_s: float, speed: float | None, now_ns: int) -> int:
    """Find the start of volume 0, from the volume that was sent last."""
    if speed is None or said.last_index is None or said.last_acquired_ns is None:
        return now_ns
    # A clock that began anew with the machine is behind what it showed before.
    acquired_ns = min(said.last_acquired_ns, now_ns)
    return acquired_ns - round((said.last_index + 1) * tr_s / speed * 1e9)


def _remaining(
    run: RecordedRun, said: Progress
) -> Iterator[tuple[float, RecordedEvent | None, int]]:
    """Leave out of the timeline what an earlier process has said."""
    if said.has_ended:
        return
    for at_s, event, index in _timeline(run):
        if event is None:
            is_said = index < said.volumes
        else:
            is_said = event.trial_id in said.trials and not _is_to_report(event, said)
        if not is_said:
            yield at_s, event, index


def _timeline(run: RecordedRun) -> Iterator[tuple[float, RecordedEvent | None, int]]:
    """Merge events and volumes by time; at the same instant the event comes first."""
    events = sorted(run.events, key=lambda event: event.onset_s)
    for index in range(run.volume_count):
        end_s = (index + 1) * run.tr_s
        while events and events[0].onset_s <= end_s:
            event = events.pop(0)
            yield max(event.onset_s, 0.0), event, -1
        yield end_s, None, index
    for event in events:
        yield event.onset_s, event, -1
