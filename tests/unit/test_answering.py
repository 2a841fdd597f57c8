"""Two workers over the same logs: one answers, the other stands by."""

import numpy as np
from msgspec import structs

from bci_bridge.answering import Answering
from bci_bridge.messages import Event, RunEnd, RunStart, Volume
from bci_bridge.outcomes import Update
from bci_bridge.segment import Logged
from bci_bridge.wire import encode
from tests.integration.tiny import SHAPE, MeanDecoder

VOLUMES = 3


def said_in_run(run):
    """The inputs of a run, from its start to its end."""
    start = RunStart(
        run=run, shape=SHAPE, tr_s=1.0, expected_volumes=VOLUMES, budget_s=1.0
    )
    volumes = [
        Volume(run=run, volume_index=index, acquired_ns=0, dtype="i2", shape=SHAPE)
        for index in range(VOLUMES)
    ]
    records = [start, *volumes, RunEnd(run=run, count=VOLUMES)]
    voxels = np.zeros(SHAPE, "<i2").tobytes()
    for sequence, record in enumerate(records):
        filled = structs.replace(record, stream="scanner", sequence=sequence)
        payload = voxels if isinstance(record, Volume) else b""
        yield Logged(0, 0, "in/scanner", encode(filled, payload))


class Pair:
    """Who answers, who stands by, and what the latter has not taken yet."""

    def __init__(self):
        self.active, self.standby = (
            Answering(MeanDecoder(), lambda: 0) for _ in range(2)
        )
        self.behind = []

    def play(self, run):
        for logged in said_in_run(run):
            self.active.take(logged)
            for envelope in self.active.emit():
                self.standby.know(Logged(0, 0, "out", envelope))
            self.behind.append(logged)
            while self.behind and self.standby.is_settled(self.behind[0]):
                self.standby.take(self.behind.pop(0))


def test_a_standby_owes_no_more_after_many_runs_than_after_two():
    pair = Pair()
    pair.play("run-1")
    pair.play("run-2")
    owed = pair.standby.owed

    for number in range(3, 60):
        pair.play(f"run-{number}")

    assert pair.standby.owed == owed
    # What it owes is on record, so that nothing is said twice when its turn comes.
    assert pair.standby.emit() == []


def test_a_standby_that_takes_over_says_what_the_other_one_owed():
    pair = Pair()
    pair.play("run-1")
    inputs = list(said_in_run("run-2"))

    # The other one dies before it answers any of them.
    for logged in inputs:
        pair.standby.take(logged)
    kinds = [type(one.record).__name__ for one in pair.standby.emit()]

    assert kinds == [
        *("RunStart", "ConfigurationNote"),
        *("VolumeOutcome",) * VOLUMES,
        "RunEnded",
    ]


def test_who_takes_over_repeats_no_estimate_and_goes_on_after_its_first_answer():
    """The one that answers dies after its first estimate of two trials that wait."""
    first, standby = (Answering(MeanDecoder(), lambda: 0) for _ in range(2))
    start = RunStart(
        shape=SHAPE, tr_s=1.0, expected_volumes=9, budget_s=1.0, updates=True
    )
    events = [
        Event(trial_id=f"t-{n}", onset_s=onset_s, duration_s=1.0)
        for n, onset_s in enumerate((0.0, 1.5, 2.5))
    ]
    volumes = [
        Volume(volume_index=index, acquired_ns=0, dtype="i2", shape=SHAPE)
        for index in range(4)
    ]
    voxels = np.zeros(SHAPE, "<i2").tobytes()
    inputs = []
    for record in (start, *events, *volumes):
        filled = structs.replace(
            record, run="run", stream="scanner", sequence=len(inputs)
        )
        payload = voxels if isinstance(record, Volume) else b""
        read_ns = 10**9 * len(inputs)
        inputs.append(
            Logged(len(inputs), read_ns, "in/scanner", encode(filled, payload))
        )
    written = []
    for logged in inputs[:-1]:
        first.take(logged)
        written += first.emit()
    written.append(first.update())

    for envelope in written:
        standby.know(Logged(0, 0, "out", envelope))
    for logged in inputs[:-1]:
        standby.take(logged)
    at_once = [*standby.emit(), standby.update()]
    standby.take(inputs[-1])
    then = [one.record for one in (*standby.emit(), standby.update())]

    assert (type(written[-1].record), written[-1].record.trial_id) == (Update, "t-1")
    assert at_once == [None]
    assert [type(one).__name__ for one in then] == [
        *("VolumeOutcome", "TrialOutcome", "Update"),
    ]
    assert [one.trial_id for one in then[1:]] == ["t-1", "t-2"]
    assert then[0].outcome_index == written[-1].record.outcome_index + 1
