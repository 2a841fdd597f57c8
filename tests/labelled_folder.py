"""A small recording in Haxby's layout: eight categories in blocks, and rest."""

import nibabel as nib
import numpy as np

from training.haxby import CATEGORIES

SHAPE = (4, 3, 2)
RUNS, LENGTH = 5, 3


def write_haxby(folder, seed=0):
    """Eight strong patterns, each a block a run, in the noise of a shifting level."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(0, 30, (CATEGORIES + 1, *SHAPE))
    patterns[0] = 0
    volumes, lines = [], []
    for run in range(RUNS):
        labels = [0, 0]
        for category in rng.permutation(CATEGORIES) + 1:
            labels += [int(category)] * LENGTH + [0]
        level = 1000 + rng.normal(0, 20, SHAPE)
        for label in labels:
            volumes.append(level + patterns[label] + rng.normal(0, 10, SHAPE))
            lines.append(f"{label} {run}")
    data = np.rint(np.stack(volumes, axis=-1)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), folder / "bold.nii.gz")
    mask = nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), np.eye(4))
    nib.save(mask, folder / "mask.nii.gz")
    (folder / "attributes.txt").write_text("\n".join(lines) + "\n")
    return folder
