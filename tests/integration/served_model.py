"""A bundle, a gallery and a recording that fits them, and `neuroflow serve` on them."""

import json
import shutil
import subprocess
from contextlib import contextmanager

import nibabel as nib
import numpy as np

from runtime.bundle import open_bundle
from runtime.gallery import write_gallery
from tests.integration.test_replay_command import ENVIRONMENT, ROOT, command
from tests.models import served_bundle

EVENTS = "onset\tduration\ttrial_type\ttrial_id\n2.0\t1.0\timage\tt-1\n"


def write_model(out):
    """Copy a small model with random weights; return the shape of its volumes."""
    shutil.copytree(served_bundle(), out / "bundle")
    with open_bundle(out / "bundle") as bundle:
        latent, shape = bundle.manifest.latent, tuple(bundle.manifest.voxels.shape)
    items = np.random.default_rng(4).standard_normal((2, latent.tokens, latent.width))
    write_gallery(
        out / "gallery", latents=items.astype("f4"), ids=["a", "b"], labels=["x", "y"]
    )
    return shape


def write_recording(folder, shape, volumes=20, runs=("01", "02"), tr_s=1.0):
    """Write a BIDS folder of noise."""
    rng = np.random.default_rng(3)
    func = folder / "sub-01" / "func"
    masks = folder / "derivatives" / "masks" / "sub-01"
    for made in (func, masks):
        made.mkdir(parents=True)
    nib.save(
        nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), masks / "mask.nii.gz"
    )
    for run in runs:
        stem = f"sub-01_task-look_run-{run}"
        data = rng.integers(900, 1100, (*shape, volumes), dtype=np.int16)
        nib.save(nib.Nifti1Image(data, np.eye(4)), func / f"{stem}_bold.nii.gz")
        (func / f"{stem}_bold.json").write_text(json.dumps({"RepetitionTime": tr_s}))
        (func / f"{stem}_events.tsv").write_text(EVENTS)
    return folder


@contextmanager
def serving(out, *flags):
    """Run `neuroflow serve` on the model; it is gone when the block ends."""
    line = command(
        "serve", "--bundle", out / "bundle", "--gallery", out / "gallery",
        "--address", "tcp://127.0.0.1:*", "--threads", "1", *flags,
    )  # fmt: skip
    process = subprocess.Popen(
        line, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def served(out, *flags):
    """Serve until it ends by itself; return the status and what it said."""
    with serving(out, *flags) as process:
        _, error = process.communicate(timeout=90)
    return process.returncode, error
