"""The demonstration on the simulated participant."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from msgspec.structs import replace

from runtime.estimator import BetaEstimator
from runtime.heads import Retrieval
from runtime.live import RunDecoder, open_decoder
from runtime.patch_dct import PatchDct
from runtime.recording import RecordedRun, Recording, open_recording
from training.config import ModelConfig, config_from_preset
from training.dataset import Dataset, open_dataset
from training.judge import (
    ceilings,
    encoding_correlation,
    fit_ridge_baseline,
    pixel_correlation,
    top1,
    visual_voxels,
)
from training.participant import (
    ParticipantFolder,
    ParticipantParameters,
    generate_participant,
)
from verbs.demo.played import PlayedRun
from verbs.demo.serving import serve_and_play
from verbs.demo.summary import provenance, report_timings, report_trials, run_summary
from verbs.pipeline import Built, build
from verbs.progress import Screen
from verbs.report import Report

SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A trained, exported model and the participant whom it belongs to."""

    participant: ParticipantFolder
    dataset: Dataset
    built: Built
    live: RecordedRun
    test: tuple[RecordedRun, ...]


def demo_simulated(
    out: Path,
    *,
    seed: int,
    backend: str,
    speed: float,
    shown: Screen,
    parameters: ParticipantParameters | None = None,
    config: ModelConfig | None = None,
) -> Report:
    """Simulate, train, export, serve, play and judge.

    Args:
        out: The demonstration's folder.
        seed: Of the participant.
        backend: Engine library that serves.
        speed: Live pace; 1 is real time.
        shown: The screen.
        parameters: The participant's table; the frozen one by default.
        config: The model; the preset ``demo`` by default.
    """
    prepared = prepare(
        out,
        parameters or ParticipantParameters(),
        config or config_from_preset("demo"),
        seed=seed,
        backend=backend,
        shown=shown,
    )
    played = serve_and_play(
        out,
        out / "participant",
        [prepared.live],
        prepared.test,
        backend=backend,
        speed=speed,
        shown=shown,
    )
    shown.stage("judge: ridge and the truth's ceilings on the same trials")
    with open_decoder(
        prepared.built.bundle, prepared.built.gallery, backend=backend
    ) as decoder:
        figures = judged(prepared, played, decoder)
        summary = run_summary(
            played, decoder, figures, seed=seed, tr_s=prepared.live.tr_s
        )
        trials = report_trials(played, decoder, prepared.dataset.stimuli)
        facts = provenance(decoder, summary)
    return Report(
        title="NeuroFlow RT: simulated participant",
        summary=summary,
        trials=trials,
        timings=report_timings(played),
        provenance=facts,
        notes=(
            "The participant is simulated; its table of properties is in "
            "docs/participant.md. Nothing here is a claim about a human brain.",
            "Latency counts from the end of acquisition in the live run, and from "
            "receipt when a run is played faster than real time.",
        ),
    )


def prepare(
    out: Path,
    parameters: ParticipantParameters,
    config: ModelConfig,
    *,
    seed: int,
    backend: str,
    shown: Screen,
) -> Prepared:
    """Simulate a participant, train both stages, export and calibrate."""
    shown.stage(f"simulated participant {seed}: runs of fMRI as BIDS")
    folder = out / "participant"
    participant = generate_participant(folder, parameters, seed, progress=shown.count)
    shown.stage("features: every trial's beta, as a live decoder would have it")
    dataset = open_dataset(
        folder, BetaEstimator(), PatchDct(), splits=SPLITS, on_run=shown.count
    )
    voxels = dataset.recording.mask.voxels
    config = replace(config, vae=replace(config.vae, voxels=voxels))
    built = build(
        dataset,
        config,
        out,
        backend=backend,
        on_step=shown.training,
        on_stage=shown.stage,
    )
    recording = open_recording(folder)
    return Prepared(
        participant,
        dataset,
        built,
        live=_runs(recording, "live")[0],
        test=tuple(_runs(recording, "test")),
    )


def _runs(recording: Recording, split: str) -> list[RecordedRun]:
    return [r for r in recording.runs if any(e.split == split for e in r.events)]


def judged(
    prepared: Prepared, played: list[PlayedRun], decoder: RunDecoder
) -> dict[str, object]:
    """Return the accuracy figures of the test trials, ours beside ridge and ceiling."""
    dataset = prepared.dataset
    fast = [run for run in played if not run.is_live and run.run in prepared.test]
    trials = [(run, outcome) for run in fast for outcome in run.trials]
    seen = [run.event(outcome.trial_id).stimulus_id for run, outcome in trials]
    right = [
        bool(outcome.candidates) and outcome.candidates[0].stimulus_id == shown
        for (_, outcome), shown in zip(trials, seen, strict=True)
    ]
    gallery = decoder.gallery
    search = Retrieval(
        gallery.latents,
        gallery.ids,
        gallery.labels,
        mean=decoder.bundle.latent_mean,
        temperature=1.0,
    )
    test = dataset.betas.select("test")
    test_seen = [event.stimulus_id for event in test.events]
    ridge = fit_ridge_baseline(dataset)
    limits = ceilings(dataset, prepared.participant)
    pixels = [dataset.stimuli.pixels[dataset.stimuli.row(s)] for s in seen]
    return {
        "trials": len(trials),
        "retrieval_top1": float(np.mean(right)),
        "chance_top1": 1 / len(gallery.ids),
        "ridge_top1": float(
            top1(search, ridge.decode(dataset, test.betas), test_seen).mean()
        ),
        "noise_ceiling_top1": float(limits.single.mean()),
        "image_pixcorr": pixel_correlation(
            [outcome.arrays["image"] for _, outcome in trials], pixels
        ),
        "encode_voxel_r": encoding_score(prepared, decoder),
        "encode_noise_ceiling_r": limits.encoding_r,
        "ridge_is_whitened": ridge.is_whitened,
        "ridge_penalty": ridge.ridge.penalty,
    }


def encoding_score(prepared: Prepared, decoder: RunDecoder) -> float:
    """Correlate predicted and measured responses to pictures never trained on."""
    dataset, encoder = prepared.dataset, decoder.encoder()
    test = dataset.betas.select("test")
    rows = dataset.rows(test)
    images = np.unique(rows)
    measured = np.stack([test.betas[rows == image].mean(axis=0) for image in images])
    predicted: Float32[np.ndarray, "images voxels"] = np.stack(
        [encoder.predict(dataset.stimuli.pixels[image]) for image in images]
    )
    return encoding_correlation(
        predicted, measured, visual_voxels(prepared.participant)
    )
