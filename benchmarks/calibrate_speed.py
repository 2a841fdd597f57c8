"""How long `neuroflow calibrate` takes at a size: weights and volumes are drawn.

    python benchmarks/calibrate_speed.py --voxels 15724 --trials 100

A model that was never trained decodes nothing, so that the verb ends by refusing; by
then it has done all of its work but to write a file of a few megabytes. Printed are
the seconds of the wall and of the processor, and how many evaluations of the model
were asked for.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import msgspec
import nibabel
import numpy as np

from runtime.bundle import open_bundle
from runtime.errors import CalibrationError
from runtime.gallery import write_gallery
from training.config import config_from_preset
from verbs.bench_preset import write_preset
from verbs.calibrate import calibrate_day
from verbs.demo.summary import machine

TR_S, ASYNCHRONY_S, REST_S, TAIL_S = 1.0, 4.0, 12.0, 16.0
DISTRACTORS = 200


def write_day(folder: Path, mask: np.ndarray, trials: int) -> int:
    """Write one run of noise on a level, with events; return its volumes."""
    rng = np.random.default_rng(0)
    func, masks = folder / "sub-01/func", folder / "derivatives/masks/sub-01"
    for made in (func, masks):
        made.mkdir(parents=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nibabel.save(
        nibabel.Nifti1Image(mask.astype(np.uint8), affine), masks / "mask.nii.gz"
    )
    volumes = int((REST_S + trials * ASYNCHRONY_S + TAIL_S) / TR_S)
    data = rng.integers(900, 1100, (*mask.shape, volumes), dtype=np.int16)
    stem = func / "sub-01_task-images_run-01"
    nibabel.save(nibabel.Nifti1Image(data, affine), f"{stem}_bold.nii.gz")
    Path(f"{stem}_bold.json").write_text(json.dumps({"RepetitionTime": TR_S}))
    lines = ["onset\tduration\ttrial_type\tstim_id\ttrial_id"]
    for k in range(trials):
        onset = REST_S + k * ASYNCHRONY_S
        lines.append(f"{onset:.1f}\t2.0\timage\tstim-{k}\ttrial-{k}")
    Path(f"{stem}_events.tsv").write_text("\n".join(lines) + "\n")
    return volumes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--voxels", type=int, default=15_724)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    config = config_from_preset(chosen.preset, voxels=chosen.voxels)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        bundle = write_preset(config, place, created="2026-01-02", seed=0)
        with open_bundle(bundle) as opened:
            latent, mask = opened.manifest.latent, opened.mask
            volumes = write_day(place / "day", mask, chosen.trials)
        count = chosen.trials + DISTRACTORS
        rng = np.random.default_rng(1)
        write_gallery(
            place / "gallery",
            latents=rng.standard_normal((count, latent.tokens, latent.width), "f4"),
            ids=[f"stim-{k}" for k in range(count)],
            labels=["drawn"] * count,
        )
        began, used = time.perf_counter(), time.process_time()
        try:
            calibrate_day(
                bundle, place / "gallery", place / "day", place / "overlay",
                threads=chosen.threads,
            )  # fmt: skip
            end = "wrote an overlay"
        except CalibrationError as error:
            end = str(error)
        result = {
            "preset": chosen.preset,
            "voxels": chosen.voxels,
            "trials": chosen.trials,
            "volumes": volumes,
            "evaluations": 4 * chosen.trials,
            "seconds": time.perf_counter() - began,
            "cpu_s": time.process_time() - used,
            "end": end,
            "machine": machine(),
        }
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
