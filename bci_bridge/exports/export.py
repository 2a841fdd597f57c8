"""Write a recording, or one run of it, as NIfTI, BIDS or HDF5.

Two passes over the logs: the first reads what there is, the second moves voxels and
arrays one message at a time. What is written appears under its name only when it is
whole, and no half of an export is left where it fails.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from bci_bridge.chain_file import changes_in
from bci_bridge.exports import bids
from bci_bridge.exports.columns import dictionary_of, tsv_of
from bci_bridge.exports.facts import (
    RecordingFacts,
    RunFacts,
    facts_of,
    recorded_volumes,
)
from bci_bridge.exports.hdf5 import Hdf5Writer, trial_arrays
from bci_bridge.exports.nifti import NiftiWriter, compress
from bci_bridge.exports.sidecar import sidecar_of
from bci_bridge.exports.text import plain, safe_name
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.spilt import Spilt, spilt_of
from bci_bridge.survey import doubts
from runtime.errors import RecordingError, UsageError

Format = Literal["bids", "hdf5", "nifti"]

HDF5_FILE: Final = "recording.h5"


@dataclass
class Exported:
    """What was written."""

    runs: dict[str, RunFacts]
    losses: list[str]
    """What the recording has lost or was changed in; empty for a whole one."""
    unproved: tuple[str, ...] = ()
    """Of each log without a chain, that it has none."""
    notes: list[str] = field(default_factory=list)
    """What does not keep it from being exported, one line each."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """By run, relative to the folder."""


def export(
    recording: Path,
    out: Path,
    kind: Format,
    *,
    version: str,
    run: str | None = None,
    skip_damaged: bool = False,
) -> Exported:
    """Export a recording.

    Args:
        recording: The folder that a server wrote.
        out: The folder to write; it must not exist, or be empty.
        kind: The format.
        version: Of this software, for the provenance.
        run: One run's name; None for all of them.
        skip_damaged: Export what is left of a damaged or changed recording.

    Raises:
        RecordingError: There is no recording, it is damaged, changed, or has no run.
        UsageError: There is no such run, or the folder is not free, or
            in a log of the recording.
        BackendError: nibabel or h5py is missing.
    """
    out = out.absolute()
    _require_free(out, recording)
    spilt = spilt_of(recording)
    facts = facts_of(*(spilt.scan(log) for log in (INPUTS, OUTCOMES)))
    losses = _losses(facts)
    changed, unproved = changes_in(recording)
    if losses and not skip_damaged:
        more = f" and {len(losses) - 1} more" if len(losses) > 1 else ""
        raise RecordingError(
            f"{recording}: expected a whole recording, found lost {losses[0]}{more}. "
            "--skip-damaged exports the rest."
        )
    if changed and not skip_damaged:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RecordingError(
            f"{recording}: {changed[0]}{more}. The recording was changed after it was "
            "made. --skip-damaged exports it nevertheless."
        )
    losses += changed
    exported = Exported(_chosen(recording, facts, run), losses, unproved)
    _note(exported, facts, spilt)
    if kind == "bids":
        _note_without_image(recording, exported)
    # A link to an empty folder stays one: the folder that it names takes the export.
    with _whole(out.resolve()) as folder:
        if kind == "hdf5":
            _write_hdf5(spilt, folder, facts, exported, version)
        else:
            stems = {name: safe_name(name) for name in facts.runs}
            if kind == "bids":
                stems = bids.stems_of(facts.runs.values())
                _write_dataset(folder, exported, stems, version)
            for one in exported.runs.values():
                exported.files[one.name] = [
                    f"{stems[one.name]}{suffix}"
                    for suffix in _write_texts(
                        folder / stems[one.name], one, exported.losses, kind
                    )
                ]
            _write_images(spilt, folder, facts, exported, stems, kind)
    return exported


def _note(exported: Exported, facts: RecordingFacts, spilt: Spilt) -> None:
    """Say of what may not be whole that it may not, also in the sidecars."""
    in_memory = sum(map(len, spilt.segments.values()))
    passed_over = spilt.passed_over
    exported.notes += spilt.told()
    found = doubts(
        {name: run.answered for name, run in facts.runs.items()},
        is_written=spilt.is_written,
        is_all_here=spilt.is_read_whole,
    )
    for name, run in exported.runs.items():
        if in_memory:
            # The path of this machine stays here.
            run.notes.append(f"{in_memory} segments of the recording were in memory")
        if passed_over:
            run.notes.append(f"{passed_over} segments in memory were not read")
        if name in found:
            run.notes.append(found[name])
            exported.notes.append(f"{spilt.recording}: run {name}: {found[name]}")


def _note_without_image(recording: Path, exported: Exported) -> None:
    """Say what is left out: BIDS has events beside an image alone."""
    for name, run in exported.runs.items():
        if not run.kinds:
            text = "expected a volume, found none: BIDS has neither image nor events"
            run.notes.append(text)
            exported.notes.append(f"{recording}: run {name}: {text}")


def _losses(facts: RecordingFacts) -> list[str]:
    losses = list(facts.losses)
    if facts.orphans:
        losses.append(f"{facts.orphans} messages without the beginning of their run")
    return losses


def _chosen(
    recording: Path, facts: RecordingFacts, name: str | None
) -> dict[str, RunFacts]:
    if not facts.runs:
        raise RecordingError(f"{recording}: expected runs, found none")
    if name is not None and name not in facts.runs:
        known = ", ".join(list(facts.runs)[:5])
        more = ", ..." if len(facts.runs) > 5 else ""
        raise UsageError(f"--run: expected one of {known}{more}, found {name!r}")
    runs = facts.runs if name is None else {name: facts.runs[name]}
    for run in runs.values():
        if run.beginnings > 1:
            raise RecordingError(
                f"{recording}: run {run.name}: expected one run of that name, found "
                f"{run.beginnings}. --run exports another one."
            )
    return runs


def _require_free(out: Path, recording: Path) -> None:
    logs = [(recording / log).resolve() for log in (INPUTS, OUTCOMES)]
    # What a log holds is segments and their chain, and is read as such.
    if any(map(out.resolve().is_relative_to, logs)):
        raise UsageError(
            f"--out {out}: expected a folder outside the recording's logs, "
            "found one in them"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"--out {out}: expected a new or empty folder, found one with content"
        )


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a folder beside the wanted one, which takes its name at the end."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_hdf5(
    spilt: Spilt,
    folder: Path,
    facts: RecordingFacts,
    exported: Exported,
    version: str,
) -> None:
    writer = Hdf5Writer(folder / HDF5_FILE, version=version, losses=exported.losses)
    try:
        for run in exported.runs.values():
            writer.add_run(run)
            exported.files[run.name] = [HDF5_FILE]
        volumes = recorded_volumes(spilt.scan(INPUTS), facts, exported.runs)
        for run, index, voxels in volumes:
            writer.add_volume(run, index, voxels)
        outcomes = spilt.scan(OUTCOMES)
        for run, outcome, payload in trial_arrays(outcomes, exported.runs):
            writer.add_arrays(run, outcome, payload)
    finally:
        writer.close()


def _write_images(
    spilt: Spilt,
    folder: Path,
    facts: RecordingFacts,
    exported: Exported,
    stems: Mapping[str, str],
    kind: Format,
) -> None:
    suffix = "_bold.nii" if kind == "bids" else ".nii"
    volumes = recorded_volumes(spilt.scan(INPUTS), facts, exported.runs)
    # One run follows another: one file is open at a time.
    for name, group in groupby(volumes, key=lambda one: one[0].name):
        file = f"{stems[name]}{suffix}"
        with NiftiWriter(folder / file, exported.runs[name]) as writer:
            for _, index, voxels in group:
                writer.write(index, voxels)
        if kind == "bids":
            packed = f"{file}.gz"
            compress(folder / file, folder / packed)
            file = packed
        exported.files[name].insert(0, file)


def _write_dataset(
    folder: Path, exported: Exported, stems: Mapping[str, str], version: str
) -> None:
    _write_json(folder / "dataset_description.json", bids.description(version))
    (folder / "README").write_text(bids.README, encoding="utf-8")
    ignored = "".join(f"{pattern}\n" for pattern in bids.IGNORED)
    (folder / ".bidsignore").write_text(ignored, encoding="utf-8")
    summary = {
        "Runs": bids.mapping_of(exported.runs, stems),
        "RecordingLosses": [plain(loss) for loss in exported.losses],
        "RecordingNotes": {
            plain(name): [plain(note) for note in run.notes]
            for name, run in exported.runs.items()
            if run.notes
        },
    }
    _write_json(folder / "recording.json", summary)


def _write_texts(
    stem: Path, run: RunFacts, losses: list[str], kind: Format
) -> list[str]:
    """Write a run's sidecar and tables; return what follows the stem in their names."""
    described = sidecar_of(run, losses)
    if kind == "nifti":
        _write_json(stem.with_name(f"{stem.name}.json"), described)
        return [".json"]
    stem.parent.mkdir(parents=True, exist_ok=True)
    suffixes = []
    if run.kinds:
        image = bids.image_sidecar(described)
        _write_json(stem.with_name(f"{stem.name}_bold.json"), image)
        suffixes.append("_bold.json")
    for suffix, table in bids.tables_of(run).items():
        file = stem.with_name(f"{stem.name}_{suffix}.tsv")
        file.write_text(tsv_of(table), encoding="utf-8")
        _write_json(file.with_suffix(".json"), dictionary_of(table))
        suffixes += [f"_{suffix}.tsv", f"_{suffix}.json"]
    return suffixes


def _write_json(file: Path, content: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    file.write_bytes(text + b"\n")
