"""Memory of training at the paper's size on all trials of a participant.

    python benchmarks/train_memory.py --scratch DIR --out docs/train_memory.json

A folder of trials with the shapes of all 40 sessions of the Natural Scenes Dataset, all
of it holes, and both stages at the published size and batch, in float32 with recomputed
activations. Each measurement is a process of its own: one that takes a step, is
interrupted and leaves a snapshot, and one that goes on from it by another step. What a
process holds beyond weights, gradients, moments and average is what training costs, of
its own memory, looked at twenty times a second. Pages of the files that it maps, the
trials and a snapshot that is read, are resident too for as long as there is room, and
the system takes them back when there is none.

`--processes` chooses among the four, in one go or on another day: the file keeps what
it has of the others, each with its own machine and load, and says which were not run. A
resumed one needs the snapshot of the first, which is then run as well.

The flow needs 16 GB of memory beside what else runs, and 12 GB of disk for a snapshot.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from nsd_files import TRAIN, sparse
from nsd_scale import peak_mib, rss_mib

from runtime.errors import ConfigError
from training.checkpoint import library_versions, save_checkpoint
from training.compute import Compute
from training.config import PRESETS, ModelConfig, config_from_preset
from training.data.store import open_trials
from training.fit import fit_flow, fit_neurovae
from training.neurovae import NeuroVAE
from training.sit import SiT
from verbs.demo.summary import machine

Process = Literal["vae", "vae-resumed", "flow", "flow-resumed"]
PROCESSES: tuple[Process, ...] = ("vae", "vae-resumed", "flow", "flow-resumed")
STAGES = ("vae", "flow")
PARTS = {"vae": 8, "flow": 1}
"""Rows that go through the model at a time."""
FLOAT = 4
SAID_EVERY_S = 60.0
LOOK_EVERY_S = 0.05


class Sparse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The folder of trials, of which next to nothing is on disk."""

    apparent_bytes: int
    bytes_on_disk: int


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process."""

    process: Process
    batch: int
    """Rows of its step."""
    rss_before_mib: float
    peak_rss_mib: float
    peak_own_mib: float
    """Without pages of files."""
    weights_gradients_moments_average_mib: int
    beyond_the_model_mib: int
    """Of its own."""
    first_step_s: float
    machine: str
    load_before: list[float] | None = None
    """None where it was not kept, as of the first of these measurements."""
    versions: dict[str, str] | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds."""

    preset: str
    training_trials: int
    published_batch: dict[str, int]
    precision: str
    trials: Sparse | None = None
    processes: list[Measured]
    """Those that were run, whenever it was."""
    not_run: list[Process]


def own_bytes(config: ModelConfig, stage: str) -> int:
    """Return what weights, gradients, two moments and, of the flow, average take."""
    with torch.device("meta"):
        vae, field = NeuroVAE(config.vae), SiT(config.flow)
    size_of_vae = FLOAT * sum(p.numel() for p in vae.parameters())
    if stage == "vae":
        return 4 * size_of_vae
    return 5 * FLOAT * sum(p.numel() for p in field.parameters()) + size_of_vae


def model(preset: str, flow_batch: int | None) -> ModelConfig:
    """Return the configuration of a preset; rows of a flow's step may be others."""
    config = config_from_preset(preset)
    if flow_batch is None:
        return config
    flow = msgspec.structs.replace(config.flow_training, batch=flow_batch)
    return msgspec.structs.replace(config, flow_training=flow)


def batch_of(config: ModelConfig, stage: str) -> int:
    return (config.vae_training if stage == "vae" else config.flow_training).batch


class Peak(threading.Thread):
    """Looks at this process's own memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        """Look."""
        while not self._over.wait(LOOK_EVERY_S):
            self.mib = max(self.mib, rss_mib("RssAnon") + rss_mib("RssShmem"))

    def stop(self) -> float:
        """Return the most that was seen, in MiB."""
        self._over.set()
        self.join()
        return round(self.mib, 1)


def one_step(stage: str, scratch: Path, config: ModelConfig) -> dict[str, Any]:
    """Take one step, be interrupted, and leave a snapshot."""
    before, own = rss_mib(), Peak()
    own.start()
    trials = open_trials(scratch / "trials").split("train")
    taken: list[float] = []
    began = time.perf_counter()

    def stop(_progress: object) -> None:
        taken.append(time.perf_counter() - began)
        raise KeyboardInterrupt

    compute = Compute(checkpoint_activations=True, micro_batch=PARTS[stage])
    try:
        if stage == "vae":
            fit_neurovae(config, trials, scratch / "vae", on_step=stop, compute=compute)
        else:
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
    model_mib, own_mib = own_bytes(config, stage) / 2**20, own.stop()
    return {
        "rss_before_mib": before,
        "peak_rss_mib": peak_mib(),
        "peak_own_mib": own_mib,
        "weights_gradients_moments_average_mib": round(model_mib),
        "beyond_the_model_mib": round(own_mib - model_mib),
        "first_step_s": round(taken[0], 1),
    }


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def measured(process: Process, scratch: Path, config: ModelConfig) -> Measured:
    """Run a process, and say now and then that it lives."""
    stage = process.removesuffix("-resumed")
    batch = batch_of(config, stage)
    command = [sys.executable, __file__, "--step", stage, "--scratch", str(scratch)]
    command += ["--preset", config.preset]
    if stage == "flow":
        command += ["--flow-batch", str(batch)]
    load, began = list(os.getloadavg()), time.monotonic()
    say(f"{process}: a step of {batch} rows")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while True:
            try:
                printed, _ = child.communicate(timeout=SAID_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                lasted = time.monotonic() - began
                say(f"{process}: {lasted:.0f} s, {resident_mib(child.pid)} MiB")
    if child.returncode != 0:
        raise SystemExit(f"{process}: expected exit status 0, found {child.returncode}")
    found = msgspec.convert(
        json.loads(printed)
        | {
            "process": process,
            "batch": batch,
            "machine": machine(),
            "load_before": load,
            "versions": library_versions(),
        },
        Measured,
    )
    say(f"{process}: at most {found.peak_rss_mib:,.0f} MiB")
    return found


def resident_mib(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return "?"
    kib = [line.split()[1] for line in status.splitlines() if line[:6] == "VmRSS:"]
    return f"{int(kib[0]) / 1024:,.0f}" if kib else "?"


def everything(
    scratch: Path,
    config: ModelConfig,
    chosen: Sequence[Process],
    keep: Callable[[Sparse, Measured], None],
) -> None:
    """Run the chosen processes, and what they go on from; each is kept at once."""
    say("trials: the shapes of all sessions, nothing in them")
    latent = (config.flow.tokens, config.flow.width)
    trials = msgspec.convert(
        sparse(scratch / "trials", config.vae.voxels, latent), Sparse
    )
    # The flow's frozen encoder: weights of the true shapes, drawn.
    torch.manual_seed(0)
    weights = NeuroVAE(config.vae).state_dict()
    save_checkpoint(scratch / "drawn", weights, config, stage="vae", seed=0, step=0)
    for stage in STAGES:
        wanted = [p for p in chosen if p.removesuffix("-resumed") == stage]
        if not wanted:
            continue
        # The first one leaves the snapshot that the other goes on from.
        last = max(map(PROCESSES.index, wanted))
        for process in PROCESSES[PROCESSES.index(stage) : last + 1]:
            keep(trials, measured(process, scratch, config))
        shutil.rmtree(scratch / stage)


def empty(config: ModelConfig) -> Report:
    """Return a report of nothing yet."""
    return Report(
        preset=config.preset,
        training_trials=TRAIN,
        published_batch={
            stage: batch_of(config_from_preset(config.preset), stage)
            for stage in STAGES
        },
        precision=(
            f"fp32, activations recomputed, parts of {PARTS['vae']} rows (vae) and "
            f"{PARTS['flow']} (flow)"
        ),
        processes=[],
        not_run=list(PROCESSES),
    )


def report_in(file: Path, config: ModelConfig) -> Report:
    """Return what a file has already; nothing where there is none.

    Raises:
        ConfigError: It is no such report, or one of another model.
    """
    begun = empty(config)
    if not file.is_file():
        return begun
    try:
        held = msgspec.json.decode(file.read_bytes(), type=Report)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{file}: expected a report of this benchmark, found {error}"
        ) from error
    for name in ("preset", "training_trials", "published_batch", "precision"):
        expected, found = getattr(begun, name), getattr(held, name)
        if expected != found:
            raise ConfigError(f"{file}: {name}: expected {expected}, found {found}")
    return held


def added(report: Report, trials: Sparse, found: Measured) -> Report:
    """Return a report with a process, in the place of an earlier one like it."""

    def key(one: Measured) -> tuple[int, int]:
        return PROCESSES.index(one.process), one.batch

    others = [one for one in report.processes if key(one) != key(found)]
    processes = sorted([*others, found], key=key)
    run = {one.process for one in processes}
    return msgspec.structs.replace(
        report,
        trials=trials,
        processes=processes,
        not_run=[process for process in PROCESSES if process not in run],
    )


def markdown(report: Report) -> str:
    """Return the table of the documentation."""
    lines = [
        "| process | rows of a step | highest resident, MiB | of its own "
        "| of that weights, gradients, moments, average | the rest |",
        "|---|---|---|---|---|---|",
    ]
    names = {"vae": "stage 1", "flow": "stage 2"}
    for one in report.processes:
        stage, is_resumed, _ = one.process.partition("-")
        lines.append(
            f"| {names[stage]}{', resumed' if is_resumed else ''} | {one.batch} "
            f"| {one.peak_rss_mib:,.0f} | {one.peak_own_mib:,.0f} "
            f"| {one.weights_gradients_moments_average_mib:,} "
            f"| {one.beyond_the_model_mib:,} |"
        )
    return "\n".join(lines)


def write(report: Report, out: Path | None) -> None:
    if out is not None:
        text = msgspec.json.format(msgspec.json.encode(report), indent=1)
        partial = out.with_suffix(".part")
        partial.write_bytes(text + b"\n")
        partial.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--processes", nargs="+", choices=PROCESSES, default=list(PROCESSES)
    )
    parser.add_argument("--preset", choices=PRESETS, default="paper-subj01")
    parser.add_argument(
        "--flow-batch", type=int, help="rows of a flow's step; 24 as published"
    )
    parser.add_argument("--step", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    config = model(given.preset, given.flow_batch)
    if given.step:
        print(json.dumps(one_step(given.step, given.scratch, config)))
        return
    report = empty(config) if given.out is None else report_in(given.out, config)
    given.scratch.mkdir(parents=True)

    def keep(trials: Sparse, found: Measured) -> None:
        # At once: the next one may need more memory than there is.
        nonlocal report
        report = added(report, trials, found)
        write(report, given.out)

    try:
        everything(given.scratch, config, given.processes, keep)
    finally:
        shutil.rmtree(given.scratch, ignore_errors=True)
    print(markdown(report))


if __name__ == "__main__":
    main()
