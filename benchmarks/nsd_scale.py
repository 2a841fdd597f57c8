"""Data at the scale of the Natural Scenes Dataset: memory and samples per second.

    python benchmarks/nsd_scale.py --scratch DIR --out docs/nsd_scale.json

Writes files of the true shapes, types, chunks and counts for one participant into DIR
(about 7 GB for four sessions, removed at the end), prepares them as `prepare-nsd` does,
regions and the test's pictures included, and iterates over an epoch; each measurement
is a process of its own. What is generated is not the dataset: betas are noise in an
ellipsoid as large as a liberal brain mask and zero elsewhere, regions are slabs of the
mask, pictures are all black, and the backbone gives cheap numbers of the true shape.
Then a folder with the shapes of all 40 sessions is made of sparse files, to see that
nothing grows with its size.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nsd_files import (
    PER_SESSION,
    STIMULI,
    TOKENS,
    TRAIN,
    WIDTH,
    CheapBackbone,
    generate,
    sparse,
)

from training.data.nsd import open_nsd, prepare_nsd
from training.data.nsd_latents import SharedPictures, latents_of_backbone
from training.data.nsd_regions import nsd_volumes
from training.data.regions import chosen_volumes, read_regions
from training.data.store import open_trials
from training.latents import latent_batch
from training.trials import TrialSet, epoch_order, let_go

BATCH = 64
NAIVE_TRIALS = 1_200


def prepare(root: Path, out: Path) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    began = [time.perf_counter(), ""]

    def announce(line: str) -> None:
        now = time.perf_counter()
        if began[1]:
            seconds[str(began[1])] = round(now - float(began[0]), 2)
        began[:] = [now, line]

    announce("design, mask, sessions, regions")
    trials = open_nsd(root, 1)
    volumes = chosen_volumes((), nsd_volumes(trials.roi_folder))
    regions = read_regions(volumes, trials.mask)
    before = peak_mib()
    latents = latents_of_backbone(CheapBackbone(), root / STIMULI)
    manifest = prepare_nsd(
        trials,
        1,
        out,
        "train",
        latents,
        regions=regions,
        kept=SharedPictures(root / STIMULI),
        announce=announce,
    )
    announce("opened again")
    open_trials(out)
    announce("")
    return {
        "trials": trials.trials,
        "images": len(manifest.image_ids),
        "voxels": manifest.voxels,
        "regions": len(manifest.regions),
        "test_pictures_kept": manifest.test_images,
        "seconds": seconds,
        "peak_rss_before_mib": before,
        "peak_rss_mib": peak_mib(),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
    }


def epoch(folder: Path, *, is_cold: bool) -> dict[str, Any]:
    """Open the folder and read one epoch as training does."""
    if is_cold:
        drop_from_cache(folder)
    began = time.perf_counter()
    trials = open_trials(folder).split("train").centred()
    opened_s = time.perf_counter() - began
    found = {"open_s": round(opened_s, 3), "rss_after_open_mib": rss_mib()}
    return {**found, **iterate(trials, lambda rows: both(trials, rows))}


def both(trials: TrialSet, rows: np.ndarray) -> torch.Tensor:
    torch.from_numpy(trials.voxel_rows(rows))
    return latent_batch(trials, rows, torch.device("cpu"))


def only_read(folder: Path) -> dict[str, Any]:
    """Read one epoch without the cast: what a GPU would be sent."""
    trials = open_trials(folder).split("train")
    return iterate(
        trials, lambda rows: (trials.voxel_rows(rows), trials.stored_z_v(rows))
    )


def held(folder: Path) -> dict[str, Any]:
    """Read one epoch through the maps and never let go, as a plain memory map does."""
    trials = open_trials(folder).split("train")
    return iterate(
        trials, lambda rows: (trials.voxels[rows], trials.latents[trials.image[rows]])
    )


def naive(folder: Path) -> dict[str, Any]:
    """Hold float32 latents once per trial, as a plain loader does."""
    trials = open_trials(folder).split("train")
    count = min(NAIVE_TRIALS, len(trials))
    voxels = np.array(trials.voxels[:count])
    replicated = np.empty((count, TOKENS, WIDTH), dtype=np.float32)
    for row in range(count):
        replicated[row] = trials.latents[trials.image[row]]
    let_go(trials.latents)
    small = TrialSet(voxels, np.arange(count), replicated, is_checked=True)
    found = iterate(small, lambda rows: (voxels[rows], replicated[rows]))
    per_trial = replicated[:1].nbytes + voxels[:1].nbytes
    return {
        **found,
        "trials": count,
        "bytes_per_trial": per_trial,
        "gib_for_27000_trials_calculated": round(TRAIN * per_trial / 2**30, 1),
    }


def iterate(trials: TrialSet, read: Callable[[np.ndarray], object]) -> dict[str, Any]:
    order = epoch_order(len(trials), seed=0, epoch=0)
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    rss, anonymous, began = [], [], time.perf_counter()
    for number, rows in enumerate(batches):
        read(rows)
        if number % max(len(batches) // 10, 1) == 0:
            rss.append(rss_mib())
            anonymous.append(rss_mib("RssAnon"))
    seconds = time.perf_counter() - began
    return {
        "samples": len(trials),
        "seconds": round(seconds, 2),
        "samples_per_s": round(len(trials) / seconds, 1),
        "rss_mib_over_the_epoch": rss,
        "anonymous_rss_mib_over_the_epoch": anonymous,
        "peak_rss_mib": peak_mib(),
    }


def drop_from_cache(folder: Path) -> None:
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def rss_mib(field: str = "VmRSS") -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(f"{field}:"))
    return round(int(line.split()[1]) / 1024, 1)


def peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


PARTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "preparation": prepare,
    "epoch_warm": lambda _root, out: epoch(out, is_cold=False),
    "epoch_cold": lambda _root, out: epoch(out, is_cold=True),
    "epoch_without_cast": lambda _root, out: only_read(out),
    "epoch_never_letting_go": lambda _root, out: held(out),
    "naive": lambda _root, out: naive(out),
}


def measured(part: str, root: Path, out: Path) -> dict[str, Any]:
    """Run a part as a process of its own, so that its peak is its own."""
    command = [sys.executable, __file__, "--part", part, str(root), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(part, json.dumps(found), file=sys.stderr)
    return found


def everything(scratch: Path, sessions: int) -> Iterator[tuple[str, Any]]:
    root, out = scratch / "nsd", scratch / "trials"
    began = time.perf_counter()
    generated = generate(root, sessions)
    files = [file for file in root.rglob("*") if file.is_file()]
    yield (
        "generated",
        {
            "what": (
                f"{sessions} sessions of {PER_SESSION} trials at the true volume "
                "shape, half .nii.gz and half .hdf5 with chunks of 750 trials of one "
                "voxel; noise in an ellipsoid, zeros outside; regions in slabs; 73,000 "
                "black pictures; not the dataset"
            ),
            **generated,
            "bytes_on_disk": sum(512 * file.stat().st_blocks for file in files),
            "seconds": round(time.perf_counter() - began, 1),
        },
    )
    yield "preparation", measured("preparation", root, out)
    shutil.rmtree(root)
    for part in list(PARTS)[1:]:
        yield part, measured(part, root, out)
    shutil.rmtree(out)
    yield "sparse", sparse(out)
    yield "sparse_epoch", measured("epoch_warm", root, out)
    shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", nargs=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.part:
        part, root, out = chosen.part
        print(json.dumps(PARTS[part](Path(root), Path(out))))
        return
    if chosen.scratch is None or chosen.scratch.exists():
        parser.error(
            f"--scratch: expected a folder that does not exist, found {chosen.scratch}"
        )
    chosen.scratch.mkdir(parents=True)
    found: dict[str, Any] = {
        "schema": 1,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "niceness": os.nice(0),
        "threads": 1,
        "batch": BATCH,
        "load_average_before": os.getloadavg(),
    }
    try:
        found |= everything(chosen.scratch, chosen.sessions)
    finally:
        shutil.rmtree(chosen.scratch, ignore_errors=True)
    found["load_average_after"] = os.getloadavg()
    text = json.dumps(found, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
