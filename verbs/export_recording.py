"""`neuroflow export-recording`: a server's recording for other software to read."""

import sys
from importlib import metadata
from pathlib import Path

import msgspec

from bci_bridge.exports.export import Exported, Format, export
from bci_bridge.exports.facts import RunFacts
from verbs.sealed_places import refuse_inside


def export_recording(
    recording: Path,
    out: Path,
    kind: Format,
    *,
    run: str | None,
    skip_damaged: bool,
    as_json: bool,
) -> None:
    """Export and print one line a run.

    Args:
        recording: The folder that a server wrote.
        out: The folder to write.
        kind: The format.
        run: One run's name; None for all of them.
        skip_damaged: Export what is left of a damaged recording.
        as_json: Print JSON.

    Raises:
        RecordingError: There is no recording, it is damaged, changed, or has no run.
        UsageError: There is no such run, or the folder is not free.
        ArtifactError: `out` is in a folder that lists its files.
        BackendError: nibabel or h5py is missing.
    """
    refuse_inside(out)
    exported = export(
        recording,
        out,
        kind,
        version=_version(),
        run=run,
        skip_damaged=skip_damaged,
    )
    for line in (*exported.unproved, *exported.notes):
        print(f"neuroflow: {line}", file=sys.stderr)
    if as_json:
        print(msgspec.json.encode(_summary(out, kind, exported)).decode())
        return
    for loss in exported.losses:
        print(f"lost: {loss}")
    for one in exported.runs.values():
        print(_line(one))


def _summary(out: Path, kind: Format, exported: Exported) -> dict[str, object]:
    return {
        "out": str(out),
        "format": kind,
        "runs": [
            {
                "run": run.name,
                "volumes": run.count,
                "missing": len(run.missing),
                "events": len(run.events),
                "trials": len(run.trials),
                "files": exported.files[run.name],
            }
            for run in exported.runs.values()
        ],
        "lost": exported.losses,
        "notes": exported.notes,
    }


def _line(run: RunFacts) -> str:
    line = f"{run.name}: {len(run.kinds)} of {run.count} volumes"
    line += f", {len(run.events)} events, {len(run.trials)} trials"
    if not run.kinds:
        line += ", no image"
    if run.end is None and run.ended is None:
        line += ", recorded without its end"
    return line


def _version() -> str:
    try:
        return metadata.version("neuroflow-rt")
    except metadata.PackageNotFoundError:
        return "unknown"
