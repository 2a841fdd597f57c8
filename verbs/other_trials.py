"""Trials of another split than the judged one: how far single trials may lie."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from runtime.bundle import Bundle
from runtime.recording import open_recording
from runtime.recording_bids import known_subject
from training.data.store import PreparedTrials
from training.features import Progress
from training.metrics.result import Absent
from training.metrics.spread import POOL
from verbs.bundle_evaluation import Others
from verbs.bundle_trials import read_trials
from verbs.prepared import split_of

LEARNED: Final = "train"
PREFERRED: Final = ("calibration", LEARNED)
"""What is left over of trials that a model has learned from is too little; where there
are others that it has not seen, these are taken."""


def others_of_recording(
    folder: Path, bundle: Bundle, split: str, on_run: Progress | None = None
) -> Others | Absent:
    """Estimate trials of another split of a recording, of the bundle's participant.

    Raises:
        RecordingError: The recording is damaged.
    """
    subject = known_subject(folder, bundle.manifest.subject)
    runs = open_recording(folder, subject=subject).runs
    there = {event.split for run in runs for event in run.events}
    name = _choice(there, split)
    if isinstance(name, Absent):
        return name
    trials = read_trials(folder, bundle, name, on_run)
    return Others(name, trials.thinned(POOL), name == LEARNED)


def others_of_trials(
    trials: PreparedTrials, bundle: Bundle, split: str
) -> Others | Absent:
    """Read trials of another split of a folder of prepared ones."""
    name = _choice(trials.manifest.splits, split)
    if isinstance(name, Absent):
        return name
    return Others(name, split_of(trials, bundle, name, POOL), name == LEARNED)


def _choice(there: Collection[str], judged: str) -> str | Absent:
    for name in PREFERRED:
        if name in there and name != judged:
            return name
    return Absent(
        f"no trials of split {' or '.join(PREFERRED)} beside the judged ones, whose "
        "residuals could be drawn"
    )
