"""A run with gaps: its log and its export calibrate alike, and play as it was."""

import shutil

import numpy as np
import pytest

from bci_bridge.exports.export import export
from bci_bridge.messages import Event, Missing, Volume
from bci_bridge.outcomes import VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recording_reader import read_recording
from runtime.bundle import open_bundle
from runtime.gallery import open_gallery
from runtime.live import open_decoder
from runtime.recording import RecordedEvent, open_recording, timeline
from tests import in_process
from tests.integration.served_model import write_recording
from tests.integration.tiny import SHAPE
from tests.linear_bundle import linear_session
from tests.recorded import Rig
from tests.unit.test_missing_volumes import say, sidecars
from training.participant import open_participant
from verbs.play import play_recording
from verbs.todays_trials import read_today

GAPS = (3, 40, 41, 42, 90)
LATE = (20, 61, 62)
"""Given up, and there before the next one."""


def logged(folder, run, kind):
    """Put a run with gaps through the linear bundle's decoder, as a server would."""
    session = linear_session()
    with (
        open_decoder(session / "bundle", session / "gallery", threads=1) as decoder,
        Rig(folder, decoder=decoder) as rig,
    ):
        rig.start(
            shape=run.shape, tr_s=run.tr_s, expected_volumes=run.volume_count,
            affine=tuple(run.affine.ravel().tolist()), subject="01", task="look",
        )  # fmt: skip
        volumes, late = run.volumes(), []
        for item in timeline(run):
            if isinstance(item, RecordedEvent):
                rig.say(
                    Event(
                        trial_id=item.trial_id, onset_s=item.onset_s,
                        duration_s=item.duration_s, stimulus_id=item.stimulus_id,
                    )
                )  # fmt: skip
            elif item in (*GAPS, run.volume_count - 1):
                rig.missing(item, "reconstruction failed")
            elif item in LATE:
                rig.given_up(item)
                late.append(item)
            else:
                for one in (*late, item):
                    rig.volume(one, volumes[one], kind)
                late.clear()
        rig.end(run.volume_count)


@pytest.fixture(scope="module")
def first():
    """The first run of calibration: its pictures are not in the gallery."""
    participant = linear_session() / "participant"
    (one, *_) = open_participant(participant).runs_of("calibration")
    name = one.bold.name.removesuffix("_bold.nii.gz")
    return open_recording(participant, [name]).runs[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_a_log_with_gaps_and_its_export_give_the_same_betas(
    first, tmp_path, kind, capfd
):
    session = linear_session()
    participant = session / "participant"
    log, out, masks = tmp_path / "log", tmp_path / "out", "derivatives/masks"
    logged(log, first, kind)
    export(log, out, "bids", version="0")
    (mask,) = (participant / masks).rglob("mask.nii.gz")
    shutil.copytree(mask.parent, out / masks)
    capfd.readouterr()

    with open_bundle(session / "bundle") as bundle:
        gallery = open_gallery(session / "gallery")
        of_log, of_export = (
            read_today(one, bundle, gallery, (), pictures=participant)
            for one in (log, out)
        )

    assert len(of_log.trials.betas) > 20
    np.testing.assert_array_equal(of_log.trials.betas, of_export.trials.betas)
    assert of_log.trials.names == of_export.trials.names
    assert capfd.readouterr().err == (
        f"{out}: 6 of {first.volume_count} volumes missing, as MissingVolumes says; "
        f"3 of {first.volume_count} volumes passed over, as UnusedVolumes says\n"
    )


@pytest.mark.slow
def test_a_log_of_other_pictures_than_the_gallerys_is_told_where_they_are(
    first, tmp_path
):
    session, log = linear_session(), tmp_path / "log"
    logged(log, first, "i2")
    line = (
        "calibrate", "--bundle", session / "bundle", "--gallery", session / "gallery",
        "--recording", log, "--out", tmp_path / "overlay", "--threads", "1",
    )  # fmt: skip

    without = in_process.said(*line)
    told = in_process.said(*line, "--pictures", session / "participant")
    wrong = in_process.said(*line, "--pictures", tmp_path)

    assert without[0] == 1
    assert without[2].splitlines()[-1] == (
        f"neuroflow: {log}: expected trials of images that the gallery or a folder's "
        f"stimuli hold, found none among {len(first.events)} trials. Name the folder "
        "of the pictures that were shown (with stimuli/gallery.tsv) by --pictures"
    )
    # The day is like the bundle's: its trials are read, and nothing gains.
    assert told[0] == 1
    assert "expected a gain on held-out trials" in told[2].splitlines()[-1]
    assert wrong[0] == 2
    assert wrong[2].splitlines()[-1] == (
        f"neuroflow: --pictures: expected a folder with stimuli/gallery.tsv, found "
        f"none in {tmp_path}"
    )


def test_a_played_recording_says_missing_for_what_it_lacks(running, tmp_path, capsys):
    recording, log = tmp_path / "recording", tmp_path / "log"
    write_recording(recording, SHAPE, volumes=6, runs=("01",))
    say(
        sidecars(recording)[0],
        MissingVolumes=[{"Index": 5, "Reason": "LOST"}],
        UnusedVolumes=[2],
    )
    server = running(recording=str(log))

    play_recording(recording, server.address, runs=(), speed=None)

    server.stop()
    said = [one.envelope.record for one in read_recording(log / INPUTS)]
    assert [
        (type(one), one.volume_index)
        for one in said
        if isinstance(one, Volume | Missing)
    ] == [(Missing if i in (2, 5) else Volume, i) for i in range(6)]
    answers = [one.envelope.record for one in read_recording(log / OUTCOMES)]
    assert [one.input for one in answers if isinstance(one, VolumeOutcome)] == [
        "MISSING" if i in (2, 5) else "OK" for i in range(6)
    ]
    assert capsys.readouterr().err == (
        f"{recording}: 1 of 6 volumes missing, as MissingVolumes says; "
        "1 of 6 volumes passed over, as UnusedVolumes says\n"
        "sub-01_task-look_run-01: 4 volumes sent\n"
    )
