"""The demonstration on recorded fMRI: a volume bundle, one category per volume.

Trains on the first ten runs and streams the last two.
"""

import datetime
from collections import Counter
from pathlib import Path

import numpy as np
from neuroflow_client import VolumeOutcome

from export.package import export_bundle
from export.preprocessing import Preprocessing
from runtime.bundle import BackboneSpec, open_bundle
from runtime.gallery import Confidence, write_gallery
from runtime.live import open_decoder
from runtime.recording import RecordedRun, Recording, open_recording
from training.checkpoint import load_flow, load_neurovae
from training.evaluate import fit_category_ridge
from training.haxby import causal_features, read_labelled
from training.recorded import SOLVER, STEPS, RecordedModel, fit_recorded
from verbs.demo.played import PlayedRun
from verbs.demo.serving import serve_and_play
from verbs.demo.summary import provenance, report_timings, run_summary
from verbs.pipeline import GOLDEN_SAMPLES
from verbs.progress import Screen
from verbs.report import Report, ReportCandidate, ReportTrial

TEST_RUNS = 2


def demo_recorded(
    folder: Path, out: Path, *, seed: int, backend: str, speed: float, shown: Screen
) -> Report:
    """Train, export, serve, stream and judge on a recording with labelled volumes."""
    recording = open_recording(folder)
    train = list(range(len(recording.runs) - TEST_RUNS))
    shown.stage(f"train on runs 0 to {train[-1]} of {folder.name}")
    model = fit_recorded(recording, train, seed, out, on_step=shown.training)
    shown.stage("export")
    _export(model, out, shown)
    test = recording.runs[-TEST_RUNS:]
    played = serve_and_play(
        out, folder, test, [], backend=backend, speed=speed, shown=shown
    )
    with open_decoder(out / "bundle", out / "gallery", backend=backend) as decoder:
        figures = _judged(recording, train, model, played)
        summary = run_summary(
            played, decoder, figures, seed=seed, tr_s=recording.runs[0].tr_s
        )
        summary["live_tr_s"] = recording.runs[0].tr_s / speed
        facts = provenance(decoder, summary)
    return Report(
        title=f"NeuroFlow RT: recorded fMRI ({folder.name})",
        summary=summary,
        trials=tuple(_trials(played)),
        timings=report_timings(played),
        provenance=facts,
        notes=(
            f"The recording was streamed {speed:g} times faster than acquired.",
            "Categories have fixed codes in the place of pictures: the claim is "
            "classification, not reconstruction. Accuracies are causal.",
            "Two runs are 16 blocks: a single figure of them carries a standard "
            "deviation of about seven points. The comparison over all runs is "
            "`neuroflow evaluate`.",
        ),
    )


def _export(model: RecordedModel, out: Path, shown: Screen) -> None:
    vae, _ = load_neurovae(model.vae)
    field, _ = load_flow(model.flow)
    export_bundle(
        vae,
        field,
        model.config,
        Preprocessing(
            subject="haxby2001-1",
            estimator=model.estimator,
            mask=model.mask,
            affine=model.affine,
            space=model.space,
            reference=model.reference,
        ),
        model.latent_mean,
        model.trials.voxels[:GOLDEN_SAMPLES],
        out / "bundle",
        backbone=BackboneSpec(name="category_codes", image_size=1, patch=1),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        solver=SOLVER,
        steps=STEPS,
        progress=shown.stage,
    )
    with open_bundle(out / "bundle") as bundle:
        confidence = Confidence(
            bundle_sha256=bundle.sha256, temperature=model.temperature
        )
    write_gallery(
        out / "gallery",
        latents=model.codes,
        ids=list(model.labels),
        labels=list(model.labels),
        confidence=confidence,
    )


def _judged(
    recording: Recording,
    train: list[int],
    model: RecordedModel,
    played: list[PlayedRun],
) -> dict[str, object]:
    data = read_labelled(recording)
    features, _ = causal_features(data, train, model.estimator)
    chosen = data.of(train)
    ridge = fit_category_ridge(features[chosen], data.labels[chosen], data.runs[chosen])
    held = ~chosen & (data.labels > 0)
    ridge_right = ridge.predict(features[held]).argmax(axis=1) + 1 == data.labels[held]
    fast = [run for run in played if not run.is_live]
    labelled = [
        outcome.label == _name(run.run, outcome, model)
        for run in fast
        for outcome in run.volumes
        if run.run.labels[outcome.volume_index]
    ]
    return {
        "trials": len(labelled),
        "retrieval_top1": float(np.mean(labelled)),
        "chance_top1": 1 / len(model.labels),
        "ridge_top1": float(ridge_right.mean()),
        "noise_ceiling_top1": None,
        "image_pixcorr": None,
        "encode_voxel_r": None,
        "encode_noise_ceiling_r": None,
        "rest_volumes": _rest(fast),
        "ridge_penalty": ridge.penalty,
    }


def _name(run: RecordedRun, outcome: VolumeOutcome, model: RecordedModel) -> str:
    label = run.labels[outcome.volume_index]
    return model.labels[(label or 1) - 1]


def _rest(fast: list[PlayedRun]) -> dict[str, object]:
    """Say what was decided on volumes on which nothing was shown."""
    rest: list[VolumeOutcome] = []
    shown: list[VolumeOutcome] = []
    for run in fast:
        for outcome in run.volumes:
            is_rest = run.run.labels[outcome.volume_index] == 0
            (rest if is_rest else shown).append(outcome)
    return {
        "volumes": len(rest),
        "decided": dict(
            sorted(Counter(o.label or str(o.decision) for o in rest).items())
        ),
        "mean_confidence": _mean_confidence(rest),
        "mean_confidence_when_shown": _mean_confidence(shown),
    }


def _mean_confidence(outcomes: list[VolumeOutcome]) -> float | None:
    values = [o.confidence for o in outcomes if o.confidence is not None]
    return float(np.mean(values)) if values else None


def _trials(played: list[PlayedRun]) -> list[ReportTrial]:
    """Return every labelled volume as a trial of the report, from the live runs."""
    found = []
    for run in (one for one in played if one.is_live):
        for outcome in run.volumes:
            label = run.run.labels[outcome.volume_index]
            if not label:
                continue
            seen = f"category-{label}"
            found.append(
                ReportTrial(
                    trial_id=f"volume {outcome.volume_index}",
                    run_id=outcome.run,
                    onset_s=outcome.volume_index * run.run.tr_s,
                    delay_s=run.run.tr_s,
                    is_live=True,
                    seen_id=seen,
                    seen_label=seen,
                    seen_image=None,
                    decoded_image=None,
                    decision=outcome.decision or "ABSTAIN",
                    label=outcome.label,
                    confidence=outcome.confidence,
                    candidates=tuple(
                        ReportCandidate(c.stimulus_id, c.label, c.cosine, None)
                        for c in outcome.candidates[:3]
                    ),
                    is_correct=outcome.label == seen,
                )
            )
    return found
