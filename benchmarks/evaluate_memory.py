"""Memory of `evaluate --bundle` by the number of images, at the published size.

    python benchmarks/evaluate_memory.py --scratch DIR --out docs/evaluate_memory.json

A bundle of the published voxels, tokens and width with drawn weights and one block,
and random trials, three an image; each number of images is a process of its own, which
does what the verb does with them but for the spread of single trials, the only part
that was left out for the time that it takes. Two numbers of images, both with as many
trials as are decoded at a time or more (64), show that nothing grows but what is given:
z_v and the trials.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from nsd_scale import rss_mib

from runtime.bundle import open_bundle
from runtime.model import open_model
from training.config import config_from_preset
from training.metrics.result import Absent
from verbs.bench_preset import write_preset
from verbs.bundle_evaluation import evaluate_split
from verbs.demo.summary import machine
from verbs.progress import screen
from verbs.split_trials import WHOLE_MASK, BundleMaps, SplitTrials

REPEATS = 3


def draw(out: Path) -> None:
    """Write the bundle."""
    config = config_from_preset("paper-subj01")
    flow = msgspec.structs.replace(config.flow, depth=1)
    config = msgspec.structs.replace(config, flow=flow)
    out.mkdir(parents=True)
    write_preset(config, out, created="2026-01-01", seed=0)


def trials(maps: BundleMaps, images: int) -> SplitTrials:
    """Return random trials, three an image."""
    rng = np.random.default_rng(0)
    latent, voxels = maps.bundle.latent_mean.shape, maps.space.affine.mean.size
    return SplitTrials(
        betas=rng.standard_normal((REPEATS * images, voxels), dtype=np.float32),
        shown=np.tile(np.arange(images), REPEATS),
        z_v=rng.standard_normal((images, *latent), dtype=np.float32),
        pictures=Absent("drawn at random"),
        names=[f"image-{row:04}" for row in range(images)],
        labels=None,
        rois={WHOLE_MASK: np.ones(voxels, dtype=np.bool_)},
    )


def measured(folder: Path, images: int) -> dict[str, Any]:
    began = time.perf_counter()
    with (
        open_bundle(folder / "bundle") as bundle,
        open_model(bundle, "openvino") as model,
        screen() as shown,
    ):
        before = rss_mib("VmRSS")
        # What opening took for a while is not what evaluating takes.
        Path("/proc/self/clear_refs").write_text("5")
        maps = BundleMaps(bundle, model)
        left_out = Absent("left out")
        rng = np.random.default_rng(0)
        given = trials(maps, images)
        evaluate_split(maps, None, given, left_out, {}, rng, shown)
    return {
        "images": images,
        "trials": len(given.betas),
        "z_v_mib": round(given.z_v.nbytes / 2**20, 1),
        "opened_model_mib": before,
        "peak_mib": rss_mib("VmHWM"),
        "seconds": round(time.perf_counter() - began, 1),
    }


def apart(folder: Path, images: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--scratch", str(folder), "--one", str(images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(found), file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=(24, 72))
    parser.add_argument("--one", type=int, help="measure this many in this process")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.one is not None:
        print(json.dumps(measured(chosen.scratch, chosen.one)))
        return
    if chosen.scratch.exists():
        parser.error(
            f"--scratch: expected a folder that does not exist, found {chosen.scratch}"
        )
    draw(chosen.scratch)
    try:
        rows = [apart(chosen.scratch, images) for images in chosen.images]
    finally:
        shutil.rmtree(chosen.scratch, ignore_errors=True)
    found = {
        "schema": 1,
        "machine": machine(),
        "load_after": os.getloadavg(),
        "rows": rows,
    }
    text = json.dumps(found, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
