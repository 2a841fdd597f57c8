"""Figures of played runs, and what the report shows of them."""

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from neuroflow_client import ScoredStimulus, TrialOutcome

from runtime.live import RunDecoder
from training.stimuli import Stimuli
from verbs.demo.played import PlayedRun, counts
from verbs.report import ReportCandidate, ReportTrial, VolumeTiming

PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0))
DISTRIBUTIONS = ("neuroflow-rt", "numpy", "onnxruntime", "openvino", "pyzmq", "torch")


def latencies_ms(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return percentiles, each only where 10 / (1 - p) samples carry it."""
    found: dict[str, float | int | None] = {}
    for name, percent in PERCENTILES:
        # Compared as integers: 10 / (1 - .9) is a little more than 100 in floats.
        is_carried = len(values) * (100 - percent) >= 1000
        found[name] = float(np.percentile(values, percent)) if is_carried else None
    found["max"] = float(max(values)) if values else None
    found["n"] = len(values)
    return found


def run_summary(
    played: Sequence[PlayedRun],
    decoder: RunDecoder,
    figures: dict[str, object],
    *,
    seed: int,
    tr_s: float,
) -> dict[str, object]:
    """Return the content of `summary.json`."""
    live = [run for run in played if run.is_live]
    gates = decoder.bundle.manifest.gates
    return {
        "volumes_sent": sum(run.sent for run in played),
        "outcomes_received": sum(len(run.volumes) for run in played),
        "inputs": counts(played, "input"),
        "timings": counts(played, "timing"),
        "deadline_misses": counts(live, "timing").get("LATE", 0),
        "latency_ms": latencies_ms(_latencies(played)),
        "live_latency_ms": latencies_ms(_latencies(live)),
        "answer_delay_s": _answer_delay_s(live),
        "tr_s": tr_s,
        **figures,
        "parity_rel_l2": max(
            (gate.reached for gate in gates if gate.metric == "rel_l2"), default=None
        ),
        "backend": decoder.model.backend,
        "versions": _versions(),
        "machine": machine(),
        "seed": seed,
    }


def _latencies(played: Sequence[PlayedRun]) -> list[float]:
    values = (run.latency_ms(o) for run in played for o in run.volumes)
    return [value for value in values if value is not None]


def _answer_delay_s(live: Sequence[PlayedRun]) -> float | None:
    """Return the mean time from a stimulus to its answer, computing included."""
    delays = []
    for run in live:
        compute_ms = {o.volume_index: run.latency_ms(o) for o in run.volumes}
        for trial in run.trials:
            spent_ms = compute_ms.get(trial.last_volume)
            if trial.decision == "ANSWER" and spent_ms is not None:
                delays.append(trial.delay_s + spent_ms / 1e3)
    return float(np.mean(delays)) if delays else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> str:
    """Return the processor and the number of its cores, as figures must name them."""
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = facts.read_text(encoding="ascii", errors="replace").splitlines()
        names = [
            x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")
        ]
        cores = len(names)
        model = f"{names[0]}, {cores} cores" if names else model
        if any(" amx_bf16" in line for line in lines):
            model += ", AMX"
    return model


def provenance(
    decoder: RunDecoder, summary: dict[str, object]
) -> tuple[tuple[str, str], ...]:
    """Return what a reader needs to repeat the session."""
    training = decoder.bundle.manifest.training
    return (
        ("bundle sha256", decoder.bundle_sha256),
        ("gallery sha256", decoder.gallery_sha256),
        ("preprocessing sha256", decoder.preprocessing_sha256),
        ("configuration", f"{training.preset}, sha256 {training.config_sha256}"),
        ("NeuroVAE weights sha256", training.vae_sha256),
        ("flow weights sha256", training.flow_sha256),
        ("engine", decoder.model.backend),
        ("machine", str(summary["machine"])),
        ("seed", str(summary["seed"])),
    )


def report_timings(played: Sequence[PlayedRun]) -> tuple[VolumeTiming, ...]:
    """Return every volume's latency, in the order in which it was answered."""
    first = min((o.published_ns for run in played for o in run.volumes), default=0)
    return tuple(
        VolumeTiming(
            run_id=outcome.run,
            volume_index=outcome.volume_index,
            is_live=run.is_live,
            latency_ms=float("nan") if spent is None else spent,
            input=outcome.input,
            timing=outcome.timing,
            elapsed_s=(outcome.published_ns - first) / 1e9,
        )
        for run in played
        for outcome in run.volumes
        for spent in (run.latency_ms(outcome),)
    )


def report_trials(
    played: Sequence[PlayedRun], decoder: RunDecoder, stimuli: Stimuli
) -> tuple[ReportTrial, ...]:
    """Return every trial with its pictures: the live ones, then the fast ones once."""
    live = {run.run.run_id for run in played if run.is_live}
    kept = [run for run in played if run.is_live or run.run.run_id not in live]
    return tuple(
        _report_trial(run, outcome, decoder, stimuli)
        for run in kept
        for outcome in run.trials
    )


def _report_trial(
    run: PlayedRun, outcome: TrialOutcome, decoder: RunDecoder, stimuli: Stimuli
) -> ReportTrial:
    seen = run.event(outcome.trial_id)
    best = outcome.candidates[0].stimulus_id if outcome.candidates else None
    return ReportTrial(
        trial_id=outcome.trial_id,
        run_id=outcome.run,
        onset_s=seen.onset_s,
        delay_s=outcome.delay_s,
        is_live=run.is_live,
        seen_id=seen.stimulus_id,
        seen_label=seen.trial_type,
        seen_image=stimuli.pixels[stimuli.row(seen.stimulus_id)],
        decoded_image=dict(outcome.arrays).get("image"),
        decision=outcome.decision,
        label=outcome.label,
        confidence=outcome.confidence,
        candidates=tuple(_candidate(c, decoder) for c in outcome.candidates[:3]),
        is_correct=best == seen.stimulus_id,
    )


def _candidate(found: ScoredStimulus, decoder: RunDecoder) -> ReportCandidate:
    gallery = decoder.gallery
    images = gallery.images
    row = gallery.ids.index(found.stimulus_id)
    return ReportCandidate(
        stimulus_id=found.stimulus_id,
        label=found.label,
        cosine=found.cosine,
        image=None if images is None else images[row],
    )
