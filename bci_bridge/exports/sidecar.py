"""What an export says of a run beside its voxels and tables. Pure."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from msgspec import UNSET

from bci_bridge.exports.facts import RunFacts
from bci_bridge.exports.text import UNKNOWN, plain
from bci_bridge.messages import RigNote, RunStart
from bci_bridge.outcomes import Outcome


def sidecar_of(run: RunFacts, losses: Iterable[str]) -> dict[str, Any]:
    """Describe a run: its image, what answered it, and what is missing from it.

    Args:
        run: The run.
        losses: What cannot be read of the recording.
    """
    start = run.start
    outcomes: list[Outcome] = [*run.volumes.values(), *run.trials.values()]
    if run.ended is not None:
        outcomes.append(run.ended)
    return {
        "RepetitionTime": start.tr_s,
        "TaskName": plain(start.task) or UNKNOWN,
        "RunName": plain(run.name),
        "SubjectName": plain(start.subject),
        "SessionName": plain(start.session),
        "Shape": list(start.shape),
        "VoxelType": run.dtype.name if run.kinds else None,
        "SentVoxelTypes": sorted(set(run.kinds.values())),
        "Affine": None if start.affine is None else list(start.affine),
        "ExpectedVolumes": start.expected_volumes,
        "VolumeCount": run.count,
        "RecordedVolumes": len(run.kinds),
        "MissingVolumes": [
            {"Index": index, "Reason": plain(reason)}
            for index, reason in run.missing.items()
        ],
        "MissingVolumesFilledWith": filling_name(run),
        "UnusedVolumes": sorted(
            index
            for index in run.kinds.keys() & run.volumes.keys()
            if run.volumes[index].input != "OK"
        ),
        "LateVolumes": sorted(
            index for index, one in run.volumes.items() if one.timing == "LATE"
        ),
        "Degraded": _degraded(outcomes),
        "Pace": start.pace,
        "LatePolicy": start.late,
        "BudgetSeconds": start.budget_s,
        "BundleSHA256": _hashes(outcomes, "bundle_sha256"),
        "GallerySHA256": _hashes(outcomes, "gallery_sha256"),
        "PreprocessingSHA256": _hashes(outcomes, "preprocessing_sha256"),
        "OverlaySHA256": _hashes(outcomes, "overlay_sha256"),
        "Rigs": [_rig(rig) for rig in run.rigs],
        "HasEnded": run.end is not None or run.ended is not None,
        "IsAborted": any(
            end is not None and end.aborted for end in (run.end, run.ended)
        ),
        "LostOutcomes": run.lost_outcomes,
        "RecordingLosses": [plain(loss) for loss in losses],
        "RecordingNotes": [plain(note) for note in run.notes],
        "IsRehearsal": start.is_rehearsal,
        "ConfigurationSHA256": _hashes(outcomes, "configuration_sha256"),
        **_slice_timing(start),
    }


def _slice_timing(start: RunStart) -> dict[str, list[float]]:
    """Give the slices' times in seconds as BIDS does, which knows no null for them."""
    if start.slice_times_us is UNSET:
        return {}
    return {"SliceTiming": [time_us / 1e6 for time_us in start.slice_times_us]}


def filling_name(run: RunFacts) -> str | int | None:
    """Say what stands for an acquisition without voxels; None if none does."""
    if not run.kinds or not run.missing:
        return None
    return "NaN" if np.issubdtype(run.dtype, np.floating) else 0


def _degraded(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Count outcomes by what was not as it should be."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for reason in outcome.degraded:
            counts[plain(reason)] = counts.get(plain(reason), 0) + 1
    return counts


def _hashes(outcomes: Iterable[Outcome], field: str) -> list[str]:
    found = {getattr(outcome, field) or "" for outcome in outcomes}
    return sorted(plain(one) for one in found if one)


def _rig(rig: RigNote) -> dict[str, Any]:
    return {
        "Backend": plain(rig.backend),
        "Precision": plain(rig.precision),
        "Threads": rig.threads,
        "Processors": rig.processors,
        "AbstainBelow": rig.abstain_below,
        "Processor": [plain(one) for one in rig.cpu],
        "Versions": {
            plain(name): plain(version)
            for name, version in sorted(rig.versions.items())
        },
    }
