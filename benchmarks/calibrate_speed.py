"""How long `neuroflow calibrate` takes at a size: weights and volumes are drawn.

    python benchmarks/calibrate_speed.py --preset paper-subj01 --trials 100

Two processes of their own, as at a rig. `prepare-calibration` predicts a few images;
the others' predictions are drawn, files as large as it would have written. Then
`calibrate` with all of them. A model that was never trained sees nothing, so that the
verb ends by refusing. By then it has done all of its work but to write a file of a few
megabytes, and to encode corrected trials, as many evaluations as there are trials,
which it does where the correction gains among voxels. Printed are the seconds of the
wall and of the processors.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import nibabel
import numpy as np

from runtime.bundle import open_bundle
from runtime.gallery import write_gallery
from runtime.model import SAMPLES, open_model
from runtime.predictions import Predictions
from training.config import config_from_preset
from verbs.bench_preset import write_preset
from verbs.demo.summary import machine
from verbs.prepare_calibration import kept_in

TR_S, ASYNCHRONY_S, REST_S, TAIL_S = 1.0, 4.0, 12.0, 16.0
DISTRACTORS = 200
ENCODINGS = 20
"""Timed alone, of the median."""


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


def verb(*words: object) -> dict[str, object]:
    """Run a verb in its own process; say how it ended and what it took."""
    line = [sys.executable, "-m", "neuroflow", *map(str, words)]
    began = time.perf_counter()
    done = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    # Both are a few lines, which pipes hold.
    _, status, used = os.wait4(done.pid, 0)
    seconds = time.perf_counter() - began
    done.returncode = os.waitstatus_to_exitcode(status)
    with done.stdout as out, done.stderr as err:
        said = (out.read() + err.read()).decode().splitlines()
    return {
        "status": done.returncode,
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "stages": [line.strip() for line in said if " s  " in line],
        "end": [line for line in said if line][-1],
    }


def one_encoding(bundle: Path, threads: int | None) -> dict[str, float]:
    """Return the median seconds of an evaluation of the encoder."""
    with (
        open_bundle(bundle) as opened,
        open_model(
            opened, threads=threads, samples=SAMPLES, parts=("encoder",)
        ) as model,
    ):
        voxels = np.ones(opened.manifest.voxels.count, np.float32)
        wall, cpu = [], []
        for _ in range(ENCODINGS):
            began, used = time.perf_counter(), time.process_time()
            model.encode_voxels(voxels)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
    return {"seconds": float(np.median(wall)), "cpu_s": float(np.median(cpu))}


def keep_drawn(folder: Path, bundle: Path, latents: np.ndarray) -> None:
    """Keep predictions of any numbers for images that have none yet."""
    rng = np.random.default_rng(2)
    with open_bundle(bundle) as opened:
        kept, voxels = kept_in(folder, opened), opened.manifest.voxels.count
    for z_v in latents:
        if not kept.holds(z_v):
            z_n = rng.standard_normal((1, *z_v.shape), "f4")
            response = rng.standard_normal((1, voxels), "f4")
            kept.keep(z_v, Predictions(z_n, response))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper-subj01")
    parser.add_argument("--voxels", type=int, default=15_724)
    parser.add_argument("--depth", type=int, help="Blocks of the flow, if not all.")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--predicted", type=int, default=3)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    config = config_from_preset(chosen.preset, voxels=chosen.voxels)
    if chosen.depth is not None:
        flow = msgspec.structs.replace(config.flow, depth=chosen.depth)
        config = msgspec.structs.replace(config, flow=flow)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        bundle = write_preset(config, place, created="2026-01-02", seed=0)
        with open_bundle(bundle) as opened:
            latent, mask = opened.manifest.latent, opened.mask
            volumes = write_day(place / "day", mask, chosen.trials)
        count = chosen.trials + DISTRACTORS
        rng = np.random.default_rng(1)
        latents = rng.standard_normal((count, latent.tokens, latent.width), "f4")
        names = [f"stim-{k}" for k in range(count)]
        write_gallery(
            place / "gallery", latents=latents, ids=names, labels=["drawn"] * count
        )
        threads = () if chosen.threads is None else ("--threads", chosen.threads)
        both = ("--bundle", bundle, "--gallery", place / "gallery", *threads)
        prepared = place / "predictions"
        prepare = verb(
            "prepare-calibration", *both, "--out", prepared,
            "--images", *names[: chosen.predicted],
        )  # fmt: skip
        keep_drawn(prepared, bundle, latents[: chosen.trials])
        calibrate = verb(
            "calibrate", *both, "--predictions", prepared,
            "--recording", place / "day", "--out", place / "overlay",
        )  # fmt: skip
        result = {
            "preset": chosen.preset,
            "blocks": config.flow.depth,
            "voxels": chosen.voxels,
            "trials": chosen.trials,
            "volumes": volumes,
            "predicted": chosen.predicted,
            "prepare": prepare,
            "calibrate": calibrate,
            "encoding": one_encoding(bundle, chosen.threads),
            "load": os.getloadavg()[0],
            "machine": machine(),
        }
    print(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())


if __name__ == "__main__":
    main()
