"""A training step at the paper's size, beside loops written by hand in torch.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py --stage flow --out FILE
    OMP_NUM_THREADS=2 python benchmarks/train_step.py --stage vae --depth 1 --batch 4

Four arms take steps in turn on one module, one optimiser and one average: ours and a
loop by hand, each eager and through torch.compile. The time of the optimiser and the
average is given apart. Latents and voxels are random numbers: no time depends on them.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.path import path_from_name
from training.compute import Compute
from training.config import ModelConfig, config_from_preset
from training.flow import flow_matching_loss, sample_times
from training.loop import take_step
from training.losses import Cycle, compare
from training.neurovae import NeuroVAE
from training.parts import cut
from training.ranks import ALONE
from training.recompute import set_recompute
from training.sit import SiT
from training.snapshot import RunIdentity
from training.state import Part, Stage, StepLosses, TrainingState
from verbs.demo.summary import machine

CPU = torch.device("cpu")
Arm = Callable[[], float]
"""Takes a step; returns the seconds that optimiser and average took of it."""
SEED = 0


def soft_clip_by_hand(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    p, q = F.normalize(p.flatten(1)), F.normalize(q.flatten(1))
    wanted = (q @ q.T / temperature).softmax(-1)
    logits = p @ q.T / temperature
    both = logits.log_softmax(-1) + logits.T.log_softmax(-1)
    return -(both * wanted).sum(-1).mean() / 2


def update_by_hand(state: TrainingState, clip: float | None) -> float:
    if clip is not None:
        nn.utils.clip_grad_norm_(state.parameters.values(), clip)
    began = time.perf_counter()
    state.optimiser.step()
    if state.average is not None:
        held = state.average.weights
        now = [value.detach() for value in state.module.state_dict().values()]
        torch._foreach_lerp_(list(held.values()), now, 1 - state.average.decay)
    return time.perf_counter() - began


def ours(stage: Stage, state: TrainingState) -> Arm:
    def step() -> float:
        spent, update = 0.0, TrainingState.update

        def timed() -> None:
            nonlocal spent
            began = time.perf_counter()
            update(state)
            spent = time.perf_counter() - began

        state.update = timed
        take_step(stage, state, ALONE)
        return spent

    return step


def flow_arms(
    config: ModelConfig, compute: Compute, arms: list[str]
) -> tuple[TrainingState, dict[str, Arm]]:
    training, path = config.flow_training, path_from_name("cos")
    shape = (training.batch, config.flow.tokens, config.flow.width)
    z_v, z_n = torch.randn(shape), torch.randn(shape)
    field = SiT(config.flow)
    set_recompute(field, compute.checkpoint_activations)

    def stage_of(run: nn.Module) -> Stage:
        def velocity(z: Tensor, t: Tensor) -> Tensor:
            with compute.autocast(CPU):
                computed = run(z, t)
            return computed.to(z.dtype)

        def losses(z_v: Tensor, z_n: Tensor, t: Tensor) -> StepLosses:
            return StepLosses(flow_matching_loss(velocity, z_v, z_n, t, path), {})

        def parts(_step: int, generator: torch.Generator) -> list[Part]:
            t = sample_times(training.batch, "uniform", generator)
            return cut(compute.micro_batch, losses, z_v, z_n, t)

        return Stage(
            run=RunIdentity(stage="flow", config="", trials=""),
            steps=1,
            module=field,
            wrapped=run,
            parts=parts,
            terms=(),
            seed=SEED,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            gradient_norm=training.gradient_norm,
            ema_decay=training.ema_decay,
        )

    runs = _runs(field, arms)
    state = TrainingState(stage_of(field), CPU, ALONE)

    def by_hand(run: nn.Module) -> Arm:
        def step() -> float:
            state.optimiser.zero_grad(set_to_none=True)
            t = torch.rand(training.batch)
            angle = t[:, None, None] * (torch.pi / 2)
            cos, sin = torch.cos(angle), torch.sin(angle)
            wanted = (torch.pi / 2) * (cos * z_n - sin * z_v)
            with compute.autocast(CPU):
                found = run(cos * z_v + sin * z_n, t)
            F.mse_loss(found.float(), wanted).backward()
            return update_by_hand(state, training.gradient_norm)

        return step

    return state, _named(runs, lambda run: ours(stage_of(run), state), by_hand, arms)


def vae_arms(
    config: ModelConfig, compute: Compute, arms: list[str]
) -> tuple[TrainingState, dict[str, Arm]]:
    training, n = config.vae_training, config.vae_training.batch
    z_v = torch.randn(n, config.vae.tokens, config.vae.width)
    voxels = torch.randn(n, config.vae.voxels)
    vae = NeuroVAE(config.vae)
    set_recompute(vae, compute.checkpoint_activations)

    def stage_of(run: nn.Module) -> Stage:
        def parts(_step: int, generator: torch.Generator) -> list[Part]:
            noise = torch.randn(z_v.shape, generator=generator)

            def losses() -> StepLosses:
                with compute.autocast(CPU):
                    outputs = run(voxels, noise)
                found = compare(outputs, voxels, z_v, training)
                return StepLosses(found.total, found.terms())

            return [Part(1.0, losses)]

        return Stage(
            run=RunIdentity(stage="vae", config="", trials=""),
            steps=1,
            module=vae,
            wrapped=run,
            parts=parts,
            terms=("mse", "kl"),
            seed=SEED,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        )

    runs = _runs(Cycle(vae), arms)
    state = TrainingState(stage_of(runs["eager"]), CPU, ALONE)

    def by_hand(run: nn.Module) -> Arm:
        def step() -> float:
            state.optimiser.zero_grad(set_to_none=True)
            with compute.autocast(CPU):
                out = run(voxels, torch.randn(z_v.shape))
            squares = (out.reconstruction - voxels).square().sum() / n
            spread = out.mean.square() + out.log_variance.exp() - 1 - out.log_variance
            loss = squares + training.kl_weight * spread.sum() / 2 / n
            for found, weight in (
                (out.z_n, training.clip_weight),
                (out.retrieval, training.clip_weight),
                (out.again, training.cycle_weight),
                (out.retrieval_again, training.cycle_weight),
            ):
                match = soft_clip_by_hand(found, z_v, training.temperature)
                loss = loss + weight * match
            loss.backward()
            return update_by_hand(state, None)

        return step

    return state, _named(runs, lambda run: ours(stage_of(run), state), by_hand, arms)


def _runs(module: nn.Module, arms: list[str]) -> dict[str, nn.Module]:
    runs = {"eager": module}
    if "compiled" in arms:
        runs["compiled"] = torch.compile(module)
    return runs


def _named(
    runs: dict[str, nn.Module],
    ours_of: Callable[[nn.Module], Arm],
    by_hand: Callable[[nn.Module], Arm],
    arms: list[str],
) -> dict[str, Arm]:
    named: dict[str, Arm] = {}
    for kind in arms:
        named[f"ours, {kind}"] = ours_of(runs[kind])
        named[f"by hand, {kind}"] = by_hand(runs[kind])
    return named


def measure(arms: dict[str, Arm], rounds: int) -> dict[str, list[dict[str, float]]]:
    for arm in arms.values():
        arm()
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for i in range(rounds):
        order = list(arms)
        # Who is first in a round changes: a machine drifts.
        order = order[i % len(order) :] + order[: i % len(order)]
        for name in order:
            began = time.perf_counter()
            optimiser = arms[name]()
            whole = time.perf_counter() - began
            taken[name].append({"step_s": whole - optimiser, "optimiser_s": optimiser})
    return taken


def ratio(taken: dict[str, list[dict[str, float]]], a: str, b: str) -> dict[str, float]:
    each = [x["step_s"] / y["step_s"] for x, y in zip(taken[a], taken[b], strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def quickest(taken: dict[str, list[dict[str, float]]], who: str) -> str:
    """Return whose steps take least, of the arms of ours or by hand."""
    medians = {
        name: statistics.median(step["step_s"] for step in steps)
        for name, steps in taken.items()
        if name.startswith(who)
    }
    return min(medians, key=lambda name: medians[name])


def resized(given: argparse.Namespace) -> ModelConfig:
    config = config_from_preset("paper-subj01")
    flow, vae = config.flow_training, config.vae_training
    if given.batch is not None:
        flow = msgspec.structs.replace(flow, batch=given.batch)
        vae = msgspec.structs.replace(vae, batch=given.batch)
    return msgspec.structs.replace(
        config,
        flow=msgspec.structs.replace(config.flow, depth=given.depth),
        vae=msgspec.structs.replace(config.vae, blocks=min(2, given.depth)),
        flow_training=flow,
        vae_training=vae,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", choices=("flow", "vae"), default="flow")
    parser.add_argument("--depth", type=int, default=12, help="below 12: not the paper")
    parser.add_argument("--batch", type=int, help="default: as published")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--arms", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = resized(given)
    compute = Compute(
        precision=given.precision, checkpoint_activations=given.checkpoint_activations
    )
    torch.manual_seed(SEED)
    build = flow_arms if given.stage == "flow" else vae_arms
    state, arms = build(config, compute, given.arms)
    taken = measure(arms, given.rounds)
    result = {
        "stage": given.stage,
        "depth": given.depth,
        "batch": getattr(config, f"{given.stage}_training").batch,
        "precision": given.precision,
        "checkpoint_activations": given.checkpoint_activations,
        "parameters": sum(p.numel() for p in state.module.parameters()),
        "rounds": given.rounds,
        "median_s": {
            name: {
                key: statistics.median(step[key] for step in steps)
                for key in ("step_s", "optimiser_s")
            }
            for name, steps in taken.items()
        },
        "ours_over_by_hand": {
            kind: ratio(taken, f"ours, {kind}", f"by hand, {kind}")
            for kind in given.arms
        },
        "best": {
            "ours": quickest(taken, "ours"),
            "by hand": quickest(taken, "by hand"),
            "ratio": ratio(taken, quickest(taken, "ours"), quickest(taken, "by hand")),
        },
        "machine": machine(),
        "load": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
