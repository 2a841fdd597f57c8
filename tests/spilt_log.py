"""Recordings whose disk took the first messages alone, the rest being in memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bci_bridge.places import held_places
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import read_recording
from bci_bridge.segment import Logged


def spilt(
    whole: Path,
    log: Path,
    kept: Mapping[str, int],
    change: Callable[[Logged], Logged] = lambda entry: entry,
) -> Path:
    """Write a recording as if its disk had been full.

    Args:
        whole: The recording that is copied.
        log: Where the copy goes; memory is that of `bci_bridge.places`.
        kept: How many messages of each log the disk took.
        change: What becomes of each.
    """
    with held_places(log) as held:
        for name, count in kept.items():
            entries = [change(entry) for entry in read_recording(whole / name)]
            write(held.log(name), entries[:count], 0)
            write(held.spill(name), entries[count:], count)
            segment = held.spill(name) / "000000.mcap"
            segment.rename(segment.with_name("000001.mcap"))
            segment.with_name("segments.json").unlink()
    return log


def write(folder: Path, entries: Sequence[Logged], first_order: int) -> None:
    """Record messages; the first has that place in the order of all."""
    recorder = Recorder(folder, first_order=first_order)
    for entry in entries:
        recorder.append(entry.topic, entry.envelope, entry.log_ns)
    recorder.close()
