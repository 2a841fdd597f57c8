from dataclasses import replace

import msgspec
import numpy as np
import pytest
from msgspec import UNSET

from bci_bridge.actions import AddTrial, AddVolume, EndRun, SkipVolume
from bci_bridge.answering import sealed
from bci_bridge.messages import Event, RunEnd, RunStart, Volume, slice_times_us
from bci_bridge.outcomes import RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.record import Record
from bci_bridge.wire import encode
from bci_bridge.worker import Worker
from runtime.errors import UsageError
from tests.integration.tiny import SHAPE, MeanDecoder

DEADLINE_NS = 100


class Rig:
    """A worker whose clock shows what it is told."""

    def __init__(self, late="flag", pace="live", decoder=None):
        self.now_ns = 0
        self.worker = Worker(decoder or MeanDecoder(), lambda: self.now_ns)
        start = RunStart(
            run="run-1",
            shape=SHAPE,
            tr_s=1.0,
            expected_volumes=5,
            budget_s=1.0,
            late=late,
            pace=pace,
        )
        self.record = Record()
        self.worker.start(start, self.record)

    def kept(self, outgoing):
        return [sealed(*one, self.record, 0).record for one in outgoing]

    def trial(self, trial_id, onset_s=0.0):
        event = Event(trial_id=trial_id, onset_s=onset_s, duration_s=1.0)
        return self.kept(self.worker.add_trial(AddTrial(event)))

    def volume(self, index, decided_ns=0):
        self.now_ns = decided_ns
        record = Volume(
            run="run-1", volume_index=index, acquired_ns=0, dtype="i2", shape=SHAPE
        )
        envelope = encode(record, np.full(SHAPE, index, "<i2").tobytes())
        action = AddVolume(record, envelope, 0, DEADLINE_NS, ())
        return self.kept(self.worker.add_volume(action))

    def end(self, count=1):
        outgoing = self.worker.end(EndRun(RunEnd(run="run-1", count=count)))
        return self.kept(outgoing)


@pytest.mark.parametrize(
    ("policy", "label", "degraded"),
    [
        ("flag", "1", ()),
        ("hold-last", "0", ("LATE_HELD_LAST",)),
        ("drop", None, ("LATE_DROPPED",)),
    ],
)
def test_a_late_answer_is_treated_as_the_run_asked(policy, label, degraded):
    rig = Rig(late=policy)
    rig.volume(0, decided_ns=DEADLINE_NS)

    (late,) = rig.volume(1, decided_ns=DEADLINE_NS + 1)

    assert (late.timing, late.label, late.degraded) == ("LATE", label, degraded)


class Imaginative(MeanDecoder):
    """Also says what a trial looks like, and what was measured of it."""

    def _told(self, trial, answer, last):
        told = super()._told(trial, answer, last)
        image, beta = np.zeros((1, 1, 3), np.uint8), np.ones(4, np.float32)
        return replace(told, image=image, beta=beta, standard_error=beta)


@pytest.mark.parametrize(
    ("policy", "decision", "abstention", "degraded", "arrays"),
    [
        ("flag", "ANSWER", None, (), ("z_v", "image", "beta", "standard_error")),
        ("hold-last", "ABSTAIN", "too late", ("LATE_DROPPED",),
         ("beta", "standard_error")),
        ("drop", "ABSTAIN", "too late", ("LATE_DROPPED",), ("beta", "standard_error")),
    ],
)  # fmt: skip
def test_a_late_trial_is_flagged_or_what_was_decoded_of_it_is_withheld(
    policy, decision, abstention, degraded, arrays
):
    rig = Rig(late=policy, decoder=Imaginative())
    rig.trial("t-1")
    rig.trial("t-2", onset_s=1.0)
    rig.volume(0)

    _, punctual = rig.volume(1, decided_ns=DEADLINE_NS)
    _, late = rig.volume(2, decided_ns=DEADLINE_NS + 1)

    assert (punctual.decision, punctual.label, punctual.degraded) == ("ANSWER", "1", ())
    assert punctual.arrays == ("z_v", "image", "beta", "standard_error")
    assert (late.timing, late.decision, late.abstention) == (
        "LATE", decision, abstention
    )  # fmt: skip
    assert (late.degraded, late.arrays) == (degraded, arrays)
    is_told = policy == "flag"
    assert (late.label, late.confidence) == (("2", 0.75) if is_told else (None, None))


def test_a_successor_withholds_a_trial_of_a_volume_that_was_answered_too_late():
    first = Rig(late="drop")
    first.volume(0)
    first.trial("t-1")
    late, _ = first.volume(1, decided_ns=DEADLINE_NS + 1)
    second = Rig(late="drop")
    second.volume(0)
    second.trial("t-1")
    second.record.add(late)  # and the trial's was never written

    (trial,) = second.volume(1, decided_ns=0)

    assert (trial.timing, trial.abstention) == ("LATE", "too late")
    assert trial.degraded == ("LATE_DROPPED",)


def test_an_answer_at_the_deadline_is_live():
    (outcome,) = Rig().volume(0, decided_ns=DEADLINE_NS)

    assert outcome.timing == "LIVE"


def test_what_failed_in_the_decoder_is_in_every_answer_that_it_touched():
    class OnStandby(MeanDecoder):
        def add_volume(self, volume_index, volume, *, is_wanted=True):
            report, trials = super().add_volume(
                volume_index, volume, is_wanted=is_wanted
            )
            return replace(report, degraded=("ENGINE_FAILED",)), tuple(
                replace(trial, degraded=("ENGINE_FAILED",)) for trial in trials
            )

    rig = Rig(late="hold-last", decoder=OnStandby())
    rig.trial("t-1")
    on_time = rig.volume(0)
    late = rig.volume(1, decided_ns=DEADLINE_NS + 1)

    said = [one.degraded for one in (*on_time, *late)]
    assert ("ENGINE_FAILED",) in said
    assert ("ENGINE_FAILED", "LATE_HELD_LAST") in said
    assert ("ENGINE_FAILED", "LATE_DROPPED") in said
    assert all(one[0] == "ENGINE_FAILED" for one in said)
    assert any(type(one).__name__ == "TrialOutcome" for one in (*on_time, *late))


def test_catching_up_is_never_late():
    (outcome,) = Rig(pace="catchup").volume(0, decided_ns=10**15)

    assert outcome.timing == "CATCHUP"


def test_an_outcome_cites_model_gallery_preprocessing_and_input():
    (outcome,) = Rig().volume(0)

    assert outcome.bundle_sha256 == "b" * 64
    assert outcome.gallery_sha256 == "a" * 64
    assert outcome.preprocessing_sha256 == "c" * 64
    assert outcome.input_crc32 is not None


def test_an_outcome_cites_the_overlay_and_so_does_what_the_run_is_done_with():
    decoder = MeanDecoder()
    decoder.overlay_sha256 = "d" * 64

    (plain,), (calibrated,) = Rig().volume(0), Rig(decoder=decoder).volume(0)

    assert plain.overlay_sha256 is None
    assert calibrated.overlay_sha256 == "d" * 64
    assert plain.configuration_sha256 != calibrated.configuration_sha256


def test_a_run_without_an_overlay_is_named_as_before_there_were_overlays():
    rig = Rig()
    rig.volume(0)

    # Recordings hold this hash, and a replay makes it again.
    assert b"overlay" not in msgspec.json.encode(rig.worker.configuration)


def test_a_trial_that_the_decoder_forgets_is_still_answered():
    class Forgetful(MeanDecoder):
        def end_run(self):
            return ()

    rig = Rig(decoder=Forgetful())
    rig.trial("t-1", onset_s=3.0)

    forgotten, ended = rig.end()

    assert (forgotten.trial_id, forgotten.decision) == ("t-1", "ABSTAIN")
    assert ended.decisions == {"ABSTAIN": 1}


def test_a_trial_that_the_decoder_answers_twice_is_answered_once():
    class Talkative(MeanDecoder):
        def _due(self, index):
            return super()._due(index) * 2

    rig = Rig(decoder=Talkative())
    rig.trial("t-1")

    outcomes = [*rig.volume(0), *rig.volume(1), *rig.end(2)]

    assert [type(one).__name__ for one in outcomes] == [
        "VolumeOutcome",
        "VolumeOutcome",
        "TrialOutcome",
        "RunEnded",
    ]


def test_a_decoder_that_refuses_everything_still_leaves_one_outcome_each():
    class Unwilling(MeanDecoder):
        def refuse(self, *_, **__):
            raise UsageError("expected nothing")

        add_trial = add_volume = skip_volume = end_run = refuse

    rig = Rig(decoder=Unwilling())

    (trial,), (volume,), (ended,) = rig.trial("t-1"), rig.volume(0), rig.end()

    assert (trial.decision, trial.abstention) == ("ABSTAIN", "expected nothing")
    assert (volume.input, volume.reason) == ("INVALID", "DECODER_FAILED")
    assert volume.degraded == ("expected nothing", "expected nothing")
    assert ended.degraded == ("expected nothing",)


class Defective(MeanDecoder):
    """Fails at one of its calls by what no decoder means to raise, and counts calls."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error, self.calls = at, error, []

    def start_run(self, run):
        self._fail("start_run")
        super().start_run(run)

    def add_trial(self, trial):
        self._fail("add_trial")
        super().add_trial(trial)

    def add_volume(self, *args, **kwargs):
        self._fail("add_volume")
        return super().add_volume(*args, **kwargs)

    def skip_volume(self, *args, **kwargs):
        self._fail("skip_volume")
        return super().skip_volume(*args, **kwargs)

    def end_run(self):
        self._fail("end_run")
        return super().end_run()

    def _fail(self, name):
        self.calls.append(name)
        if name == self.at:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("69.8 GiB"),
        np.linalg.LinAlgError("Singular\nmatrix"),
        ValueError("operands"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "at", ["start_run", "add_trial", "add_volume", "skip_volume", "end_run"]
)
def test_a_defect_of_a_decoder_ends_its_run_and_nothing_else(at, error):
    why = " ".join(f"DECODER_ENDED: {type(error).__name__}: {error}".split())
    decoder = Defective(at, error)
    rig = Rig(decoder=decoder)
    outcomes = [*rig.trial("t-1", onset_s=3.0), *rig.volume(0)]
    skip = SkipVolume(1, "MISSING", "SKIPPED", None)
    outcomes += rig.kept(rig.worker.skip_volume(skip))
    outcomes += [*rig.volume(2), *rig.end(3)]

    volumes = [one for one in outcomes if isinstance(one, VolumeOutcome)]
    trials = [one for one in outcomes if isinstance(one, TrialOutcome)]
    assert [one.volume_index for one in volumes] == [0, 1, 2]
    assert [one.trial_id for one in trials] == ["t-1"]
    assert [type(one) for one in outcomes][-1] is RunEnded
    # It may have been left half-way, and is not asked again in that run.
    assert decoder.calls[-1] == at
    assert decoder.calls.count(at) == 1
    said = [*outcomes[-1].degraded, trials[0].abstention]
    said += [text for one in volumes for text in one.degraded]
    assert why in said
    if at != "end_run":
        assert (volumes[2].input, volumes[2].reason) == ("INVALID", "DECODER_FAILED")

    decoder.at = ""
    (volume,) = Rig(decoder=decoder).volume(0)
    assert volume.input == "OK"


def test_a_defect_in_an_earlier_estimate_costs_that_estimate_alone():
    class Hasty(MeanDecoder):
        def early(self, trial_id):
            raise ZeroDivisionError("early")

    rig = Rig(decoder=Hasty())
    rig.trial("t-1", onset_s=3.0)

    assert rig.worker.update("t-1", 0) is None
    (volume,) = rig.volume(0)
    assert (volume.input, volume.degraded) == ("OK", ())


def test_an_acquisition_beyond_the_announced_length_is_kept_from_the_decoder():
    decoder = MeanDecoder()
    rig = Rig(decoder=decoder)

    ((outcome, _),) = rig.worker.skip_volume(SkipVolume(5, "MISSING", "SKIPPED", None))

    assert outcome.volume_index == 5
    assert decoder.used == []


class Unable(MeanDecoder):
    def add_volume(self, *_, **__):
        raise UsageError("expected nothing")


@pytest.mark.parametrize("reason", ["SHAPE_MISMATCH", "NOT_FINITE", "DECODER_FAILED"])
def test_an_unusable_volume_still_says_by_which_clock_it_was_acquired(reason):
    worker = Rig(decoder=Unable()).worker
    record = Volume(
        run="run-1", volume_index=0, acquired_ns=7, dtype="f4", shape=SHAPE,
        clock_offset_ns=-3, clock_uncertainty_ns=2,
    )  # fmt: skip
    value = np.nan if reason == "NOT_FINITE" else 0
    envelope = encode(record, np.full(SHAPE, value, "<f4").tobytes())
    told = ("TIME_ANOMALY",)

    if reason == "SHAPE_MISMATCH":
        crc32 = envelope.crc32
        skip = SkipVolume(0, "INVALID", reason, 100, record, crc32, 50, told)
        ((outcome, _),) = worker.skip_volume(skip)
    else:
        add = AddVolume(record, envelope, 50, 100, told)
        ((outcome, _),) = worker.add_volume(add)

    assert (outcome.input, outcome.reason) == ("INVALID", reason)
    assert outcome.acquired_ns == 7
    assert (outcome.clock_offset_ns, outcome.clock_uncertainty_ns) == (-3, 2)
    assert outcome.degraded[0] == "TIME_ANOMALY"
    assert outcome.input_crc32 == envelope.crc32


def test_a_decoder_is_told_what_came_beside_the_voxels_and_the_slices_times():
    told = []

    class Curious(MeanDecoder):
        def add_volume(self, volume_index, volume, *, is_wanted=True, confounds=None):
            told.append(confounds)
            return super().add_volume(volume_index, volume, is_wanted=is_wanted)

    decoder = Curious()
    worker = Worker(decoder, lambda: 0)
    start = RunStart(
        run="run-1", shape=SHAPE, tr_s=1.0, expected_volumes=5, budget_s=1.0,
        slice_times_us=slice_times_us((0.0, 0.4125)),
    )  # fmt: skip
    worker.start(start, Record())
    for index, confounds in enumerate((UNSET, {"breath": 0.5})):
        record = Volume(
            run="run-1", volume_index=index, acquired_ns=0, dtype="i2", shape=SHAPE,
            confounds=confounds,
        )  # fmt: skip
        envelope = encode(record, np.zeros(SHAPE, "<i2").tobytes())
        worker.add_volume(AddVolume(record, envelope, 0, DEADLINE_NS, ()))

    assert told == [None, {"breath": 0.5}]
    assert decoder._run.slice_times_s == (0.0, 0.4125)
