"""Runs and participants for tests: a small simulated one on disk, smaller in memory."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np

from runtime.answers import RunGeometry, Trial
from runtime.estimator import BetaEstimator
from runtime.preprocess import VoxelMask
from runtime.recording import open_recording
from training.participant import generate_participant, tiny

SHAPE = (4, 3, 3)
TR_S = 1.5
VOLUMES = 60
BETAS = BetaEstimator(
    decision_delay_s=8.0, baseline_volumes=5, drift_cutoff_s=40.0, noise_shrinkage=None
)
# Overlapping responses, off the volume grid; the last two outlast the run's end.
TRIALS = tuple(Trial(f"trial-{k}", 8.1 + 5.3 * k, 2.0) for k in range(16))


def mask(seed=0):
    chosen = np.random.default_rng(seed).random(SHAPE) < 0.6
    chosen[0, 0, 0], chosen[3, 2, 2] = True, False
    return VoxelMask.from_volume(chosen)


def geometry(volumes=VOLUMES):
    return RunGeometry("run-1", SHAPE, TR_S, volumes)


def scanned(volumes=VOLUMES, seed=0):
    """Volumes as a scanner exports them, with a level, drift and noise."""
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.standard_normal((volumes, *SHAPE)), axis=0)
    noise = 5 * rng.standard_normal((volumes, *SHAPE))
    return np.rint(rng.uniform(500, 1500, SHAPE) + drift + noise).astype(np.int16)


@functools.cache
def tiny_participant() -> Path:
    """One simulated participant for a whole test process; never write into it."""
    scratch = Path(tempfile.mkdtemp(prefix="neuroflow-participant-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return generate_participant(scratch / "participant", tiny(), seed=3).root


def with_buttons(folder):
    """Put a button press without a picture before every trial; return how many."""
    for file in sorted(folder.glob("sub-*/**/func/*_events.tsv")):
        head, *rows = file.read_text().splitlines()
        names = head.split("\t")
        lines = [head]
        for number, row in enumerate(rows):
            press = dict.fromkeys(names, "n/a") | {
                "onset": row.split("\t")[names.index("onset")],
                "duration": "0",
                "trial_type": "button",
                "trial_id": f"press-{number}",
            }
            lines += ["\t".join(press[name] for name in names), row]
        file.write_text("\n".join(lines) + "\n")
    return sum(len(run.events) for run in open_recording(folder).runs) // 2
