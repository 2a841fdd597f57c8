"""`neuroflow evaluate`: ours beside ridge on recorded fMRI, with intervals."""

import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from runtime.errors import UsageError
from runtime.estimator import VolumeEstimator
from runtime.recording import open_recording
from training.checkpoint import library_versions
from training.comparison import Comparison, compare
from training.config import ModelConfig, config_from_preset
from training.evaluate import answer_left_out_runs
from training.haxby import CODE_SEED, NAMES, read_labelled
from training.recorded import SOLVER, STEPS
from training.resample import RESAMPLES, Interval
from verbs.progress import screen
from verbs.sealed_places import refuse_inside

RESAMPLE_SEED = 0
LOOKED_AT = (0, 3, 6, 9)
"""Runs of Haxby's recording on which the preset's sizes and rates were chosen."""


class EvaluationReport(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The result as JSON: figures, and what one needs to get them again."""

    schema: int = 1
    protocol: str = "leave one run out"
    runs: list[str]
    looked_at: list[int]
    """Positions of the runs on which settings were chosen."""
    seeds: list[int]
    code_seed: int = CODE_SEED
    resample_seed: int = RESAMPLE_SEED
    resamples: int = RESAMPLES
    solver: str = SOLVER
    steps: int = STEPS
    config: ModelConfig
    estimator: VolumeEstimator
    comparison: Comparison
    versions: dict[str, str]
    machine: str
    threads: int


def evaluate_recording(
    recording: Path | None,
    *,
    leave_one_run_out: bool,
    seeds: int,
    out: Path | None,
    as_json: bool,
    has_bundle: bool = False,
    has_trials: bool = False,
    of_bundles: Sequence[str] = (),
) -> None:
    """Train and compare on every left-out run; print a table or JSON.

    Args:
        recording: A Haxby folder.
        leave_one_run_out: Must be asked for.
        seeds: Trainings per fold.
        out: File for the JSON.
        as_json: Print the JSON instead of the table.
        has_bundle: A bundle was given, which this protocol has no use for.
        has_trials: Nor for prepared trials.
        of_bundles: Flags that were given and say something of a bundle alone.

    Raises:
        UsageError: Another protocol, a bundle, such a flag, no seed, or an `out`
            without a folder.
        ArtifactError: `out` is in a folder that lists its files.
        RecordingError: The recording is damaged or its volumes have no labels.
    """
    if not leave_one_run_out:
        raise UsageError(
            "evaluate: expected --bundle or --leave-one-run-out, found neither"
        )
    if has_bundle:
        raise UsageError(
            "evaluate: expected --bundle or --leave-one-run-out, found both"
        )
    if of_bundles:
        raise UsageError(
            f"evaluate --leave-one-run-out: expected no flag of --bundle, "
            f"found {', '.join(of_bundles)}"
        )
    if recording is None or has_trials:
        raise UsageError(
            "evaluate --leave-one-run-out: expected --recording alone, "
            f"found {'--trials' if has_trials else 'none'}"
        )
    if seeds < 1:
        raise UsageError(f"--seeds: expected at least 1, found {seeds}")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"--out: expected a file in a folder, found no {out.parent}")
    if out is not None:
        refuse_inside(out)
    # Models this small lose time to a second thread; one also fixes the order of sums.
    torch.set_num_threads(1)
    estimator = VolumeEstimator()
    with screen() as shown:
        shown.stage("read the recording")
        data = read_labelled(open_recording(recording))
        config = config_from_preset("haxby", voxels=data.recording.mask.voxels)
        answers = answer_left_out_runs(
            data,
            config,
            estimator,
            seeds=seeds,
            announce=shown.stage,
            on_step=shown.training,
        )
        shown.stage("resample")
        rng = np.random.default_rng(RESAMPLE_SEED)
        comparison = compare(answers, data.labels, data.runs, rng, LOOKED_AT)
    report = EvaluationReport(
        runs=[run.run_id for run in data.recording.runs],
        looked_at=list(LOOKED_AT),
        seeds=list(range(seeds)),
        config=config,
        estimator=estimator,
        comparison=comparison,
        versions=library_versions(),
        machine=f"{platform.system()} {platform.machine()}",
        threads=1,
    )
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    if out is not None:
        out.write_bytes(encoded + b"\n")
    print(encoded.decode() if as_json else table(comparison))


def table(comparison: Comparison) -> str:
    """Return the figures as Markdown, in percent."""
    lines = ["| method | accuracy, % | 95 % interval |", "|---|---|---|"]
    lines += [
        f"| {row.method} | {100 * row.accuracy.mean:.1f} | {_range(row.accuracy)} |"
        for row in comparison.methods
    ]
    lines += [
        "",
        "| ours minus ridge, points | mean | 95 % interval | runs won | other runs |",
    ]
    lines += ["|---|---|---|---|---|"]
    for pair in comparison.pairs:
        won = sum(difference > 0 for difference in pair.per_run)
        lines.append(
            f"| {pair.ours} - {pair.baseline} | {100 * pair.difference.mean:+.1f} "
            f"| {_range(pair.difference)} | {won} of {len(pair.per_run)} "
            f"| {_elsewhere(pair.difference_elsewhere)} |"
        )
    return "\n".join([*lines, "", *_rest_lines(comparison)])


def _rest_lines(comparison: Comparison) -> list[str]:
    rest = comparison.rest
    names = " | ".join(NAMES)
    lines = [
        f"| said of {rest.volumes} rest volumes, % | {names} |",
        "|---|" + "---|" * len(NAMES),
    ]
    for who, shares in (
        ("ours", rest.distribution),
        ("ridge", rest.ridge_distribution),
    ):
        lines.append(
            f"| {who} | " + " | ".join(f"{100 * s:.0f}" for s in shares) + " |"
        )
    labelled, idle = rest.confidence_labelled, rest.confidence_rest
    lines += [
        "",
        f"Mean confidence: labelled {labelled.mean:.2f} [{labelled.low:.2f}, "
        f"{labelled.high:.2f}], rest {idle.mean:.2f} [{idle.low:.2f}, "
        f"{idle.high:.2f}]; area under the curve, labelled against rest: "
        f"{rest.auc:.2f}.",
        "",
        "| answered from confidence | labelled, % | of these right, % | rest, % |",
        "|---|---|---|---|",
    ]
    for row in rest.abstention:
        right = row.accuracy_of_answered
        lines.append(
            f"| {row.threshold:.1f} | {100 * row.labelled_answered:.0f} "
            f"| {'none' if right is None else f'{100 * right:.0f}'} "
            f"| {100 * row.rest_answered:.0f} |"
        )
    return lines


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _elsewhere(interval: Interval | None) -> str:
    return (
        "none"
        if interval is None
        else f"{100 * interval.mean:+.1f}, {_range(interval)}"
    )
