"""Recordings made without a server: any messages, answered by a worker of its own."""

from dataclasses import dataclass, field

import numpy as np
from msgspec import structs

from bci_bridge.answering import Answering
from bci_bridge.messages import (
    DecisionNote,
    Event,
    Missing,
    RigNote,
    RunEnd,
    RunStart,
    Shown,
    Volume,
)
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recorder import SEGMENT_BYTES, Recorder
from bci_bridge.recovery import is_folded
from bci_bridge.segment import Logged
from bci_bridge.wire import encode
from tests.integration.tiny import SHAPE, MeanDecoder

SECOND = 1_000_000_000
BEGIN_NS = 10_000 * SECOND
AFFINE = tuple(
    map(float, (-2, 0, 0, 3.5, 0, 2, -1.8, -7.1, 0, 1.5, 2.4, 1.25, 0, 0, 0, 1))
)
"""A rotation and a scaling, so that quaternion and matrix can both say it."""
RIG = RigNote(
    backend="ort",
    precision="f32",
    threads=1,
    processors=2,
    abstain_below=0.0,
    cpu=("x86_64", "avx2"),
    versions={"onnxruntime": "1.24.0", "python": "3.11.0"},
)


@dataclass
class Rig:
    """A server without sockets: what is said is logged, and answered."""

    folder: object
    decoder: object = field(default_factory=MeanDecoder)
    rig: RigNote = RIG
    latency_ns: int = 20_000_000
    segment_bytes: int = SEGMENT_BYTES

    def __enter__(self):
        self.now, self.run, self.sequence = BEGIN_NS, "", 0
        self.inputs, self.outcomes = (
            Recorder(
                self.folder / log,
                segment_bytes=self.segment_bytes,
                sync_interval_s=0.0,
            )
            for log in (INPUTS, OUTCOMES)
        )
        self.outcomes.append("rig", encode(self.rig), self.now)
        self.answering = Answering(
            self.decoder, lambda: self.now + self.latency_ns, self.rig
        )
        return self

    def __exit__(self, *_):
        self.inputs.close()
        self.outcomes.close()

    def say(self, record, payload=b"", topic="in/scanner"):
        filled = structs.replace(
            record, run=record.run or self.run, stream="scanner", sequence=self.sequence
        )
        envelope = encode(filled, payload)
        self.inputs.append(topic, envelope, self.now)
        logged = Logged(0, self.now, topic, envelope)
        if not is_folded(logged):
            return
        self.sequence += 1
        self.answering.take(logged)
        for made in self.answering.emit():
            is_start = isinstance(made.record, RunStart)
            self.outcomes.append("run" if is_start else "out", made, self.now)

    def start(self, run="run-1", **changes):
        self.run, self.sequence = run, 0
        settings = {
            "run": run, "shape": SHAPE, "tr_s": 1.5, "expected_volumes": 12,
            "budget_s": 0.5, "affine": AFFINE,
        }  # fmt: skip
        self.say(RunStart(**{**settings, **changes}))

    def volume(self, index, voxels, kind="i2", late_ns=0):
        self.now += SECOND
        voxels = np.asarray(voxels, f"<{kind}")
        record = Volume(
            volume_index=index, acquired_ns=self.now - 10_000_000 - late_ns,
            dtype=kind, shape=voxels.shape,
        )  # fmt: skip
        self.say(record, voxels.tobytes())

    def event(self, trial_id, onset_s, **fields):
        self.say(Event(trial_id=trial_id, onset_s=onset_s, duration_s=0.5, **fields))

    def shown(self, what, shown_ns, trial_id=""):
        self.say(Shown(what=what, shown_ns=shown_ns, trial_id=trial_id))

    def missing(self, index, reason=""):
        self.say(Missing(volume_index=index, reason=reason))

    def given_up(self, index):
        note = DecisionNote(what="MISSING_BY_DEADLINE", volume_index=index)
        self.say(note, topic="note")

    def end(self, count, **fields):
        self.say(RunEnd(count=count, **fields))


def noise(index, kind="i2", shape=SHAPE):
    """Voxels of which no two are alike, so that a wrong order shows."""
    rng = np.random.default_rng(index)
    if kind == "f4":
        return rng.standard_normal(shape).astype("<f4")
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, kind, endpoint=True)


def simple_recording(folder, kind="i2"):
    """Two runs; the first misses acquisitions 2 and 5, and has 7 of them."""
    with Rig(folder) as rig:
        rig.start(subject="sub-01", session="ses-a.b", task="watch")
        rig.event("t-1", 0.25, stimulus_id="cat.png", shown_ns=77)
        rig.shown("cat.png", 78, "t-1")
        rig.shown("fixation", 99)
        for index in (0, 1, 3, 4, 6):
            if index == 6:
                rig.missing(5, "reconstruction failed")
            rig.volume(index, noise(index, kind), kind)
        rig.event("t-2", 8.0)
        rig.end(7)
        rig.start("other.run+2", affine=None)
        rig.volume(0, noise(0, kind), kind)
        rig.volume(1, noise(1, kind), kind)
        rig.end(2, aborted=True)
    return folder
