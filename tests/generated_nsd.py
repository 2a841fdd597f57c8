"""Files in the layout of the Natural Scenes Dataset, to go the whole way with.

    python -m tests.generated_nsd NSD

Paths, formats, types, axis orders, chunks and counting are those of the dataset; what
is in them is generated. Subject 1 has four sessions of 60 trials and 200 voxels in the
mask, each picture was shown three times, and the responses are a linear function of 48
numbers that a picture was made of, with noise and with a level and a scale of their own
in every session.
"""

import argparse
import sys
from pathlib import Path

import h5py
import numpy as np

from tests.nsd_folder import (
    BETAS,
    DESIGN,
    MASK,
    STIMULI,
    write_design,
    write_labels,
    write_mask,
    write_session,
)

SHAPE, VOXELS = (12, 10, 8), 200
SESSIONS, PER_SESSION, REPEATS = 4, 60, 3
SHARED, OWN, BRICKS = 12, 68, 200
BLOCKS, SIDE = 4, 32
SIGNAL, NOISE, SCALE = 0.6, 1.0, 300


def main() -> None:
    """Write the folder that is named on the command line."""
    parser = argparse.ArgumentParser(description="Generate a small NSD-shaped folder.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    generate(folder)
    sys.stdout.write(
        f"{folder}: subject 1, {SESSIONS} sessions of {PER_SESSION} trials, "
        f"{VOXELS} voxels, {SHARED + OWN} pictures shown {REPEATS} times\n"
    )


def generate(folder: Path, seed: int = 0) -> None:
    """Write one participant's mask, design, sessions and pictures."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(np.prod(SHAPE), dtype=bool)
    mask[rng.choice(mask.size, VOXELS, replace=False)] = True
    mask = mask.reshape(SHAPE)
    numbers = np.concatenate([np.arange(1, SHARED + 1), np.arange(1001, 1001 + OWN)])
    seen = rng.permutation(np.repeat(numbers, REPEATS))
    # The design is of 40 sessions; what comes after those that are there is not read.
    order = np.resize(seen, 40 * PER_SESSION).astype(np.uint16)
    subjectim = np.zeros((8, 1000 + OWN), dtype=np.int32)
    for row in subjectim:
        row[numbers - 1] = rng.choice(BRICKS, len(numbers), replace=False) + 1
    factors = rng.integers(30, 226, (BRICKS, BLOCKS, BLOCKS, 3))
    write_mask(_of_subject_1(folder / MASK), mask)
    roi = _of_subject_1(folder / MASK).parent
    write_labels(roi / "prf-visualrois.nii.gz", _bands(mask, 7))
    write_labels(roi / "floc-faces.nii.gz", _bands(mask, 2, every=3))
    write_design(folder / DESIGN, order, subjectim, stimpattern=_runs())
    _write_pictures(folder / STIMULI, factors)
    flat = (factors.reshape(BRICKS, -1) - 127.5) / 56.6
    weights = rng.normal(size=(flat.shape[1], VOXELS)) / flat.shape[1] ** 0.5
    response = SIGNAL * flat @ weights
    for session in range(SESSIONS):
        trials = slice(session * PER_SESSION, (session + 1) * PER_SESSION)
        pictures = subjectim[0, seen[trials].astype(int) - 1] - 1
        noise = NOISE * rng.normal(size=(PER_SESSION, VOXELS))
        level, scale = rng.normal(size=VOXELS), rng.uniform(0.8, 1.2, VOXELS)
        percent = level + scale * (response[pictures] + noise)
        betas = np.zeros((PER_SESSION, *SHAPE), dtype=np.int16)
        betas[:, mask] = np.rint(SCALE * percent)
        stem = _of_subject_1(folder / BETAS) / f"betas_session{session + 1:02}"
        # Both formats that the dataset comes in.
        write_session(Path(f"{stem}{('.nii.gz', '.hdf5')[session % 2]}"), betas)


def _bands(mask: np.ndarray, labels: int, every: int = 1) -> np.ndarray:
    """Give voxels of the mask labels from 1 on, in slabs; the rest are of no region."""
    inside = np.flatnonzero(mask)[::every]
    volume = np.zeros(mask.shape, dtype=np.int16)
    # The first are left out: cortex that no region covers.
    covered = inside[len(inside) // 10 :]
    volume.flat[covered] = 1 + np.arange(len(covered)) * labels // len(covered)
    return volume


def _of_subject_1(path: Path) -> Path:
    return Path(str(path).replace("subj02", "subj01"))


def _runs() -> np.ndarray:
    pattern = np.zeros((40, 2, PER_SESSION), dtype=np.uint8)
    pattern[:, :, : PER_SESSION // 2] = 1
    return pattern


def _write_pictures(file: Path, factors: np.ndarray) -> None:
    size = SIDE // BLOCKS
    bricks = factors.repeat(size, axis=1).repeat(size, axis=2).astype(np.uint8)
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as opened:
        opened["imgBrick"] = bricks


if __name__ == "__main__":
    main()
