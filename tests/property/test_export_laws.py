"""Nothing leaves a recording but what is written down here, field by field."""

import gzip
import json
import re

import h5py
import msgspec
import numpy as np
import pytest

from bci_bridge import messages
from bci_bridge.arrays import bytes_from_arrays
from bci_bridge.exports.columns import dictionary_of
from bci_bridge.exports.export import export
from bci_bridge.exports.facts import RunFacts
from bci_bridge.exports.tables import (
    events_table,
    shown_table,
    trials_table,
    volumes_table,
)
from bci_bridge.header import Header
from bci_bridge.messages import RigNote, RunEnd, RunStart
from bci_bridge.outcomes import Outcome, ScoredStimulus
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recorder import Recorder
from bci_bridge.wire import encode
from tests.integration.tiny import SHAPE

RUN = "CanaryRun.name"
CANARY = re.compile(r"Canary[A-Za-z]+\.[a-z_0-9]+")
LEAVES = {
    RUN,
    *(f"CanaryRunStart.{name}" for name in ("subject", "session", "task")),
    *(f"CanaryEvent.{name}" for name in ("trial_id", "stimulus_id")),
    *(f"CanaryShown.{name}" for name in ("trial_id", "what")),
    *(
        f"Canary{kind}.{name}"
        for kind in ("VolumeOutcome", "TrialOutcome")
        for name in ("label", "abstention", "degraded")
    ),
    *(
        f"Canary{kind}.{name}"
        for kind in ("VolumeOutcome", "TrialOutcome", "RunEnded")
        for name in (
            "degraded",
            "bundle_sha256",
            "gallery_sha256",
            "preprocessing_sha256",
            "overlay_sha256",
            "configuration_sha256",
        )
    ),
    "CanaryVolumeOutcome.reason",
    "CanaryTrialOutcome.trial_id",
    *(f"CanaryScoredStimulus.{name}" for name in ("stimulus_id", "label")),
    *(f"CanaryRigNote.{name}" for name in ("backend", "precision", "cpu", "versions")),
}
"""The only fields of free text that an export may hold."""

FIXED = {
    "", "n/a", "NaN", "live", "flag", "unknown", "int16", "i2", "neuroflow-rt",
    "1.2.3", "1.10.0", "derivative", "Recording of a real-time decoder",
    "Volumes as they came to the decoder, in acquisition order.",
    "OK", "LIVE", "ANSWER",
}  # fmt: skip
"""Values of the exporter's own, and of the wire's closed vocabularies."""


def filled(kind, **fields):
    """Build a message whose every text is a canary that names its field."""
    values = dict(fields)
    for one in msgspec.structs.fields(kind):
        text = f"Canary{kind.__name__}.{one.name}"
        inner = str(one.type)
        if one.name in values or one.name in ("version", "crit"):
            continue
        if one.name == "run":
            values[one.name] = RUN
        elif one.name == "candidates":
            values[one.name] = (filled(ScoredStimulus, cosine=0.5),) * 7
        elif one.name == "confound_names" or (
            inner.startswith("tuple") and "str" in inner
        ):
            values[one.name] = (text,)
        elif inner.startswith("dict[str, ") and "str" in inner.removeprefix("dict[str"):
            values[one.name] = {text: text}
        elif inner.startswith("dict") or one.name == "confounds":
            values[one.name] = {text: 1}
        elif "str" in inner and "Literal" not in inner:
            values[one.name] = text
        elif one.required and "Literal" not in inner:
            values[one.name] = 1.0 if "float" in inner else 0
    return kind(**values)


def canary_recording(folder):
    """Every kind of message in a log, whether or not a server would put it there."""
    shape = {"shape": SHAPE}
    special = {
        "RunStart": {
            **shape, "tr_s": 1.0, "expected_volumes": 3, "budget_s": 1.0,
            "affine": None, "bundle_sha256": "1" * 64, "gallery_sha256": "2" * 64,
        },
        "Volume": {**shape, "dtype": "i2"},
        "RunEnd": {"count": 1},
        "Hello": {"role": "scanner", "versions": (1,)},
        "Ack": {"recording": "ON"},
        "Reject": {"reason": "BUSY"},
        "ReplayDone": {"has_ended": True},
        "RunEnded": {"aborted": False, "count": 1, "outcome_index": 3},
        "VolumeOutcome": {"input": "OK", "timing": "LIVE", "decision": "ANSWER"},
        "TrialOutcome": {"timing": "LIVE", "decision": "ANSWER", "outcome_index": 1},
        "Update": {"decision": "ANSWER", "outcome_index": 2},
        "DecisionNote": {"what": "STREAM_KEY"},
        "ConfigurationNote": {"sha256": "3" * 64},
    }  # fmt: skip
    logs = {name: Recorder(folder / name) for name in (INPUTS, OUTCOMES)}
    kinds = [kind for kind in vars(messages).values() if is_message(kind)]
    first = {RunStart: 0, RigNote: 1, RunEnd: 3}
    kinds.sort(key=lambda kind: first.get(kind, 2))
    for kind in kinds:
        record = filled(kind, **special.get(kind.__name__, {}))
        payload = b""
        if kind.__name__ == "Volume":
            payload = np.zeros(SHAPE, "<i2").tobytes()
        elif kind.__name__ == "TrialOutcome":
            payload = bytes_from_arrays({"z_v": np.zeros(2), "../b": np.ones(1)})
        envelope = encode(record, payload)
        if issubclass(kind, Outcome) or kind.__name__ in ("RigNote", "RunStart"):
            logs[OUTCOMES].append("out", envelope, 0)
        if not issubclass(kind, Outcome):
            for topic in ("in/CanaryTopic.stream", "refused/CanaryTopic.stream"):
                logs[INPUTS].append(topic, envelope, 0)
    for log in logs.values():
        log.close()
    return {kind.__name__ for kind in kinds}


def is_message(kind):
    if not (isinstance(kind, type) and issubclass(kind, Header)):
        return False
    return kind not in (Header, Outcome, messages.Clocked)


def bytes_of(folder):
    """All that is in the files and their names, unpacked."""
    for file in sorted(folder.rglob("*")):
        yield str(file.relative_to(folder)).encode()
        if file.suffix == ".gz":
            yield gzip.decompress(file.read_bytes())
        elif file.suffix == ".h5":
            yield from texts_of(file)
            yield file.read_bytes()
        elif file.is_file():
            yield file.read_bytes()


def texts_of(file):
    found = []

    def visit(name, one):
        found.append(name)
        found.extend(map(str, one.attrs.values()))
        if isinstance(one, h5py.Dataset) and one.dtype.kind == "O":
            values = one.asstr()[()]
            found.extend(np.atleast_1d(np.asarray(values, object)).tolist())

    with h5py.File(file) as opened:
        opened.visititems(visit)
        found.extend(map(str, opened.attrs.values()))
    return [text.encode() for text in found]


@pytest.fixture
def recording(tmp_path):
    kinds = canary_recording(tmp_path / "CanaryRecording.folder")
    assert {"Hello", "Missing", "DecisionNote", "Update", "Reject"} < kinds
    return tmp_path / "CanaryRecording.folder"


@pytest.mark.parametrize("kind", ["nifti", "bids", "hdf5"])
def test_no_text_leaves_but_that_of_the_listed_fields(recording, tmp_path, kind):
    out = tmp_path / "out"
    export(recording, out, kind, version="1.2.3")

    text = "\n".join(content.decode("latin-1") for content in bytes_of(out))
    found = {known_in(canary) for canary in CANARY.findall(text)}

    if kind == "nifti":  # voxels and a sidecar, no tables
        assert found < LEAVES
        assert {RUN, "CanaryRunStart.subject", "CanaryRigNote.versions"} < found
    else:
        assert found == LEAVES


def known_in(canary):
    """Give the listed field that this begins with, or what was found.

    In the bytes of an HDF5 file, what follows a text may look like more of it.
    """
    fitting = [leaf for leaf in LEAVES if canary.startswith(leaf)]
    return max(fitting, key=len, default=canary)


def values_of(content):
    if isinstance(content, dict):
        for key, value in content.items():
            yield from values_of(value)
            if CANARY.fullmatch(key):
                yield key
    elif isinstance(content, list):
        for value in content:
            yield from values_of(value)
    elif isinstance(content, str):
        yield content


def test_every_text_in_a_bids_export_comes_from_a_known_field(recording, tmp_path):
    out = tmp_path / "out"
    exported = export(recording, out, "bids", version="1.2.3")

    described = {
        text
        for table in (events_table, shown_table, trials_table, volumes_table)
        for text in values_of(dictionary_of(table(exported.runs[RUN])))
    }
    stem = "sub-CanaryRunStartsubject/ses-CanaryRunStartsession/func/"
    known = FIXED | LEAVES | described
    seen = set()
    for file in out.rglob("*.json"):
        seen |= set(values_of(json.loads(file.read_text("utf-8"))))
    for file in out.rglob("*.tsv"):
        lines = file.read_text("utf-8").splitlines()[1:]
        seen |= {cell for line in lines for cell in line.split("\t")}
    numbers = re.compile(r"-?[0-9.]+(e-?[0-9]+)?")
    strange = {text for text in seen - known if not numbers.fullmatch(text)}
    assert {text for text in strange if not text.startswith(stem)} == set()
    assert LEAVES - seen == set()


def test_there_is_no_column_of_which_this_law_does_not_know():
    start = RunStart(shape=SHAPE, tr_s=1.0, expected_volumes=1, budget_s=1.0)
    texts = {
        column.name
        for table in (events_table, shown_table, trials_table, volumes_table)
        for column in table(RunFacts(start)).columns
        if column.kind == "text"
    }

    places = {
        name for k in range(1, 6) for name in (f"candidate_{k}", f"candidate_{k}_label")
    }
    assert texts - places == {
        "trial_id", "stim_id", "reported_shown_ns", "what", "input", "reason",
        "timing", "decision", "label", "abstention", "degraded",
    }  # fmt: skip
