"""An export has what relates clocks, and what says how a run was done."""

import csv
import json

import h5py
import numpy as np
import pytest

from bci_bridge.exports.export import export
from bci_bridge.messages import Event, Shown, Volume
from bci_bridge.outcomes import Outcome
from bci_bridge.places import OUTCOMES
from bci_bridge.recording_reader import read_recording
from tests.integration.tiny import SHAPE
from tests.recorded import Rig, noise

FUNC = "sub-unknown/func/sub-unknown_task-unknown_run-1"
STIMULUS = {"clock_offset_ns": -5_000, "clock_uncertainty_ns": 40}
SCANNER = {"clock_offset_ns": 7_000, "clock_uncertainty_ns": 60}


@pytest.fixture
def recording(tmp_path):
    """A rehearsal of two volumes, of which one came after it had been given up."""
    with Rig(tmp_path / "log") as rig:
        rig.start(is_rehearsal=True, slice_times_us=(0, 750_000))
        event = Event(trial_id="t-1", onset_s=0.25, duration_s=0.5, **STIMULUS)
        rig.say(event)
        rig.say(Shown(what="cat.png", shown_ns=78, display_frame=1234, **STIMULUS))
        rig.say(Shown(what="fixation", shown_ns=99))
        acquired(rig, 0, SCANNER)
        rig.given_up(1)
        acquired(rig, 1, SCANNER)
        acquired(rig, 2, {})
        rig.end(4)
    return tmp_path / "log"


def acquired(rig, index, clock):
    rig.now += 1_000_000_000
    record = Volume(
        volume_index=index, acquired_ns=rig.now + 7_000 - 10_000_000, dtype="i2",
        shape=SHAPE, **clock,
    )  # fmt: skip
    rig.say(record, noise(index).tobytes())


def exported(recording, kind):
    out = recording.with_name(kind)
    export(recording, out, kind, version="1")
    return out


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def configuration_of(recording):
    records = [one.envelope.record for one in read_recording(recording / OUTCOMES)]
    (found,) = {one.configuration_sha256 for one in records if isinstance(one, Outcome)}
    return found


@pytest.mark.parametrize(
    ("kind", "file"), [("nifti", "run-1.json"), ("bids", f"{FUNC}_bold.json")]
)
def test_a_sidecar_says_how_the_run_was_done(recording, kind, file):
    said = json.loads((exported(recording, kind) / file).read_text("utf-8"))

    assert said["IsRehearsal"] is True
    assert said["SliceTiming"] == [0.0, 0.75]
    assert said["ConfigurationSHA256"] == [configuration_of(recording)]
    assert len(configuration_of(recording)) == 64


def test_slices_of_which_nobody_knows_are_left_out(tmp_path):
    with Rig(tmp_path / "log") as rig:
        rig.start()
        acquired(rig, 0, {})
        rig.end(1)

    out = exported(tmp_path / "log", "nifti")

    said = json.loads((out / "run-1.json").read_text("utf-8"))
    assert "SliceTiming" not in said
    assert said["IsRehearsal"] is False


def test_the_tables_of_bids_relate_the_clocks(recording):
    out = exported(recording, "bids")
    events, shown, volumes = (
        rows_of(out / f"{FUNC}_{name}.tsv") for name in ("events", "shown", "volumes")
    )

    clock = ["clock_offset_ns", "clock_uncertainty_ns"]
    assert [list(one[0])[-3:] for one in (events, shown, volumes)] == [
        ["reported_shown_ns", *clock],
        ["display_frame", *clock],
        ["acquired_ns", *clock],
    ]
    assert [list(row.values())[-2:] for row in events] == [["-5000", "40"]]
    assert [list(row.values())[-3:] for row in shown] == [
        ["1234", "-5000", "40"], ["n/a"] * 3
    ]  # fmt: skip
    assert [row["input"] for row in volumes] == ["OK", "MISSING", "OK", "MISSING"]
    instants = [10_000_990_007_000 + second * 1_000_000_000 for second in range(3)]
    assert [list(row.values())[-3:] for row in volumes] == [
        [str(instants[0]), "7000", "60"],
        [str(instants[1]), "7000", "60"],
        [str(instants[2]), "n/a", "n/a"],
        ["n/a"] * 3,
    ]


def test_an_hdf5_file_has_them_as_well(recording):
    with h5py.File(exported(recording, "hdf5") / "recording.h5") as file:
        run = file["runs/run-1"]

        assert run.attrs["IsRehearsal"]
        assert run["SliceTiming"].dtype == np.float64
        assert run["SliceTiming"][()].tolist() == [0.0, 0.75]
        assert run["ConfigurationSHA256"].asstr()[()].tolist() == [
            configuration_of(recording)
        ]
        missing = run["shown/display_frame"].attrs["missing"]
        assert run["shown/display_frame"][()].tolist() == [1234, missing]
        assert run["events/clock_offset_ns"][()].tolist() == [-5000]
        assert run["volume_outcomes/clock_uncertainty_ns"][()].tolist()[:2] == [60, 60]
        assert run["volume_outcomes/acquired_ns"].attrs["units"] == "ns"
