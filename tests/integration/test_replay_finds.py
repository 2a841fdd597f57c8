"""What was changed in a recording is found by its replay, and named."""

import numpy as np
import pytest
from msgspec import structs

from bci_bridge.messages import Volume
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.player import play
from bci_bridge.recording_reader import scan_recording
from bci_bridge.replay import replay
from bci_bridge.spilt import spilt_of
from bci_bridge.survey import rig_differences, survey
from bci_bridge.wire import encode
from runtime.errors import RecordingError
from tests.integration.replaying import (
    EVENTS,
    RIG,
    entries_of,
    found_in,
    rewritten,
    scanned,
)
from tests.integration.tiny import MeanDecoder, PlayedRun
from verbs.replay import replayed

pytestmark = pytest.mark.slow


@pytest.fixture
def recorded(running, tmp_path):
    server = running()
    play(PlayedRun("run-1", 8, EVENTS[:2]), server.address, None)
    play(PlayedRun("run-2", 4), server.address, None)
    server.stop()
    return tmp_path


def test_a_changed_byte_of_a_volume_is_found_where_it_was_used(recorded):
    def flip(_, envelope):
        record = envelope.record
        if not (isinstance(record, Volume) and record.volume_index == 2):
            return envelope
        payload = bytes([envelope.payload[0] ^ 24, *envelope.payload[1:]])
        return encode(record, payload)

    found = found_in(rewritten(recorded, flip))

    at = next(
        entry.envelope.record.outcome_index
        for entry in entries_of(recorded)
        if isinstance(entry.envelope.record, VolumeOutcome)
        and entry.envelope.record.volume_index == 2
    )
    # A CRC of all bytes gives the volume away even where the decoder would not.
    assert (at, "input_crc32") in found
    assert (at, "label") in found or (at, "quality") in found


def test_a_decoder_that_answers_differently_is_found(recorded):
    class Other(MeanDecoder):
        def _report(self, trial, answer, last):
            report = super()._report(trial, answer, last)
            if trial.trial_id == "t-2":
                report.z_v[0, 0] = np.nextafter(report.z_v[0, 0], np.float32(9))
            return report

    assert [field for _, field in found_in(recorded, Other())] == ["z_v"]


@pytest.mark.parametrize("kind", [VolumeOutcome, TrialOutcome, RunEnded])
def test_a_removed_outcome_is_found(recorded, kind):
    entries = entries_of(recorded)
    gone = next(
        position
        for position, entry in enumerate(entries)
        if isinstance(entry.envelope.record, kind)
    )
    at = entries[gone].envelope.record.outcome_index

    found = found_in(rewritten(recorded, lambda n, one: None if n == gone else one))

    assert found == [(at, "kind")]


def test_a_removed_input_is_found_and_ends_the_comparison_of_its_run(recorded):
    entries = entries_of(recorded)
    gone = next(
        position
        for position, entry in enumerate(entries)
        if isinstance(entry.envelope.record, Volume)
    )

    out = rewritten(recorded, lambda n, one: None if n == gone else one)
    report = replayed(spilt_of(out), MeanDecoder())

    (jump,) = map(str, report.differences)
    assert jump == ("run-1: log: VOLUME of scanner: sequence: expected 3, found 4")
    assert report.runs["run-1"].left_out > 0
    assert report.runs["run-2"].compared == 5


def test_a_timing_that_contradicts_its_instants_is_found(recorded):
    def punctual(position, envelope):
        record = envelope.record
        is_last = record.run == "run-2" and getattr(record, "volume_index", 0) == 3
        if not (isinstance(record, VolumeOutcome) and is_last):
            return envelope
        return encode(structs.replace(record, timing="LIVE"), envelope.payload)

    assert [field for _, field in found_in(rewritten(recorded, punctual))] == ["timing"]


def test_outcomes_of_another_bundle_are_refused(recorded):
    other = MeanDecoder()
    other.gallery_sha256 = "f" * 64

    with pytest.raises(RecordingError) as caught:
        replayed(spilt_of(recorded), other)

    assert str(caught.value) == (
        f"run run-1: gallery: expected {'a' * 64} as recorded, found {'f' * 64}. "
        "Give the gallery that answered."
    )


def test_outcomes_with_another_overlay_or_without_one_are_refused(recorded):
    other = MeanDecoder()
    other.overlay_sha256 = "f" * 64

    def calibrated(position, envelope):
        record = envelope.record
        if not isinstance(record, Outcome):
            return envelope
        return encode(
            structs.replace(record, overlay_sha256="d" * 64), envelope.payload
        )

    with pytest.raises(RecordingError) as added:
        replayed(spilt_of(recorded), other)
    with_overlay = rewritten(recorded, calibrated)
    with pytest.raises(RecordingError) as missing:
        replayed(spilt_of(with_overlay), MeanDecoder())

    assert str(added.value) == (
        f"run run-1: overlay: expected none as recorded, found {'f' * 64}. "
        "Replay without one."
    )
    assert str(missing.value) == (
        f"run run-1: overlay: expected {'d' * 64} as recorded, found none. "
        "Give the overlay that answered."
    )


def _damage(folder, entry):
    """Flip one bit of a message, as a disk would."""
    wanted = entry.envelope.header + entry.envelope.payload
    segment = next(
        path for path in sorted(folder.glob("*/*.mcap")) if wanted in path.read_bytes()
    )
    data = bytearray(segment.read_bytes())
    at = data.index(wanted)
    data[at + 3] ^= 1
    segment.write_bytes(data)


def test_damage_to_an_outcome_is_named_and_costs_its_comparison_only(recorded):
    entries = entries_of(recorded)
    hit = next(e for e in entries if isinstance(e.envelope.record, TrialOutcome))
    _damage(recorded, hit)

    found = survey(scanned(recorded))
    report = replayed(spilt_of(recorded), MeanDecoder())

    (loss,) = found.losses
    assert loss.startswith(f"message {hit.order} (000000.mcap: byte ")
    assert report.differences == []
    first, second = report.runs["run-1"], report.runs["run-2"]
    assert first.compared + first.left_out == 8 + 2 + 1 - 1
    assert first.left_out == 0
    assert (second.compared, second.left_out) == (5, 0)


def test_damage_at_the_head_and_at_the_end_is_seen(recorded):
    entries = entries_of(recorded)
    _damage(recorded, entries[0])
    _damage(recorded, entries[-1])

    losses = survey(scanned(recorded)).losses

    assert losses[0].startswith("message")
    assert f"messages from {entries[-1].order} on" in losses[-1]
    assert replayed(spilt_of(recorded), MeanDecoder()).differences == []


def test_another_engine_processor_or_sharing_is_named():
    versions = {"onnxruntime": "1.25.0", "python": "3.12.0"}
    here = structs.replace(RIG, versions=versions, cpu=("x86_64", "avx2", "avx512f"))

    assert rig_differences(RIG, here) == [
        "onnxruntime: expected 1.24.0, found 1.25.0",
        "cpu: expected nothing, found avx512f instead",
    ]
    # Also where the engine's threads are told: numpy's are not.
    for rig in (RIG, structs.replace(RIG, threads=None)):
        assert rig_differences(rig, structs.replace(rig, processors=8)) == [
            "processors: expected 2, found 8"
        ]


def test_a_replay_answers_step_by_step(recorded):
    logs = [scan_recording(recorded / log) for log in (INPUTS, OUTCOMES)]
    steps = replay(*logs, MeanDecoder())

    first = next(step for step in steps if step.outcomes)

    assert first.run == "run-1"
    assert [o.record.outcome_index for o in first.outcomes] == [0]
