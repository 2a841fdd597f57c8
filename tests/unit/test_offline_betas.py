"""Offline betas are of the trials that causal ones are of, at the end of a run too."""

import shutil

import numpy as np
import pytest

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.recording import open_recording
from tests.participants import tiny_participant
from training.data.bids_splits import without_beta
from training.data.offline import offline_betas
from training.features import trial_betas

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)


def first_run(folder):
    name = open_recording(folder).runs[0].run_id
    return open_recording(folder, [name])


@pytest.mark.parametrize("before_end_s", [0.5, 1.0, 8.5])
def test_an_event_near_the_end_of_its_run_has_no_beta_and_spoils_none(
    tmp_path, before_end_s
):
    clean = offline_betas(first_run(tiny_participant()), ESTIMATOR)
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    run = first_run(folder).runs[0]
    file = next(folder.rglob(f"{run.run_id}_events.tsv"))
    head, *lines = file.read_text().splitlines()
    cells = dict(zip(head.split("\t"), lines[-1].split("\t"), strict=True))
    end_s = run.volume_count * run.tr_s
    cells |= {"onset": f"{end_s - before_end_s:.3f}", "trial_id": "late"}
    file.write_text("\n".join([head, *lines, "\t".join(cells.values())]) + "\n")
    recording = first_run(folder)

    found = offline_betas(recording, ESTIMATOR)

    causal = trial_betas(recording, ESTIMATOR)
    assert found.events == causal.events == clean.events
    # It explains some signal at the end, as another event.
    spread, wanted = (np.abs(one.betas).max() for one in (found, clean))
    assert spread < 1.1 * wanted
    placed = [(0, event) for event in found.events]
    assert without_beta(recording.runs, placed) == (
        "trials left out: 1 too near to an end of their run for a beta"
    )


def test_a_recording_that_ends_before_every_trial_does_is_refused():
    recording = first_run(tiny_participant())

    with pytest.raises(RecordingError) as error:
        offline_betas(recording, BetaEstimator(decision_delay_s=3600.0))

    assert str(error.value) == (
        f"{tiny_participant()}: expected trials that begin in their run and 3600 s "
        "before it ends, found none"
    )
