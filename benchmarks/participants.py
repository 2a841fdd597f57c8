"""Ours, ridge and the truth's ceiling on simulated participants nobody looked at.

    python benchmarks/participants.py --seeds 11 12 13 --out DIR
    python benchmarks/participants.py --collect DIR --out docs/participants

The first form trains and judges one participant per seed and writes DIR/SEED.json;
the second gathers them into a table with intervals over participants. The decoder is
the one that serves, fed volume by volume.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from runtime.answers import Trial, TrialReport
from runtime.heads import Retrieval
from runtime.live import RunDecoder, open_decoder
from runtime.preprocess.timing import end_s
from runtime.recording import RecordedEvent, RecordedRun, open_recording, timeline
from training.config import ModelConfig, config_from_preset
from training.dataset import Dataset
from training.features import geometry
from training.judge import (
    ceilings,
    encoding_correlation,
    fit_ridge_baseline,
    pixel_correlation,
    repeat_means,
    top1,
    visual_voxels,
)
from training.participant import ParticipantFolder, table_hash
from training.peers.exam import shuffled_dataset
from training.peers.subjects import simulated_dataset
from verbs.demo.summary import machine
from verbs.pipeline import build

ROWS = (
    ("ours, one trial", "ours"),
    ("ridge, one trial", "ridge"),
    ("ceiling of the truth, one trial", "ceiling"),
    ("ours, three trials of an image", "ours_three"),
    ("ridge, three trials", "ridge_three"),
    ("ceiling, three trials", "ceiling_three"),
    ("ours minus ridge, one trial", "difference"),
    ("ours, one trial, 10 s after its onset", "early_10"),
    ("ours, one trial, 8 s after its onset", "early_8"),
    ("ours, one trial, 6 s after its onset", "early_6"),
    ("ours, answers shifted by a trial", "shifted"),
    ("pixel correlation", "pixcorr"),
    ("encoding, r across images", "encoding"),
    ("encoding, noise ceiling", "encoding_ceiling"),
)


EARLY_S = (6, 8, 10)
"""Delays at which it is asked what a trial that is not due yet looks like."""


def decoded_run(
    decoder: RunDecoder, run: RecordedRun, early: dict[int, list[TrialReport]]
) -> list[TrialReport]:
    """Decode a run; `early` gets its trials as they looked at each delay."""
    decoder.start_run(geometry(run))
    reports: list[TrialReport] = []
    volumes, trials = run.volumes(), sorted(run.events, key=lambda one: one.onset_s)
    for item in timeline(run):
        if isinstance(item, RecordedEvent):
            decoder.add_trial(Trial(item.trial_id, item.onset_s, item.duration_s))
        else:
            reports += decoder.add_volume(item, volumes[item])[1]
            now_s = end_s(item, run.tr_s)
            for trial in trials:
                if round(now_s - trial.onset_s) in EARLY_S:
                    looked = decoder.early(trial.trial_id)
                    if looked is not None:
                        early[round(now_s - trial.onset_s)].append(looked)
    return [*reports, *decoder.end_run()]


def judge(
    participant: ParticipantFolder, dataset: Dataset, decoder: RunDecoder
) -> dict[str, float]:
    recording = open_recording(participant.root)
    runs = [r for r in recording.runs if any(e.split == "test" for e in r.events)]
    reports, seen = [], []
    early_right: dict[int, list[bool]] = {delay_s: [] for delay_s in EARLY_S}
    for run in runs:
        shown = {event.trial_id: event.stimulus_id for event in run.events}
        early: dict[int, list[TrialReport]] = {delay_s: [] for delay_s in EARLY_S}
        for report in decoded_run(decoder, run, early):
            reports.append(report)
            seen.append(shown[report.trial_id])
        for delay_s, found in early.items():
            early_right[delay_s] += [
                one.answer.candidates[0].stimulus_id == shown[one.trial_id]
                for one in found
            ]
    gallery, stimuli = decoder.gallery, dataset.stimuli
    search = Retrieval(
        gallery.latents,
        gallery.ids,
        gallery.labels,
        mean=decoder.bundle.latent_mean,
        temperature=1.0,
    )
    best = [r.answer.candidates[0].stimulus_id for r in reports]
    right = np.array([a == b for a, b in zip(best, seen, strict=True)])
    test = dataset.betas.select("test")
    rows = dataset.rows(test)
    means, images = repeat_means(test.betas, rows)
    names = [stimuli.ids[image] for image in images]
    space, model = decoder.bundle.feature_space(), decoder.model
    three = np.stack(
        [model.decode_latent(model.encode_voxels(v)) for v in space.to_model(means)]
    )
    ridge = fit_ridge_baseline(dataset)
    limits = ceilings(dataset, participant)
    encoder = decoder.encoder()
    predicted = np.stack([encoder.predict(stimuli.pixels[image]) for image in images])
    test_seen = [event.stimulus_id for event in test.events]
    ridge_right = top1(search, ridge.decode(dataset, test.betas), test_seen)
    return {
        "trials": len(right),
        "ours": float(right.mean()),
        "ridge": float(ridge_right.mean()),
        "ceiling": float(limits.single.mean()),
        "ours_three": float(top1(search, three, names).mean()),
        "ridge_three": float(top1(search, ridge.decode(dataset, means), names).mean()),
        "ceiling_three": float(limits.joint.mean()),
        "difference": float(right.mean() - ridge_right.mean()),
        **{
            f"early_{delay_s}": float(np.mean(hits))
            for delay_s, hits in early_right.items()
        },
        "shifted": float(
            np.mean([a == b for a, b in zip(best[1:], seen, strict=False)])
        ),
        "pixcorr": pixel_correlation(
            [r.image for r in reports if r.image is not None],
            [stimuli.pixels[stimuli.row(s)] for s in seen],
        ),
        "encoding": encoding_correlation(predicted, means, visual_voxels(participant)),
        "encoding_ceiling": limits.encoding_r,
        "chance": 1 / len(gallery.ids),
    }


def take_trained(config: ModelConfig, scratch: Path, place: Path) -> None:
    """Copy the full model's two checkpoints to where `build` looks for its own."""
    for stage in ("vae", "flow"):
        shutil.copytree(scratch / f"{stage}-{config.fingerprint()[:12]}", place / stage)


def run_seed(
    seed: int, out: Path, *, is_shuffled: bool, trained: Path | None = None
) -> None:
    torch.set_num_threads(1)
    began = time.process_time()
    place = Path(tempfile.mkdtemp(prefix=f"participant-{seed}-"))
    try:
        participant, dataset = simulated_dataset(place / "bids", seed)
        table = participant.parameters()
        learned = shuffled_dataset(dataset, seed) if is_shuffled else dataset
        config = config_from_preset("demo", voxels=dataset.recording.mask.voxels)
        if trained is not None:
            take_trained(config, trained / str(seed), place)
        built = build(learned, config, place)
        with open_decoder(built.bundle, built.gallery, threads=1) as decoder:
            figures = judge(participant, learned, decoder)
    finally:
        shutil.rmtree(place)
    result = {
        "seed": seed,
        "shuffled": is_shuffled,
        "table_sha256": table_hash(table),
        "config_sha256": config.fingerprint(),
        "cpu_s": time.process_time() - began,
        "machine": machine(),
        **figures,
    }
    out.mkdir(parents=True, exist_ok=True)
    name = f"shuffled-{seed}.json" if is_shuffled else f"{seed}.json"
    (out / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over participants."""
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, len(values), (10_000, len(values)))].mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def collect(folder: Path, out: Path) -> None:
    found = [json.loads(f.read_text()) for f in sorted(folder.glob("*.json"))]
    real = sorted((r for r in found if not r["shuffled"]), key=lambda r: r["seed"])
    control = [r for r in found if r["shuffled"]]
    lines = [
        "| figure | mean | 95 % interval | lowest | highest |",
        "|---|---|---|---|---|",
    ]
    for name, key in ROWS:
        values = np.array([r[key] for r in real])
        low, high = interval(values)
        lines.append(
            f"| {name} | {values.mean():.3f} | {low:.3f} to {high:.3f} "
            f"| {values.min():.3f} | {values.max():.3f} |"
        )
    lines += [
        f"| ours, trained on shuffled pictures, seed {r['seed']} | {r['ours']:.3f} "
        "| - | - | - |"
        for r in control
    ]
    lines.append(f"| chance | {real[0]['chance']:.4f} | - | - | - |")
    head = (
        f"{len(real)} participants, seeds {', '.join(str(r['seed']) for r in real)}, "
        f"{real[0]['trials']} held-out trials each, {real[0]['machine']}.\n\n"
    )
    out.with_suffix(".json").write_text(json.dumps(real + control, indent=2) + "\n")
    print(head + "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--collect", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument(
        "--trained",
        type=Path,
        metavar="SCRATCH",
        help="scratch folder of ablations.py: its full models are judged, none trained",
    )
    chosen = parser.parse_args()
    if chosen.collect is not None:
        collect(chosen.collect, chosen.out)
    for seed in chosen.seeds:
        run_seed(seed, chosen.out, is_shuffled=chosen.shuffled, trained=chosen.trained)


if __name__ == "__main__":
    main()
