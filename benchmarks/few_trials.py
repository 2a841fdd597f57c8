"""A participant with few trials: what each remedy gains or loses beside plain training.

    python benchmarks/few_trials.py --seeds 11 12 --trials 50 100 200 --scratch DIR \
        --out docs/few_trials

Simulated participants, of whose 400 training pictures only so many are learned from
that their three trials each come nearest to 50, 100 and 200. Betas, whitening, means
and penalties see no other trial. Each unit (participant, number of trials, variant)
leaves one JSON in DIR/units; a run that was stopped goes on from there. The table with
paired intervals over participants and images is printed; every unit goes into OUT.json.

The synthetic trials show pictures of the same world that are in no split. Every variant
may take the same number of steps, which was chosen for plain training on seed 5 with
100 trials; the other settings are those of the sources and were not tuned.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from few_trials_table import table

from runtime.estimator import BetaEstimator
from runtime.heads import Retrieval
from runtime.patch_dct import PatchDct
from runtime.path import path_from_name
from runtime.preprocess.feature_space import FeatureSpace
from runtime.solver import solver_from_name
from training.checkpoint import load_flow, load_neurovae, read_manifest
from training.config import ModelConfig, config_from_preset
from training.dataset import Dataset, open_dataset
from training.features import TrialBetas
from training.fit import fit_flow, fit_neurovae
from training.flow import decode_latents
from training.judge import (
    encoding_correlation,
    fit_ridge_baseline,
    top1,
    visual_voxels,
)
from training.participant import (
    ParticipantFolder,
    ParticipantParameters,
    generate_participant,
    table_hash,
)
from training.participant.images import factors_from_index, render
from training.synthetic import open_encoder, with_synthetic
from training.trials import TrialSet
from verbs.demo.summary import machine

REPEATS = 3
UNSEEN_FROM = 10_000
"""Index of the first picture that no participant has in any split."""
VARIANTS = ("plain", "token dropout", "early stopping", "augmentation", "all")
ROWS = ("ridge", *VARIANTS)
TEACHERS = {"augmentation": "plain", "all": "early stopping"}
"""Whose encoder makes the synthetic trials: for `all`, one that has not learned from
the held-out images either."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the variants share, and how they differ."""

    vae_steps: int = 160
    """At most. On seed 5 with 100 trials 300 steps were no better, 60 far worse."""
    flow_steps: int = 200
    """At most; 100 with 60 of stage 1 were far worse."""
    batch: int = 32
    token_dropout: float = 1.0
    """In both stages; as in NeuroAdapter."""
    validation_share: float = 0.2
    patience_steps: int = 40
    """Turned into epochs of each stage."""
    synthetic_per_trial: float = 1.0
    """As in SynBrain, one synthetic hour beside one measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Few:
    """One participant's few trials, and everybody else's test."""

    dataset: Dataset
    participant: ParticipantFolder
    unseen: np.ndarray
    """z_v of pictures in no split."""


def few_of(dataset: Dataset, seed: int, trials: int) -> Dataset:
    """Return the data set with the trials of so many whole training pictures."""
    events = dataset.betas.events
    train = sorted({e.stimulus_id for e in events if e.split == "train"})
    count = round(trials / REPEATS)
    # The same order for every number: fewer trials are a part of more.
    chosen = set(np.random.default_rng(seed).permutation(train)[:count])
    rows = [
        i
        for i, event in enumerate(events)
        if event.split != "train" or event.stimulus_id in chosen
    ]
    betas = TrialBetas(
        dataset.betas.betas[rows],
        dataset.betas.run[rows],
        tuple(events[i] for i in rows),
    )
    learned = betas.select("train")
    space = FeatureSpace.fit(
        learned.betas,
        [event.stimulus_id for event in learned.events],
        noise_shrinkage=dataset.estimator.noise_shrinkage,
    )
    return replace(dataset, betas=betas, space=space)


def configured(variant: str, trials: int, voxels: int, chosen: Settings) -> ModelConfig:
    """Return the preset `demo` for few trials, in one of its variants."""
    config = config_from_preset("demo", voxels=voxels)
    is_all = variant == "all"
    dropout = chosen.token_dropout if is_all or variant == "token dropout" else 0.0
    is_judged = is_all or variant == "early stopping"
    share = chosen.validation_share if is_judged else 0.0
    images = round(trials / REPEATS)
    learned = trials - REPEATS * round(share * images)
    if is_all or variant == "augmentation":
        learned += round(chosen.synthetic_per_trial * trials)
    batch = min(chosen.batch, learned)
    an_epoch = learned // batch
    patience = max(chosen.patience_steps // an_epoch, 1)
    return msgspec.structs.replace(
        config,
        validation_share=share,
        vae_training=msgspec.structs.replace(
            config.vae_training,
            epochs=max(round(chosen.vae_steps / an_epoch), 1),
            batch=batch,
            token_dropout=dropout,
            patience=patience,
        ),
        flow_training=msgspec.structs.replace(
            config.flow_training,
            steps=chosen.flow_steps,
            batch=batch,
            token_dropout=dropout,
            patience=patience,
        ),
    )


def learned_trials(few: Few, variant: str, folder: Path, chosen: Settings) -> TrialSet:
    """Return what a variant learns from; the encoder is that of another variant."""
    trials = few.dataset.split("train")
    teacher = TEACHERS.get(variant)
    if teacher is None:
        return trials
    count = round(chosen.synthetic_per_trial * len(trials))
    encoder = open_encoder(folder / teacher)
    return with_synthetic(trials, few.unseen, encoder, count, seed=0)


def train(few: Few, variant: str, folder: Path, chosen: Settings) -> dict[str, object]:
    """Train both stages into the folder's `variant`; return how that went."""
    trials = learned_trials(few, variant, folder, chosen)
    voxels = trials.voxels.shape[1]
    config = configured(variant, trials.measured, voxels, chosen)
    out = folder / variant
    vae = fit_neurovae(config, trials, out / "vae")
    fit_flow(config, trials, vae, out / "flow")
    ends = {
        "vae": read_manifest(out / "vae", "vae"),
        "flow": read_manifest(out / "flow", "flow"),
    }
    return {
        "config_sha256": config.fingerprint(),
        "trials": trials.measured,
        "synthetic": 0 if trials.synthetic is None else trials.synthetic.trials,
        "stopped": {
            name: None if end.stopped is None else msgspec.to_builtins(end.stopped)
            for name, end in ends.items()
        },
        "steps": {name: end.step for name, end in ends.items()},
    }


def decoder_of(out: Path, mean: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return features to z_v by two checkpoints, with the exported solver."""
    vae, _ = load_neurovae(out / "vae")
    field, _ = load_flow(out / "flow")
    path, solver = path_from_name("cos"), solver_from_name("rotation", "cos")

    def decode(features: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            z_n = vae.encode(torch.from_numpy(features))
        z_v = decode_latents(field, z_n, 2, solver, path).numpy() + mean
        return z_v.astype(np.float32)

    return decode


def judge(few: Few, out: Path | None) -> dict[str, object]:
    """Return hits on the test trials and encoding; ridge where `out` is None."""
    data = few.dataset
    test, mean = data.betas.select("test"), data.latent_mean()
    rows = data.rows(test)
    images = np.unique(rows)
    means = np.stack([test.betas[rows == image].mean(axis=0) for image in images])
    gallery = data.stimuli.gallery_rows()
    names = [data.stimuli.ids[row] for row in gallery]
    search = Retrieval(data.latents[gallery], names, names, mean=mean, temperature=1.0)
    shown = [event.stimulus_id for event in test.events]
    several = [data.stimuli.ids[image] for image in images]
    encoding = None
    if out is None:
        ridge = fit_ridge_baseline(data)
        one, three = (ridge.decode(data, betas) for betas in (test.betas, means))
    else:
        decode, space = decoder_of(out, mean), data.space
        one, three = (decode(space.to_model(betas)) for betas in (test.betas, means))
        predicted = open_encoder(out).predict(data.latents[images], mean)
        encoding = encoding_correlation(
            space.from_model(predicted), means, visual_voxels(few.participant)
        )
    return {
        "one": top1(search, one, shown).astype(int).tolist(),
        "images": rows.tolist(),
        "three": top1(search, three, several).astype(int).tolist(),
        "encoding": encoding,
        "chance": 1 / len(gallery),
    }


def unseen_pictures(seed: int, count: int, world: ParticipantParameters) -> np.ndarray:
    """Return z_v of pictures of this participant's world that are in no split."""
    dct = PatchDct()
    first = UNSEEN_FROM
    pictures = [
        render(factors_from_index(seed, first + k), world) for k in range(count)
    ]
    return np.stack([dct.tokens_from_image(picture) for picture in pictures])


def run_seed(seed: int, wanted: list[tuple[int, str]], scratch: Path) -> None:
    """Train and judge the units of one participant that are not there yet."""
    chosen, world = Settings(), ParticipantParameters()
    say(f"seed {seed}: participant, betas ({len(wanted)} units to do)")
    bids = scratch / f"bids-{seed}"
    shutil.rmtree(bids, ignore_errors=True)
    participant = generate_participant(bids, world, seed)
    whole = open_dataset(bids, BetaEstimator(), PatchDct(), splits=("train", "test"))
    most = round(max(n for n, _ in wanted) * max(chosen.synthetic_per_trial, 1.0)) + 1
    unseen = unseen_pictures(seed, most, world)
    for n in sorted({n for n, _ in wanted}):
        few = Few(few_of(whole, seed, n), participant, unseen)
        folder = scratch / f"models-{seed}-{n}"
        for variant in ROWS:
            if (n, variant) not in wanted:
                continue
            began = time.process_time()
            found: dict[str, object] = {}
            if variant != "ridge":
                found = train(few, variant, folder, chosen)
            judged = judge(few, None if variant == "ridge" else folder / variant)
            result = {
                "seed": seed,
                "asked": n,
                "variant": variant,
                "settings": msgspec.to_builtins(chosen),
                "table_sha256": table_hash(world),
                "machine": machine(),
                "cpu_s": round(time.process_time() - began, 1),
                **found,
                **judged,
            }
            file = unit_file(scratch, seed, n, variant)
            if file.exists():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(result) + "\n")
            partial.rename(file)
            say(
                f"  {n} trials, {variant}: {np.mean(judged['one']):.3f} one, "
                f"{np.mean(judged['three']):.3f} three, encoding {judged['encoding']}, "
                f"{result['cpu_s']} s"
            )
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(bids)


def units_to_do(seed: int, trials: list[int], scratch: Path) -> list[tuple[int, str]]:
    """Return the units that are missing, and those whose encoder they need."""
    missing = [
        (n, variant)
        for n in trials
        for variant in ROWS
        if not unit_file(scratch, seed, n, variant).exists()
    ]
    needed = [(n, TEACHERS[v]) for n, v in missing if v in TEACHERS]
    return list(dict.fromkeys(missing + needed))


def collect(seeds: list[int], trials: list[int], scratch: Path, out: Path) -> None:
    """Print the table and write every unit that is there."""
    files = [
        unit_file(scratch, seed, n, variant)
        for seed in seeds
        for n in trials
        for variant in ROWS
    ]
    units = [json.loads(file.read_text()) for file in files if file.exists()]
    out.with_suffix(".json").write_text(json.dumps(units, separators=(",", ":")) + "\n")
    print(table(units, trials, ROWS))


def unit_file(scratch: Path, seed: int, trials: int, variant: str) -> Path:
    return scratch / "units" / f"{seed}-{trials}-{variant.replace(' ', '-')}.json"


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        wanted = units_to_do(seed, given.trials, given.scratch)
        if wanted:
            run_seed(seed, wanted, given.scratch)
    collect(given.seeds, given.trials, given.scratch, given.out)


if __name__ == "__main__":
    main()
