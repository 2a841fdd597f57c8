"""Recordings to replay: how to judge one, and how to make another of it."""

from bci_bridge.messages import RigNote
from bci_bridge.outcomes import Outcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import scan_recording
from bci_bridge.segment import Logged
from bci_bridge.spilt import spilt_of
from tests.integration.tiny import MeanDecoder, PlayedEvent
from verbs.replay import replayed

EVENTS = (PlayedEvent("t-1", 0.0), PlayedEvent("t-2", 3.2), PlayedEvent("t-3", 28.0))
RIG = RigNote(
    backend="ort",
    precision="f32",
    threads=1,
    processors=2,
    abstain_below=0.0,
    cpu=("x86_64", "avx2"),
    versions={"onnxruntime": "1.24.0", "python": "3.11.0"},
)


def require_identity(folder, decoder=None):
    """Replay a recording; all of it must be compared, and nothing differ."""
    report = replayed(spilt_of(folder), decoder or MeanDecoder())
    records = [entry.envelope.record for entry in entries_of(folder)]
    assert [str(difference) for difference in report.differences] == []
    assert report.compared == sum(isinstance(r, Outcome) for r in records) > 0
    assert all(tally.has_ended for tally in report.runs.values())
    return report, records


def scanned(folder):
    """Everything in both logs, inputs first."""
    return [item for log in (INPUTS, OUTCOMES) for item in scan_recording(folder / log)]


def entries_of(folder):
    return [item for item in scanned(folder) if isinstance(item, Logged)]


def rewritten(folder, change):
    """A whole, undamaged recording that says something else."""
    out, position = folder / "rewritten", -1
    for log in (INPUTS, OUTCOMES):
        recorder = Recorder(out / log)
        for entry in scan_recording(folder / log):
            position += 1
            envelope = change(position, entry.envelope)
            if envelope is not None:
                recorder.append(entry.topic, envelope, entry.log_ns)
        recorder.close()
    return out


def found_in(folder, decoder=None):
    report = replayed(spilt_of(folder), decoder or MeanDecoder())
    return [(d.outcome_index, d.field) for d in report.differences]
