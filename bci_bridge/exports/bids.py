"""A recording as a BIDS derivative: names and descriptions. Pure.

Source: Brain Imaging Data Structure, version 1.10.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bci_bridge.exports import tables
from bci_bridge.exports.columns import Table
from bci_bridge.exports.facts import RunFacts
from bci_bridge.exports.text import UNKNOWN, labels, plain

VERSION: Final = "1.10.0"

IGNORED: Final = (
    "*_decoding.tsv",
    "*_decoding.json",
    "*_volumes.tsv",
    "*_volumes.json",
    "*_shown.tsv",
    "*_shown.json",
    "recording.json",
)
"""Files beside the standard, as `.bidsignore` lists them."""

README: Final = """\
What a real-time decoder received and answered, exported from its recording.

*_bold.nii.gz     the volumes as they came; missing ones are named in *_bold.json
*_events.tsv      the stimuli that were announced
*_decoding.tsv    one row for each trial's final answer
*_volumes.tsv     one row for each acquisition's answer
*_shown.tsv       what was reported to have reached the participant, if anything was
recording.json    the runs' names in the recording and here, and what is lost

In texts, a backslash begins an escape as in JSON: \\\\ \\t \\n \\r \\xNN \\uNNNN.
"""


def stems_of(runs: Iterable[RunFacts]) -> dict[str, str]:
    """Give each run the path of its files, without suffix.

    BIDS wants numbers for runs; they count the runs of a subject, session and task in
    the order of the recording. `mapping_of` keeps the names.
    """
    runs = list(runs)
    subjects = labels((run.start.subject for run in runs), "sub")
    sessions = labels((run.start.session for run in runs if run.start.session), "ses")
    tasks = labels((run.start.task for run in runs), "task")
    numbers: Counter[tuple[str, str, str]] = Counter()
    stems = {}
    for run in runs:
        start = run.start
        key = start.subject, start.session, start.task
        numbers[key] += 1
        entities = [f"sub-{subjects[start.subject]}"]
        if start.session:
            entities.append(f"ses-{sessions[start.session]}")
        folder = "/".join(entities)
        entities += [f"task-{tasks[start.task]}", f"run-{numbers[key]}"]
        stems[run.name] = f"{folder}/func/{'_'.join(entities)}"
    return stems


def mapping_of(
    runs: Mapping[str, RunFacts], stems: Mapping[str, str]
) -> list[dict[str, str]]:
    """Say which name of the recording became which here."""
    return [
        {
            "RunName": plain(name),
            "SubjectName": plain(run.start.subject),
            "SessionName": plain(run.start.session),
            "TaskName": plain(run.start.task) or UNKNOWN,
            "File": stems[name],
        }
        for name, run in runs.items()
    ]


def description(version: str) -> dict[str, Any]:
    """Describe the folder.

    Args:
        version: Of this software.
    """
    return {
        "Name": "Recording of a real-time decoder",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "neuroflow-rt", "Version": version}],
    }


def image_sidecar(described: Mapping[str, Any]) -> dict[str, Any]:
    """Add what BIDS asks of a derived image.

    Args:
        described: As `sidecar_of` describes the run.
    """
    return {
        "Description": "Volumes as they came to the decoder, in acquisition order.",
        # Nothing is removed here; what a sender removed, the wire does not say.
        "SkullStripped": False,
        **described,
    }


def tables_of(run: RunFacts) -> dict[str, Table]:
    """Give a run's tables by the suffix of their files."""
    # The standard has events beside an image alone.
    found = {"events": tables.events_table(run)} if run.kinds else {}
    found |= {
        "decoding": tables.trials_table(run),
        "volumes": tables.volumes_table(run),
    }
    if run.shown:
        found["shown"] = tables.shown_table(run)
    return found
