"""What `neuroflow demo` does: choose the participant, run, write results, report."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from runtime.errors import ArtifactError, RecordingError, UsageError
from runtime.recording import open_recording
from verbs.demo.recorded import TEST_RUNS, demo_recorded
from verbs.demo.simulated import demo_simulated
from verbs.play import check_speed
from verbs.progress import screen
from verbs.report import Report, contact_sheet, report_html
from verbs.sealed_places import refuse_inside

SUMMARY = "summary.json"
MARK = ".neuroflow-demo"
"""Marks a folder as one that a demonstration made, and may replace."""


def run_demo(
    out: Path,
    recording: Path | None,
    *,
    seed: int,
    backend: str,
    speed: float | None,
    as_json: bool,
) -> None:
    """Go the whole way and write summary, report and contact sheet into `out`.

    Raises:
        UsageError: `out` holds something else, or the speed is not positive.
        ArtifactError: Another demonstration is writing into `out`, or it is in a folder
            that lists its files.
        NeuroFlowError: Any stage failed.
    """
    # A former demonstration is deleted only once its successor can begin.
    check_speed(speed)
    refuse_inside(out)
    if recording is not None:
        _require_labels(recording)
    # One thread: the models are small, and a second one only waits for the first when
    # anything else runs. The weights are then the same on any number of cores.
    torch.set_num_threads(1)
    with _prepared(out), screen() as shown:
        if recording is None:
            report = demo_simulated(
                out, seed=seed, backend=backend, speed=speed or 1.0, shown=shown
            )
        else:
            report = demo_recorded(
                recording,
                out,
                seed=seed,
                backend=backend,
                speed=speed or 10.0,
                shown=shown,
            )
        shown.stage("report")
        _write(out, report)
    data = msgspec.json.encode(report.summary)
    if as_json:
        print(data.decode())
        return
    print(summary_table(report.summary))
    print(f"\n{out / 'report.html'}\n{out / 'contact_sheet.png'}\n{out / SUMMARY}")


def _require_labels(folder: Path) -> None:
    """Refuse, before anything is read, a recording that cannot be learnt from."""
    runs = open_recording(folder).runs
    least = TEST_RUNS + 2
    if len(runs) < least:
        raise RecordingError(
            f"{folder}: expected at least {least} runs, found {len(runs)}"
        )
    for run in runs:
        if None in run.labels:
            raise RecordingError(
                f"{folder}: expected a category for every volume of {run.run_id}, "
                "found some without. Only Haxby's layout has them."
            )


@contextmanager
def _prepared(out: Path) -> Iterator[None]:
    """Empty the folder, and keep every other demonstration out of it meanwhile."""
    is_taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if is_taken and not (out / MARK).exists():
        raise UsageError(
            f"{out}: expected a new or empty folder, found something that no "
            "demonstration made. Choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / MARK).open("ab") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"{out}: expected a folder for one demonstration, found another that "
                "is writing into it. Choose another --out."
            ) from error
        for entry in out.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != MARK:
                entry.unlink()
        yield


def _write(out: Path, report: Report) -> None:
    whole = {
        SUMMARY: msgspec.json.format(msgspec.json.encode(report.summary), indent=2),
        "report.html": report_html(report).encode(),
    }
    for name, data in whole.items():
        temporary = out / f".{name}"
        temporary.write_bytes(data)
        temporary.replace(out / name)
    picture = out / ".contact_sheet.png"
    contact_sheet(report, limit=8).save(picture, optimize=True)
    picture.replace(out / "contact_sheet.png")


def summary_table(summary: dict[str, object]) -> str:
    """Return the figures as a Markdown table."""
    latency = summary["latency_ms"]
    rows = [
        ("volumes sent, outcomes received", "volumes_sent", "outcomes_received"),
        ("deadline misses", "deadline_misses"),
        ("trials scored", "trials"),
        ("top-1 right: ours", "retrieval_top1"),
        ("top-1 right: ridge", "ridge_top1"),
        ("top-1 right: ceiling of the truth", "noise_ceiling_top1"),
        ("top-1 right: chance", "chance_top1"),
        ("pixel correlation of decoded images", "image_pixcorr"),
        ("encoding, correlation across images", "encode_voxel_r"),
        ("encoding, noise ceiling", "encode_noise_ceiling_r"),
        ("stimulus to answer, s", "answer_delay_s"),
        ("parity with float64, relative L2", "parity_rel_l2"),
        ("engine", "backend"),
    ]
    lines = ["| figure | value |", "|---|---|"]
    for name, *keys in rows:
        lines.append(f"| {name} | {', '.join(_number(summary[k]) for k in keys)} |")
    if isinstance(latency, dict):
        values = ", ".join(f"{k} {_number(v)}" for k, v in latency.items())
        lines.append(f"| compute latency, ms | {values} |")
    return "\n".join(lines)


def _number(value: object) -> str:
    if value is None:
        return "not applicable"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.3g}"
    return str(value)
