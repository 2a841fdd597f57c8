"""`neuroflow replay`: a recording through the decoder again; the same answers?"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

import msgspec

from bci_bridge.chain_file import changes_in
from bci_bridge.decoder import Decoder
from bci_bridge.difference import Difference
from bci_bridge.messages import RigNote
from bci_bridge.outcomes import RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.replay import replay
from bci_bridge.spilt import Spilt, spilt_of
from bci_bridge.survey import Survey, doubts, rig_differences, survey
from runtime.engine import Precision
from runtime.errors import ParityError, RecordingError
from runtime.live import open_decoder
from verbs.rig import rig_here

NAMED: Final = 10
"""Differences that are named; the rest is counted."""


class RunTally(msgspec.Struct, kw_only=True):
    """One run of a recording and how its replay compares with it."""

    run: str
    volumes: int = 0
    trials: int = 0
    compared: int = 0
    """Recorded outcomes held against their replay."""
    differences: int = 0
    left_out: int = 0
    """Recorded outcomes that cannot be compared, because messages are lost."""
    lacking: int = 0
    """Answers that the inputs lead to, after the last one on record."""
    is_over: bool = False
    """Its inputs hold its end: sent, or decided by the server."""
    has_ended: bool = False
    """Its recorded answers hold its end."""

    def __str__(self) -> str:
        line = (
            f"{self.run}: {self.volumes} volumes, {self.trials} trials, "
            f"{self.compared} answers compared, {self.differences} differences"
        )
        if self.left_out:
            line += f", {self.left_out} answers not compared after a loss"
        if self.lacking:
            line += f", {self.lacking} answers that the recording lacks"
        if not self.has_ended:
            line += ", recorded without its end"
        return line


@dataclass
class ReplayReport:
    """All runs of a recording, and what is not the same in them."""

    runs: dict[str, RunTally] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    losses: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Segments that are not as they were chained."""
    notes: tuple[str, ...] = ()
    """What may be missing without a trace in the logs, one line each."""
    rig: tuple[str, ...] = ()
    """In what this machine is not the one that recorded."""

    @property
    def compared(self) -> int:
        """Recorded outcomes that were compared."""
        return sum(tally.compared for tally in self.runs.values())


def replay_recording(
    recording: Path,
    bundle: Path,
    gallery: Path,
    *,
    overlay: Path | None = None,
    backend: str | None,
    verify: bool,
    skip_damaged: bool,
    as_json: bool,
) -> None:
    """Replay a recording and print what came of it.

    Args:
        recording: The folder that a server wrote.
        bundle: The bundle that answered.
        gallery: The gallery that it chose from.
        overlay: The day's calibration that it answered with, if any.
        backend: Engine library; by default the recorded one.
        verify: Refuse another engine or machine, and fail on any difference and where
            answers are missing.
        skip_damaged: Go on where messages are lost, and say what is left out.
        as_json: Print JSON.

    Raises:
        RecordingError: The recording is damaged or changed, or was not made with this.
        ParityError: An answer is not what is recorded, or is not on record.
        BundleError: The bundle, gallery or overlay is not what its manifest lists.
        BackendError: The engine library is missing or refuses a graph.
    """
    spilt = spilt_of(recording)
    found = _surveyed(spilt)
    if found.losses and not skip_damaged:
        raise RecordingError(
            f"{recording}: expected a whole recording, found lost {found.losses[0]}"
            f"{_and_more(len(found.losses))}. --skip-damaged compares the rest."
        )
    changed, unproved = changes_in(recording)
    notes = _notes(spilt, found)
    for line in (*unproved, *notes):
        print(f"neuroflow: {line}", file=sys.stderr)
    if changed and not skip_damaged:
        raise RecordingError(
            f"{recording}: {changed[0]}{_and_more(len(changed))}. The recording was "
            "changed after it was made. --skip-damaged compares nevertheless."
        )
    rig = _recorded_rig(recording, found, is_needed=verify)
    # The recorded precision is the recorded engine's; another one may not have it.
    known = {name: name for name in get_args(Precision)}
    precision: Precision = "f32"
    if rig is not None and backend is None:
        precision = known.get(rig.precision, "f32")
    here = rig_here(
        backend or ("ort" if rig is None else rig.backend),
        threads=None if rig is None else rig.threads,
        abstain_below=0.0 if rig is None else rig.abstain_below,
        precision=precision,
    )
    unlike = [] if rig is None else rig_differences(rig, here)
    if unlike and verify:
        raise RecordingError(
            f"{recording}: {unlike[0]}{_and_more(len(unlike))}. "
            "Another engine or processor gives other bits; leave --verify out to see."
        )
    with open_decoder(
        bundle,
        gallery,
        backend=here.backend,
        precision=precision,
        threads=here.threads,
        abstain_below=here.abstain_below,
        overlay_folder=overlay,
    ) as decoder:
        report = replayed(spilt, decoder)
    report.losses, report.rig = found.losses, tuple(unlike)
    report.changed, report.notes = changed, notes
    _print(report, as_json=as_json)
    if verify:
        _require_identity(recording, report)


def replayed(recording: Spilt, decoder: Decoder) -> ReplayReport:
    """Replay a recording and count, run by run.

    Raises:
        RecordingError: A run was answered with another bundle, gallery or overlay.
    """
    report = ReplayReport()
    inputs, outcomes = (recording.scan(log) for log in (INPUTS, OUTCOMES))
    for step in replay(inputs, outcomes, decoder):
        tally = report.runs.setdefault(step.run, RunTally(run=step.run))
        tally.compared += step.compared
        tally.left_out += step.left_out
        tally.lacking += step.lacking
        tally.has_ended |= step.has_end
        tally.differences += len(step.differences)
        report.differences += step.differences
        for envelope in step.outcomes:
            tally.volumes += isinstance(envelope.record, VolumeOutcome)
            tally.trials += isinstance(envelope.record, TrialOutcome)
            tally.is_over |= isinstance(envelope.record, RunEnded)
    return report


def _surveyed(spilt: Spilt) -> Survey:
    logs = {log: survey(spilt.scan(log)) for log in (INPUTS, OUTCOMES)}
    losses = (f"{log}: {what}" for log, one in logs.items() for what in one.losses)
    runs = {**logs[INPUTS].runs, **logs[OUTCOMES].runs}
    return Survey(logs[OUTCOMES].rigs, tuple(losses), runs)


def _notes(spilt: Spilt, found: Survey) -> tuple[str, ...]:
    unsure = doubts(
        found.runs, is_written=spilt.is_written, is_all_here=spilt.is_read_whole
    )
    lines = (f"{spilt.recording}: run {name}: {text}" for name, text in unsure.items())
    return (*spilt.told(), *lines)


def _recorded_rig(recording: Path, found: Survey, *, is_needed: bool) -> RigNote | None:
    if not found.rigs and is_needed:
        raise RecordingError(
            f"{recording}: expected a record of the engine that answered, found none. "
            "Leave --verify out to replay without proof."
        )
    if any(rig != found.rigs[0] for rig in found.rigs):
        raise RecordingError(
            f"{recording}: expected one server's settings, found servers with "
            "different ones. Give each of them a folder of its own."
        )
    return found.rigs[0] if found.rigs else None


def _require_identity(recording: Path, report: ReplayReport) -> None:
    if report.differences:
        raise ParityError(
            f"{recording}: expected every answer as recorded, "
            f"found {len(report.differences)} differences"
        )
    if not report.compared:
        raise ParityError(f"{recording}: expected answers to compare, found none")
    has_lost_inputs = any(loss.startswith(f"{INPUTS}: ") for loss in report.losses)
    for tally in report.runs.values():
        if trouble := _unproved(tally, has_lost_inputs=has_lost_inputs):
            raise ParityError(
                f"{recording}: {tally.run}: {trouble}. It was cut off, or its server "
                "killed there. Leave --verify out to compare the rest."
            )


def _unproved(tally: RunTally, *, has_lost_inputs: bool) -> str:
    """Say what of a run without differences could not be compared; empty where all was.

    A run whose inputs stop before its end proves nothing beyond its last answer: that
    is how a server leaves it that is killed for good.
    """
    if tally.is_over and not tally.has_ended:
        return (
            "expected every answer up to the run's end, found "
            f"{tally.lacking} answers that the recording lacks"
        )
    if tally.volumes and not tally.compared:
        return "expected answers to compare, found none"
    if tally.left_out and not has_lost_inputs:
        return (
            "expected the inputs of every answer, found "
            f"{tally.left_out} answers without them"
        )
    return ""


def _and_more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _print(report: ReplayReport, *, as_json: bool) -> None:
    for line in report.rig:
        print(f"neuroflow: unlike the recording: {line}", file=sys.stderr)
    if as_json:
        result = {
            "runs": list(report.runs.values()),
            "differences": report.differences,
            "lost": report.losses,
            "changed": report.changed,
            "notes": report.notes,
            "unlike": report.rig,
        }
        print(msgspec.json.encode(result).decode())
        return
    for loss in report.losses:
        print(f"lost: {loss}")
    for change in report.changed:
        print(f"changed: {change}")
    for tally in report.runs.values():
        print(tally)
    for difference in report.differences[:NAMED]:
        print(f"  {difference}")
    if len(report.differences) > NAMED:
        print(f"  and {len(report.differences) - NAMED} more")
