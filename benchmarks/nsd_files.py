"""Files with the shapes, types, chunks and counts of the Natural Scenes Dataset."""

import gzip
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from scipy.io import savemat

from training.data.files import describe
from training.data.manifest import Split, TrialsManifest, VisualSource
from training.data.nsd_regions import COLLECTIONS
from training.data.store import encode_manifest

SHAPE, VOXELS, PER_SESSION = (81, 104, 83), 15_724, 750
TOKENS, WIDTH = 256, 1664
TRIALS, TRAIN, IMAGES = 30_000, 27_000, 10_000
BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
ROI = "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"


class CheapBackbone:
    """Numbers of the true shape, another block for each picture, in no time."""

    source = VisualSource(name="generated", detail="shifted noise")
    shape = (TOKENS, WIDTH)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._noise = 0.16 + 1.1 * rng.standard_normal(self.shape, dtype=np.float32)
        self._seen = 0

    def latents(self, pictures: np.ndarray) -> np.ndarray:
        """Return a block for each picture."""
        first, self._seen = self._seen, self._seen + len(pictures)
        rows = range(first, self._seen)
        return np.stack([np.roll(self._noise, row, axis=1) for row in rows])


def generate(root: Path, sessions: int) -> dict[str, Any]:
    """Write the files; half of the sessions as NIfTI, half as HDF5."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    brain = radius < 0.83
    # The mask: as many voxels as subject 1 has, at the back of the brain.
    depth = np.where(brain, grid[1], np.inf).ravel()
    mask = np.zeros(depth.size, dtype=bool)
    mask[np.argsort(depth, kind="stable")[:VOXELS]] = True
    for folder in (BETAS, str(Path(ROI).parent), str(Path(STIMULI).parent)):
        (root / folder).mkdir(parents=True)
    nib.save(
        nib.Nifti1Image(mask.reshape(SHAPE).astype(np.int16), np.eye(4)), root / ROI
    )
    write_regions((root / ROI).parent, mask.reshape(SHAPE))
    order = rng.permutation(np.repeat(np.arange(1, IMAGES + 1), 3))
    pictures = np.stack([rng.permutation(73_000)[:IMAGES] + 1 for _ in range(8)])
    pattern = np.zeros((40, 12, 75), dtype=np.uint8)
    pattern[:, ::2, :63], pattern[:, 1::2, :62] = 1, 1
    design = root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    design.parent.mkdir(parents=True)
    savemat(
        design,
        {
            "masterordering": order[None].astype(np.uint16),
            "subjectim": pictures.astype(np.int32),
            "stimpattern": pattern,
        },
    )
    inside = np.flatnonzero(brain.ravel(order="F"))
    noise = rng.integers(-900, 900, inside.size + PER_SESSION).astype(np.int16)
    for session in range(sessions):
        stem = root / BETAS / f"betas_session{session + 1:02}"
        if session % 2:
            _write_hdf5(Path(f"{stem}.hdf5"), brain, rng)
        else:
            _write_nifti(Path(f"{stem}.nii.gz"), inside, noise)
    with h5py.File(root / STIMULI, "w") as file:
        # Chunks that were never written take no room and read as black.
        file.create_dataset(
            "imgBrick", (73_000, 425, 425, 3), "u1", chunks=(1, 425, 425, 3)
        )
    return {"brain_voxels": int(brain.sum()), "mask_voxels": int(mask.sum())}


def write_regions(folder: Path, mask: np.ndarray) -> None:
    """Write every volume of regions that the dataset has: slabs of the mask."""
    rank = np.arange(int(mask.sum()))
    for name, labels in COLLECTIONS.items():
        volume = np.zeros(mask.shape, np.int16)
        # As many voxels each; the first are of none.
        volume[mask] = rank * (len(labels) + 1) // rank.size
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{name}.nii.gz")


def _write_nifti(file: Path, inside: np.ndarray, noise: np.ndarray) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((*SHAPE, PER_SESSION))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(file, "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + bytes(4))
        volume = np.zeros(int(np.prod(SHAPE)), dtype=np.int16)
        for trial in range(PER_SESSION):
            volume[inside] = noise[trial : trial + inside.size]
            stream.write(volume.tobytes())


def _write_hdf5(file: Path, brain: np.ndarray, rng: np.random.Generator) -> None:
    with h5py.File(file, "w") as opened:
        data = opened.create_dataset(
            "betas", (PER_SESSION, *SHAPE[::-1]), "i2", chunks=(PER_SESSION, 1, 1, 1)
        )
        noise = rng.integers(-900, 900, (PER_SESSION, *SHAPE[1::-1])).astype(np.int16)
        for z in range(SHAPE[2]):
            data[:, z] = noise * brain[:, :, z].T


def sparse(
    folder: Path, voxels: int = VOXELS, latent: tuple[int, int] = (TOKENS, WIDTH)
) -> dict[str, Any]:
    """Make a folder of trials with the shapes of all 40 sessions, all of it holes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    big = {
        "voxels": ("float32", (TRIALS, voxels)),
        "latents": ("float16", (IMAGES, *latent)),
    }
    small: dict[str, np.ndarray] = {
        "mean": np.zeros((40, voxels), np.float32),
        "std": np.ones((40, voxels), np.float32),
        "latent_mean": np.zeros(latent, np.float32),
        "image": rng.integers(0, 9_000, TRIALS),
        "group": np.arange(TRIALS) // PER_SESSION,
        "run": np.arange(TRIALS) // PER_SESSION,
        "position": np.arange(TRIALS),
    }
    for name, (dtype, shape) in big.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)
    for name, array in small.items():
        np.save(folder / f"{name}.npy", array)
    files = {
        f"{name}.npy": describe(
            folder / f"{name}.npy", np.load(folder / f"{name}.npy", mmap_mode="r")
        )
        for name in (*big, *small)
    }
    names = tuple(f"session{s + 1:02}" for s in range(40))
    manifest = TrialsManifest(
        source="nsd", subject="subj01", voxels=voxels, mask_sha256="0" * 64,
        betas="nsd", betas_detail="", normalisation="session-train",
        groups=names, runs=names,
        splits={"train": Split(first=0, trials=TRAIN),
                "test": Split(first=TRAIN, trials=TRIALS - TRAIN)},
        image_ids=tuple(f"nsd-{i:05}" for i in range(IMAGES)),
        visual=CheapBackbone.source, files=files,
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    sizes = [file.stat() for file in folder.iterdir()]
    return {
        "apparent_bytes": sum(size.st_size for size in sizes),
        "bytes_on_disk": sum(512 * size.st_blocks for size in sizes),
    }
