"""The model without one of its parts, on other paths, with other solvers.

    python benchmarks/ablations.py --seeds 11 12 --scratch DIR --out docs/ablations

Trains and judges every variant (`training.ablation`) on a simulated participant per
seed, all in torch. Whatever is finished lies in DIR and is not made again: a
participant's features, each stage (which goes on from its snapshot) and
DIR/SEED/VARIANT.json. Then prints the tables and writes OUT.json and
images/OUT.svg beside it.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from runtime.errors import ConfigError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace
from training.ablation import FULL, VARIANTS, Variant, first_stage
from training.ablation_judge import HeldOut, held_out, judge
from training.checkpoint import load_flow, load_neurovae
from training.config import ModelConfig, config_from_preset
from training.dataset import open_dataset
from training.fit import fit_flow, fit_neurovae
from training.judge import visual_voxels
from training.participant import (
    ParticipantParameters,
    generate_participant,
    table_hash,
)
from training.trials import TrialSet
from verbs.ablation_figure import ablation_figure
from verbs.ablation_table import Summary, VariantResult, markdown, summary_of
from verbs.demo.summary import machine
from verbs.progress import Screen, screen

FEATURES = "features.npz"
SPACE = "space."
_HELD = tuple(field.name for field in fields(HeldOut) if field.name != "space")


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that training and judging need of a participant."""

    train: TrialSet
    held: HeldOut


def prepared(
    seed: int, place: Path, table: ParticipantParameters, shown: Screen
) -> Prepared:
    """Return a participant's features; make them where they are not there yet."""
    file = place / FEATURES
    if not file.is_file():
        place.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place / "bids", ignore_errors=True)
        shown.stage(f"seed {seed}: generate the participant")
        participant = generate_participant(place / "bids", table, seed, shown.count)
        shown.stage(f"seed {seed}: betas, volume by volume")
        dataset = open_dataset(
            participant.root,
            BetaEstimator(),
            PatchDct(),
            splits=("train", "test"),
            on_run=shown.count,
        )
        held = held_out(dataset, visual_voxels(participant))
        save_prepared(file, Prepared(dataset.split("train"), held), table_hash(table))
        shutil.rmtree(place / "bids")
    return load_prepared(file, table_hash(table))


def save_prepared(file: Path, known: Prepared, table_sha256: str) -> None:
    """Write a participant's features, complete or not at all."""
    arrays: dict[str, Any] = {name: getattr(known.held, name) for name in _HELD}
    arrays |= {SPACE + k: v for k, v in known.held.space.tensors().items()}
    arrays |= {
        "table": np.array(table_sha256),
        "train_voxels": known.train.voxels,
        "train_image": known.train.image,
    }
    partial = file.with_name(f"partial-{file.name}")
    np.savez(partial, **arrays)
    partial.replace(file)


def load_prepared(file: Path, table_sha256: str) -> Prepared:
    """Read what `save_prepared` wrote.

    Raises:
        ConfigError: It is of another table.
    """
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    _require(file, "table", table_sha256, str(found["table"]))
    space = {k.removeprefix(SPACE): v for k, v in found.items() if k.startswith(SPACE)}
    held = HeldOut(
        **{name: found[name] for name in _HELD},
        space=FeatureSpace.from_tensors(space),
    )
    train = TrialSet(found["train_voxels"], found["train_image"], held.latents)
    return Prepared(train, held)


def _require(file: Path, what: str, expected: str, found: str) -> None:
    if expected != found:
        raise ConfigError(
            f"{file}: expected {what} {expected[:12]}, found {found[:12]}. "
            "Remove the file, or choose another scratch folder."
        )


def run_variant(
    variant: Variant,
    known: Prepared,
    base: ModelConfig,
    seed: int,
    place: Path,
    shown: Screen,
) -> VariantResult:
    """Train what of a variant is not trained yet, and judge it."""
    began = time.process_time()
    config = variant.change(base)
    first = first_stage(config, base)
    vae_at = place / f"vae-{first.fingerprint()[:12]}"
    flow_at = place / f"flow-{config.fingerprint()[:12]}"
    shown.stage(f"seed {seed}, {variant.label}: NeuroVAE")
    fit_neurovae(first, known.train, vae_at, on_step=shown.training)
    field = None
    if variant.has_flow:
        shown.stage(f"seed {seed}, {variant.label}: the flow")
        fit_flow(config, known.train, vae_at, flow_at, on_step=shown.training)
        field = load_flow(flow_at)[0]
    shown.stage(f"seed {seed}, {variant.label}: judge")
    path = config.flow_training.path
    vae = load_neurovae(vae_at)[0]
    judgement = judge(vae, field, config, known.held, variant.samplers(path))
    return VariantResult(
        seed=seed,
        variant=variant.name,
        path=path,
        config_sha256=config.fingerprint(),
        table_sha256=table_hash(ParticipantParameters()),
        machine=machine(),
        cpu_s=time.process_time() - began,
        judgement=judgement,
    )


def kept(file: Path, make: Callable[[], VariantResult]) -> VariantResult:
    """Return the result that a file holds; make and write it where there is none."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_bytes(msgspec.json.encode(make()))
        partial.replace(file)
    return read_result(file)


def read_result(file: Path) -> VariantResult:
    return msgspec.json.decode(file.read_bytes(), type=VariantResult)


def results_in(place: Path, names: Sequence[str]) -> list[VariantResult]:
    """Return the results of a participant that are finished."""
    files = (place / f"{name}.json" for name in names)
    return [read_result(file) for file in files if file.is_file()]


def run_seed(
    seed: int, names: Sequence[str], scratch: Path, shown: Screen
) -> list[VariantResult]:
    """Return the results of a participant, each made at most once."""
    table, place = ParticipantParameters(), scratch / str(seed)
    known = prepared(seed, place, table, shown)
    base = config_from_preset("demo", voxels=known.train.voxels.shape[1])
    found = []
    for name in names:
        variant = VARIANTS[name]
        file = place / f"{name}.json"

        def make(variant: Variant = variant) -> VariantResult:
            return run_variant(variant, known, base, seed, place, shown)

        result = kept(file, make)
        wanted = variant.change(base).fingerprint()
        _require(file, "configuration", wanted, result.config_sha256)
        _require(file, "table", table_hash(table), result.table_sha256)
        found.append(result)
    return found


def write(summary: Summary, out: Path) -> None:
    """Write the summary and its figure, and print the tables."""
    picture = out.parent / "images" / f"{out.name}.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(summary), indent=1)
    out.with_suffix(".json").write_bytes(text + b"\n")
    picture.write_text(ablation_figure(summary) + "\n", encoding="utf-8")
    print(markdown(summary), end="")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--collect", action="store_true", help="train nothing, take what is there"
    )
    chosen = parser.parse_args()
    # Figures must not depend on how many cores a machine has.
    torch.set_num_threads(1)
    names = [name for name in VARIANTS if name in {FULL, *chosen.only}]
    results: list[VariantResult] = []
    with screen() as shown:
        for seed in chosen.seeds:
            if chosen.collect:
                results += results_in(chosen.scratch / str(seed), names)
            else:
                results += run_seed(seed, names, chosen.scratch, shown)
    write(summary_of(results), chosen.out)


if __name__ == "__main__":
    main()
