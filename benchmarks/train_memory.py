"""Memory of training at the paper's size on all trials of a participant.

    python benchmarks/train_memory.py --scratch DIR --out docs/train_memory.json

A folder of trials with the shapes of all 40 sessions of the Natural Scenes Dataset, all
of it holes, and both stages at the published size and batch, in float32 with recomputed
activations. Each measurement is a process of its own: one that takes a step, is
interrupted and leaves a snapshot, and one that goes on from it by another step. What a
process holds beyond weights, gradients, moments and average is what training costs.

The flow needs 13 GB of memory beside what else runs, and 12 GB of disk for a snapshot.
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
import torch
from nsd_scale import TRAIN, peak_mib, rss_mib, sparse

from training.checkpoint import save_checkpoint
from training.compute import Compute
from training.config import ModelConfig, config_from_preset
from training.data.store import open_trials
from training.fit import fit_flow, fit_neurovae
from training.neurovae import NeuroVAE
from training.sit import SiT
from verbs.demo.summary import machine

STAGES = ("vae", "flow")
FLOAT = 4


def own_bytes(config: ModelConfig, stage: str) -> int:
    """Return what weights, gradients, two moments and, of the flow, average take."""
    with torch.device("meta"):
        vae, field = NeuroVAE(config.vae), SiT(config.flow)
    size_of_vae = FLOAT * sum(p.numel() for p in vae.parameters())
    if stage == "vae":
        return 4 * size_of_vae
    return 5 * FLOAT * sum(p.numel() for p in field.parameters()) + size_of_vae


def model(flow_batch: int | None) -> ModelConfig:
    """Return the published configuration; rows of a flow's step may be fewer."""
    config = config_from_preset("paper-subj01")
    if flow_batch is None:
        return config
    flow = msgspec.structs.replace(config.flow_training, batch=flow_batch)
    return msgspec.structs.replace(config, flow_training=flow)


def one_step(stage: str, scratch: Path, config: ModelConfig) -> dict[str, Any]:
    """Take one step, be interrupted, and leave a snapshot."""
    before = rss_mib()
    trials = open_trials(scratch / "trials").split("train")
    taken: list[float] = []
    began = time.perf_counter()

    def stop(_progress: object) -> None:
        taken.append(time.perf_counter() - began)
        raise KeyboardInterrupt

    try:
        if stage == "vae":
            compute = Compute(checkpoint_activations=True, micro_batch=8)
            fit_neurovae(config, trials, scratch / "vae", on_step=stop, compute=compute)
        else:
            compute = Compute(checkpoint_activations=True, micro_batch=1)
            fit_flow(
                config,
                trials,
                scratch / "drawn",
                scratch / "flow",
                on_step=stop,
                compute=compute,
            )
    except KeyboardInterrupt:
        pass
    model_mib = own_bytes(config, stage) / 2**20
    return {
        "rss_before_mib": before,
        "peak_rss_mib": peak_mib(),
        "weights_gradients_moments_average_mib": round(model_mib),
        "beyond_the_model_mib": round(peak_mib() - model_mib),
        "first_step_s": round(taken[0], 1),
    }


def measured(stage: str, scratch: Path, config: ModelConfig) -> dict[str, Any]:
    batch = str(config.flow_training.batch)
    command = [sys.executable, __file__, "--step", stage, "--scratch", str(scratch)]
    command += ["--flow-batch", batch]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(stage, json.dumps(found), file=sys.stderr)
    return found


def everything(scratch: Path, config: ModelConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"trials": sparse(scratch / "trials")}
    # The flow's frozen encoder: weights of the true shapes, drawn.
    torch.manual_seed(0)
    weights = NeuroVAE(config.vae).state_dict()
    save_checkpoint(scratch / "drawn", weights, config, stage="vae", seed=0, step=0)
    for stage in STAGES:
        found[stage] = measured(stage, scratch, config)
        found[f"{stage}, resumed"] = measured(stage, scratch, config)
        shutil.rmtree(scratch / stage)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=STAGES)
    parser.add_argument(
        "--flow-batch", type=int, help="rows of a flow's step; 24 as published"
    )
    given = parser.parse_args()
    config = model(given.flow_batch)
    if given.step:
        print(json.dumps(one_step(given.step, given.scratch, config)))
        return
    given.scratch.mkdir(parents=True)
    result: dict[str, Any] = {
        "preset": "paper-subj01",
        "training_trials": TRAIN,
        "batch": {"vae": config.vae_training.batch, "flow": config.flow_training.batch},
        "precision": "fp32, activations recomputed, parts of 8 rows (vae) and 1 (flow)",
        "machine": machine(),
        "load_before": os.getloadavg(),
    }
    try:
        result |= everything(given.scratch, config)
    finally:
        shutil.rmtree(given.scratch, ignore_errors=True)
    text = json.dumps(result, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
