"""A training step at the paper's size, beside loops written by hand in torch.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py --stage flow --depth 2 --out FILE
    OMP_NUM_THREADS=2 python benchmarks/train_step.py --stage vae --batch 8 --out FILE

Four arms take steps in turn on one module, one optimiser and one average: ours and a
loop by hand, each eager and through torch.compile. Ours is the stage that `fit_flow` or
`fit_neurovae` would train, stepped as their loop steps it: rows of the trials, the
frozen encoder of stage 2, random draws, loss, gradient norm, log; snapshots are not in
it. A loop by hand holds its trials as tensors, does the same arithmetic and logs
nothing. The time of the optimiser and the average is given apart, ratios are formed
within rounds, and the best of ours stands beside the best by hand. Latents and voxels
are random numbers: no time depends on them.

Compiling stage 1 takes many minutes; `--arms eager` leaves it out.

FILE keeps one measurement of each size; what is there of others stays, and the table of
all is printed.
"""

import argparse
import dataclasses
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import torch
from loop_by_hand import CPU, ByHand
from step_report import (
    KINDS,
    Best,
    Kind,
    Ratio,
    Run,
    Times,
    added,
    markdown,
    runs_in,
    write_runs,
)
from torch import nn

from training.checkpoint import library_versions, save_checkpoint
from training.compute import Compute
from training.config import PRESETS, ModelConfig, config_from_preset
from training.fit import fit_flow, fit_neurovae
from training.history import History
from training.loop import take_step
from training.neurovae import NeuroVAE
from training.ranks import ALONE
from training.state import Stage, TrainingState
from training.trials import TrialSet
from verbs.demo.summary import machine

Arm = Callable[[], float]
"""Takes a step; returns the seconds that optimiser and average took of it."""
SEED = 0
IMAGES = 16


class Switch:
    """Lets one module run eagerly and compiled in turn, on the same weights."""

    def __init__(self, module: nn.Module, kinds: Sequence[Kind]) -> None:
        self._module, self._compiled = module, None
        if "compiled" in kinds:
            module.compile()
            self._compiled = module._compiled_call_impl

    def to(self, kind: Kind) -> nn.Module:
        """Return the module as it runs from now on."""
        self._module._compiled_call_impl = (
            self._compiled if kind == "compiled" else None
        )
        return self._module


def some_trials(config: ModelConfig, rows: int) -> TrialSet:
    """Return random trials, a batch at least, of a few pictures."""
    rng = np.random.default_rng(SEED)
    shape = (IMAGES, config.flow.tokens, config.flow.width)
    return TrialSet(
        rng.standard_normal((rows, config.vae.voxels), dtype=np.float32),
        np.arange(rows) % IMAGES,
        rng.standard_normal(shape, dtype=np.float32).astype(np.float16),
    )


def product_stage(
    name: str, config: ModelConfig, trials: TrialSet, vae: Path, compute: Compute
) -> Stage:
    """Return the stage that `fit_flow` or `fit_neurovae` would train.

    Posteriors are not kept: those of all trials of a participant of the Natural Scenes
    Dataset would be 92 GB, so that the frozen encoder runs in every step there.
    """
    with (
        mock.patch("training.fit.train_and_keep") as begun,
        mock.patch("training.latents.POSTERIORS_LIMIT_BYTES", 0),
    ):
        out = vae.parent / "never-written"
        if name == "flow":
            fit_flow(config, trials, vae, out, compute=compute)
        else:
            fit_neurovae(config, trials, out, compute=compute)
    stage: Stage = begun.call_args.args[0]
    return stage


def ours(
    stage: Stage, state: TrainingState, switch: Switch, kind: Kind, log: History
) -> Arm:
    compiles = msgspec.structs.replace(stage.compute, compile=kind == "compiled")
    stage = dataclasses.replace(stage, compute=compiles)

    def step() -> float:
        switch.to(kind)
        spent, update = 0.0, TrainingState.update

        def timed() -> None:
            nonlocal spent
            began = time.perf_counter()
            update(state)
            spent = time.perf_counter() - began

        with mock.patch.object(state, "update", timed):
            log.append(state.step, take_step(stage, state, ALONE))
        return spent

    return step


@contextmanager
def arms_of(
    name: str, config: ModelConfig, compute: Compute, kinds: Sequence[Kind], rows: int
) -> Iterator[tuple[TrainingState, dict[str, Arm]]]:
    """Yield the state that all arms change, and the arms."""
    trials = some_trials(config, rows)
    with tempfile.TemporaryDirectory() as folder:
        vae = Path(folder) / "vae"
        weights = NeuroVAE(config.vae).state_dict()
        save_checkpoint(vae, weights, config, stage="vae", seed=SEED, step=0)
        by_hand = ByHand(config, trials, compute, vae)
        stage = product_stage(name, config, trials, vae, compute)
        state = TrainingState(stage, CPU, ALONE)
        stage.module.train()
        switch = Switch(stage.wrapped, kinds)
        columns = ("loss", *stage.terms, "gradient_norm")
        arms: dict[str, Arm] = {}
        with History(Path(folder), columns, 0) as log:
            for kind in kinds:
                arms[f"ours, {kind}"] = ours(stage, state, switch, kind, log)
                arms[f"by hand, {kind}"] = by_hand.arm(
                    stage, state, partial(switch.to, kind)
                )
            yield state, arms


def in_turn(arms: list[str], i: int) -> list[str]:
    """Return the order of a round: who is first changes, and who follows whom.

    A machine drifts, and an arm runs with the caches and the memory that the one before
    it left: in every other round the order is the other way round.
    """
    first = i // 2 % len(arms)
    order = arms[first:] + arms[:first]
    return order if i % 2 == 0 else order[::-1]


def measure(arms: dict[str, Arm], rounds: int) -> dict[str, list[Times]]:
    for name, arm in arms.items():
        began = time.perf_counter()
        arm()
        say(f"{name}: {time.perf_counter() - began:.1f} s for the first step, not kept")
    taken: dict[str, list[Times]] = {name: [] for name in arms}
    for i in range(rounds):
        order = in_turn(list(arms), i)
        for name in order:
            began = time.perf_counter()
            optimiser = arms[name]()
            whole = time.perf_counter() - began
            taken[name].append(Times(step_s=whole - optimiser, optimiser_s=optimiser))
        last = ", ".join(f"{name} {taken[name][-1].step_s:.3g} s" for name in arms)
        say(f"round {i + 1} of {rounds}: {last}")
    return taken


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def ratio(taken: dict[str, list[Times]], a: str, b: str) -> Ratio:
    each = [x.step_s / y.step_s for x, y in zip(taken[a], taken[b], strict=True)]
    return Ratio(median=statistics.median(each), min=min(each), max=max(each))


def quickest(taken: dict[str, list[Times]], who: str) -> str:
    """Return whose steps take least, of the arms of ours or by hand."""
    medians = {
        name: statistics.median(step.step_s for step in steps)
        for name, steps in taken.items()
        if name.startswith(who)
    }
    return min(medians, key=lambda name: medians[name])


def resized(preset: str, depth: int | None, batch: int | None) -> ModelConfig:
    """Return a preset with fewer blocks and rows of a step."""
    replace = msgspec.structs.replace
    config = config_from_preset(preset)
    flow, vae = config.flow_training, config.vae_training
    if batch is not None:
        flow, vae = replace(flow, batch=batch), replace(vae, batch=batch)
    config = replace(config, flow_training=flow, vae_training=vae)
    if depth is None:
        return config
    return replace(
        config,
        flow=replace(config.flow, depth=depth),
        vae=replace(config.vae, blocks=min(config.vae.blocks, depth)),
    )


def run_of(
    name: str,
    config: ModelConfig,
    compute: Compute,
    kinds: Sequence[Kind],
    rounds: int,
) -> Run:
    """Take the steps, and say what they took."""
    torch.manual_seed(SEED)
    load, batch = list(os.getloadavg()), getattr(config, f"{name}_training").batch
    with arms_of(name, config, compute, kinds, max(2 * batch, IMAGES)) as (state, arms):
        taken = measure(arms, rounds)
        parameters = sum(p.numel() for p in state.parameters.values())
    best = quickest(taken, "ours"), quickest(taken, "by hand")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(
        stage=name,
        preset=config.preset,
        blocks=config.flow.depth if name == "flow" else config.vae.blocks,
        batch=batch,
        precision=compute.precision,
        checkpoint_activations=compute.checkpoint_activations,
        parameters=parameters,
        rounds=rounds,
        median={
            arm: Times(
                step_s=statistics.median(step.step_s for step in steps),
                optimiser_s=statistics.median(step.optimiser_s for step in steps),
            )
            for arm, steps in taken.items()
        },
        ours_over_by_hand={
            kind: ratio(taken, f"ours, {kind}", f"by hand, {kind}") for kind in kinds
        },
        best=Best(ours=best[0], by_hand=best[1], ratio=ratio(taken, *best)),
        peak_rss_mib=round(peak, 1),
        machine=machine(),
        threads=torch.get_num_threads(),
        load_before=load,
        load_after=list(os.getloadavg()),
        versions=library_versions(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", choices=("flow", "vae"), default="flow")
    parser.add_argument("--preset", choices=PRESETS, default="paper-subj01")
    parser.add_argument("--depth", type=int, help="blocks; below the preset's: not it")
    parser.add_argument("--batch", type=int, help="default: the preset's")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--arms", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = resized(given.preset, given.depth, given.batch)
    compute = Compute(
        precision=given.precision, checkpoint_activations=given.checkpoint_activations
    )
    runs = runs_in(given.out)
    run = run_of(given.stage, config, compute, given.arms, given.rounds)
    runs = added(runs, run)
    if given.out is not None:
        write_runs(given.out, runs)
    print(markdown(runs))


if __name__ == "__main__":
    main()
