"""Which trial of a BIDS recording is for what, and what cannot be meant. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from runtime.errors import RecordingError
from runtime.recording import RecordedEvent, RecordedRun

TRAIN: Final = "train"
TEST: Final = "test"
SPLITS: Final = (TRAIN, "calibration", TEST, "live")
"""What trials are for: to learn from, to fit confidence on, to judge, to play."""

Named = tuple[RecordedEvent, str]
"""An event and its split."""


def split_of_event(event: RecordedEvent, run_id: str, test_runs: Iterable[str]) -> str:
    """Return a trial's split; one that the recording does not name is to train."""
    return TEST if run_id in test_runs else event.split or TRAIN


def check_splits(
    folder: Path, runs: Sequence[RecordedRun], test_runs: Iterable[str]
) -> None:
    """Refuse splits that nothing would ever look at, and half a naming.

    Raises:
        RecordingError: A split is none of `SPLITS`, or a run names none for its
            pictures where others do.
    """
    asked = [run for run in runs if run.run_id not in test_runs]
    if not any(event.split for run in asked for event in run.events):
        return
    for run in asked:
        for event in run.events:
            if event.split not in SPLITS:
                found = repr(event.split) if event.split else "none, unlike other runs"
                raise RecordingError(
                    f"{folder}: {run.run_id}: trial {event.trial_id}: split: expected "
                    f"one of {', '.join(SPLITS)}, found {found}"
                )


def shared_pictures(named: Iterable[Named]) -> list[str]:
    """Return the pictures of the test that trials to learn from show, too."""
    shown: dict[str, set[str]] = {TRAIN: set(), TEST: set()}
    for event, split in named:
        if split in shown:
            shown[split].add(event.stimulus_id)
    return sorted(shown[TRAIN] & shown[TEST])


def is_within(event: RecordedEvent, run: RecordedRun) -> bool:
    """Whether an event begins while its run is recorded."""
    return 0 <= event.onset_s < run.volume_count * run.tr_s


def mostly_outside(runs: Sequence[RecordedRun]) -> str:
    """Say how many events lie outside their run where most do; empty where not."""
    within = [is_within(event, run) for run in runs for event in run.events]
    outside = within.count(False)
    if 2 * outside <= len(within):
        return ""
    return (
        f"{outside} of {len(within)} events with an onset outside their run. Onsets "
        "are in seconds after its start"
    )


def without_beta(
    runs: Sequence[RecordedRun], found: Sequence[tuple[int, RecordedEvent]]
) -> str:
    """Say which trials have no beta; empty where all have one.

    Args:
        runs: With their trials.
        found: Run and event of those that have one.
    """
    there = {(run, event.trial_id) for run, event in found}
    outside = early_or_late = 0
    for number, run in enumerate(runs):
        for event in run.events:
            if (number, event.trial_id) in there:
                continue
            if is_within(event, run):
                early_or_late += 1
            else:
                outside += 1
    gap = " or to missing volumes" if any(run.missing for run in runs) else ""
    said = [
        f"{count} {what}"
        for count, what in (
            (outside, "with an onset outside their run"),
            (early_or_late, f"too near to an end of their run{gap} for a beta"),
        )
        if count
    ]
    return f"trials left out: {', '.join(said)}" if said else ""


def split_sizes(splits: Iterable[str]) -> str:
    """Say how many trials each split has, training first."""
    counted = Counter(splits)
    order = sorted(counted, key=lambda name: (name != TRAIN, name))
    return f"splits: {', '.join(f'{name} {counted[name]}' for name in order)}"
