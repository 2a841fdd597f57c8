"""A small folder in the layout of the Natural Scenes Dataset, and its truth in memory.

True: paths, file formats, types, axis orders, counting from 1, chunks. Small: voxels,
trials of a session, pictures.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from scipy.io import savemat

SHAPE = (5, 4, 3)
PER_SESSION = 10
PICTURES = 60
SIDE = 16
BETAS = "nsddata_betas/ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR"
MASK = "nsddata/ppdata/subj02/func1pt8mm/roi/nsdgeneral.nii.gz"
DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"


@dataclass(frozen=True)
class NsdFolder:
    root: Path
    betas: np.ndarray
    """int16 [session, trial, x, y, z]."""
    mask: np.ndarray
    order: np.ndarray
    subjectim: np.ndarray
    bricks: np.ndarray


def write_nsd(root: Path, *, sessions=3, formats=("nii.gz", "hdf5", "nii.gz"), seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < 0.5
    mask[0, 0, 0], mask[4, 3, 2] = True, False
    betas = rng.integers(-900, 900, (sessions, PER_SESSION, *SHAPE)).astype(np.int16)
    betas[:, :, 0, 0, 0] = 7
    # Numbers of 1,000 and below are shared; every session shows some of both.
    own = np.concatenate([np.arange(995, 1001), np.arange(1001, 1031)])
    order = rng.choice(own, 40 * PER_SESSION).astype(np.uint16)
    order[::5], order[1::5] = 998, 1003
    subjectim = np.zeros((8, 1100), dtype=np.int32)
    subjectim[:, 994:1030] = np.stack(
        [rng.permutation(PICTURES)[:36] + 1 for _ in range(8)]
    )
    bricks = rng.integers(0, 256, (PICTURES, SIDE, SIDE, 3)).astype(np.uint8)
    write_mask(root / MASK, mask)
    write_design(root / DESIGN, order, subjectim)
    for session in range(sessions):
        stem = root / BETAS / f"betas_session{session + 1:02}"
        write_session(Path(f"{stem}.{formats[session % len(formats)]}"), betas[session])
    (root / STIMULI).parent.mkdir(parents=True)
    with h5py.File(root / STIMULI, "w") as file:
        file["imgBrick"] = bricks
    return NsdFolder(root, betas, mask, order.astype(int), subjectim, bricks)


def write_mask(file: Path, mask: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # The dataset's masks hold -1 outside the cortex.
    nib.save(nib.Nifti1Image(np.where(mask, 1, -1).astype(np.int16), np.eye(4)), file)


def write_labels(file: Path, labels: np.ndarray) -> None:
    """Write labels of regions, 0 where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), file)


def write_design(file: Path, order, subjectim, **extra) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pattern = np.zeros((40, 2, PER_SESSION), dtype=np.uint8)
    pattern[:, 0, :4], pattern[:, 1, 2:8] = 1, 1
    whole = {"masterordering": order[None], "subjectim": subjectim}
    savemat(file, {**whole, "stimpattern": pattern, **extra})


def write_session(file: Path, betas: np.ndarray) -> None:
    """Write [trial, x, y, z]: NIfTI as [x, y, z, trial], HDF5 as MATLAB would."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".hdf5":
        with h5py.File(file, "w") as opened:
            opened.create_dataset(
                "betas", data=betas.transpose(0, 3, 2, 1), chunks=(len(betas), 1, 1, 1)
            )
        return
    image = nib.Nifti1Image(betas.transpose(1, 2, 3, 0), np.eye(4))
    if file.name.endswith(".gz"):
        file.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1))
    else:
        file.write_bytes(image.to_bytes())
