"""Participants on whom decoders are compared, made anew and read causally."""

from pathlib import Path
from typing import Final

from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from training.dataset import Dataset, open_dataset
from training.participant import (
    ParticipantFolder,
    ParticipantParameters,
    generate_hybrid,
    generate_participant,
)
from training.participant.hybrid import hybrid_table, read_recording

SPLITS: Final = ("train", "calibration", "test")


def simulated_dataset(out: Path, seed: int) -> tuple[ParticipantFolder, Dataset]:
    """Generate a simulated participant of the frozen table and estimate its trials.

    Args:
        out: Folder to create; must not exist.
        seed: Of the participant.
    """
    participant = generate_participant(out, ParticipantParameters(), seed)
    return participant, open_dataset(out, BetaEstimator(), PatchDct(), splits=SPLITS)


def hybrid_dataset(
    out: Path, recording: Path, seed: int
) -> tuple[ParticipantFolder, Dataset]:
    """Generate a hybrid participant on recorded residuals and estimate its trials.

    Args:
        out: Folder to create; must not exist.
        recording: In Haxby's layout.
        seed: Of the participant; the residuals are the same for all.
    """
    table = hybrid_table()
    participant = generate_hybrid(out, read_recording(recording), table, seed)
    # The baseline of percent signal ends where the first trial begins.
    rest = BetaEstimator(baseline_volumes=int(table.baseline_s / table.tr_s))
    return participant, open_dataset(out, rest, PatchDct(), splits=SPLITS)
