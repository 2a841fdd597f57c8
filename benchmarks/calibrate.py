"""What a day's calibration regains on simulated participants, and what it says it does.

    python -m benchmarks.calibrate --seeds 11 12 --out DIR
    python -m benchmarks.calibrate --collect DIR --out docs/calibration.json

`--built PLACE` keeps what was trained of each seed in PLACE, and takes what is there.

For each seed the demo's model is trained on the first day. Other days follow: as the
first, with other gains, with voxels turned into each other, both; and the turned day
with shuffled pictures. `neuroflow calibrate` sees the day's calibration runs, and the
decoder is judged on the day's test runs, which it has not seen, without the overlay and
with it. Pictures of calibration and test differ.
"""

import argparse
import csv
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from runtime.bundle import open_bundle
from runtime.errors import CalibrationError
from runtime.gallery import open_gallery
from runtime.heads import Retrieval
from runtime.identification import mean_interval
from runtime.model import open_model
from runtime.overlay import open_overlay
from tests.decoded import identification
from training.config import config_from_preset
from training.participant import ParticipantFolder, open_participant
from training.participant.another_day import write_another_day
from training.peers.subjects import simulated_dataset
from verbs.calibrate import calibrate_day
from verbs.demo.summary import machine
from verbs.pipeline import build
from verbs.todays_trials import read_today

DAYS = {
    "as the first": {"angle": 0.0, "gain_sd": 0.0},
    "other gains": {"angle": 0.0, "gain_sd": 0.5},
    "turned by 45 degrees": {"angle": np.pi / 4, "gain_sd": 0.0},
    "turned by 70 degrees": {"angle": 70 * np.pi / 180, "gain_sd": 0.0},
    "gains and 70 degrees": {"angle": 70 * np.pi / 180, "gain_sd": 0.5},
}
SHUFFLED = "gains and 70 degrees, pictures shuffled"


def shuffle_pictures(folder: Path, seed: int) -> None:
    """Say of every trial that another picture of its run was shown."""
    rng = np.random.default_rng(seed)
    for file in folder.glob("sub-*/func/*_events.tsv"):
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        order = rng.permutation(len(rows))
        shown = [(rows[k]["stim_id"], rows[k]["stim_file"]) for k in order]
        for row, (name, picture) in zip(rows, shown, strict=True):
            row["stim_id"], row["stim_file"] = name, picture
        with file.open("w", newline="", encoding="utf-8") as lines:
            out = csv.DictWriter(lines, list(rows[0]), delimiter="\t")
            out.writeheader()
            out.writerows(rows)


def run_names(folder: Path, split: str) -> tuple[str, ...]:
    runs = open_participant(folder).runs_of(split)
    return tuple(run.bold.name.removesuffix("_bold.nii.gz") for run in runs)


def judged(built: Path, day: Path, overlay: Path | None) -> tuple[np.ndarray, ...]:
    """Return identification and first places of the day's test trials, and images."""
    with (
        open_bundle(built / "bundle") as bundle,
        open_model(bundle, threads=1) as model,
    ):
        gallery = open_gallery(built / "gallery", bundle.manifest.latent)
        today = read_today(day, bundle, gallery, run_names(day, "test")).trials
        space, reader = bundle.feature_space(), model
        if overlay is not None:
            opened = open_overlay(overlay, bundle)
            space, reader = opened.space(bundle), opened.corrected(model)
        retrieval = Retrieval(
            gallery.latents, gallery.ids, gallery.labels,
            mean=bundle.latent_mean, temperature=1.0,
        )  # fmt: skip
        scores, hits = [], []
        for beta, image in zip(today.betas, today.image, strict=True):
            z_v = reader.decode_latent(reader.encode_voxels(space.to_model(beta)))
            name = today.names[image]
            scores.append(identification(z_v, today.latents[image], name, retrieval))
            best = retrieval.answer(z_v).candidates[0].stimulus_id
            hits.append(float(best == name))
    return np.array(scores), np.array(hits), today.image


def one_day(built: Path, day: Path, place: Path) -> dict[str, object]:
    overlay = place / "overlay"
    found: dict[str, object] = {}
    began = time.perf_counter()
    try:
        calibrate_day(
            built / "bundle", built / "gallery", day, overlay,
            runs=run_names(day, "calibration"), threads=1, as_json=True,
        )  # fmt: skip
    except CalibrationError as error:
        found["refused"] = str(error)
    found["seconds"] = time.perf_counter() - began
    if overlay.exists():
        said = open_overlay(overlay).manifest
        found |= {
            "holds": said.holds,
            "penalty": said.penalty,
            "said": [said.gain.mean, said.gain.low, said.gain.high],
        }
    before, first, image = judged(built, day, None)
    found |= {"without": before.mean(), "first_without": first.mean()}
    if overlay.exists():
        after, then, _ = judged(built, day, overlay)
        interval = mean_interval(after - before, image)
        found |= {
            "with": after.mean(),
            "first_with": then.mean(),
            "gain": [interval.mean, interval.low, interval.high],
        }
        shutil.rmtree(overlay)
    return found


def trained(place: Path, seed: int) -> ParticipantFolder:
    """Return a seed's participant; its bundle and gallery lie beside it in the end."""
    if (place / "gallery").exists():
        return open_participant(place / "bids")
    participant, dataset = simulated_dataset(place / "bids", seed)
    config = config_from_preset("demo", voxels=dataset.recording.mask.voxels)
    build(dataset, config, place)
    return participant


def run_seed(seed: int, out: Path, built: Path | None) -> None:
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix=f"calibrate-{seed}-"))
    place = scratch if built is None else built / str(seed)
    days: dict[str, object] = {}
    try:
        participant = trained(place, seed)
        for name, change in DAYS.items():
            folder = scratch / "day"
            splits = ("calibration", "test")
            write_another_day(participant, folder, splits, **change, seed=seed)
            days[name] = one_day(place, folder, scratch)
            print(seed, name, json.dumps(days[name], default=float), flush=True)
            if name == list(DAYS)[-1]:
                shuffle_pictures(folder, seed)
                days[SHUFFLED] = one_day(place, folder, scratch)
                print(seed, SHUFFLED, json.dumps(days[SHUFFLED], default=float))
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(scratch)
    result = {"seed": seed, "machine": machine(), "days": days}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, default=float) + "\n"
    (out / f"{seed}.json").write_text(text)


def collect(folder: Path, out: Path) -> None:
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(
        "| seed | day | without | with | gain on test runs | gain it stated | holds "
        "| first of 300 |\n|---|---|---|---|---|---|---|---|"
    )
    for one in found:
        for name, day in one["days"].items():
            row = [str(one["seed"]), name, f"{day['without']:.3f}"]
            if "with" in day:
                row += [f"{day['with']:.3f}", spread(day["gain"]), spread(day["said"])]
                row += [" and ".join(day["holds"])]
                row += [f"{day['first_without']:.3f} to {day['first_with']:.3f}"]
            else:
                row += ["-", "-", "refused", "-", f"{day['first_without']:.3f}"]
            print("| " + " | ".join(row) + " |")


def spread(gain: list[float]) -> str:
    return f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--collect", type=Path)
    parser.add_argument("--built", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.collect is not None:
        collect(chosen.collect, chosen.out)
    for seed in chosen.seeds:
        run_seed(seed, chosen.out, chosen.built)


if __name__ == "__main__":
    main()
