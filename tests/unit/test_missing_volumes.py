"""Volumes that a recording's sidecar names as missing are missing for its readers."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.preprocess import CausalNormaliser
from runtime.preprocess.motion_settings import Motion
from runtime.recording import RecordedRun, Recording, open_recording
from tests.participants import tiny_participant
from tests.unit.test_recording import AFFINE, bids, write_image  # noqa: F401  # a fixture
from tests.unit.test_response_choice import ESTIMATOR, MASK, recorded
from training import features
from training.data.bids_splits import without_beta
from training.data.offline import offline_betas
from training.features import (
    masked_volumes,
    reference_of,
    trial_betas,
    volume_features,
    volume_statistics,
)
from training.responses import choose_responses
from training.shown import shown_pictures

BETAS = BetaEstimator(decision_delay_s=9.0)
GAPS = frozenset({4, 30, 31})


def sidecars(folder):
    return sorted(folder.glob("sub-*/func/*_bold.json"))


def say(sidecar, **said):
    known = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(known | said))


def say_missing(sidecar, said):
    say(sidecar, MissingVolumes=said)


@pytest.fixture
def spoil(monkeypatch):
    """Let missing volumes hold what nobody may take for a measurement."""
    volumes = RecordedRun.volumes

    def spoilt(run):
        read = volumes(run)
        read[sorted(run.missing)] = 30_000
        return read

    return lambda: monkeypatch.setattr(RecordedRun, "volumes", spoilt)


@pytest.mark.parametrize(
    "said", [[2, 5], [{"Index": 5, "Reason": "LOST"}, {"Index": 2, "Reason": "x"}]]
)
def test_a_run_has_the_missing_volumes_of_its_sidecar(bids, said):  # noqa: F811
    first, _ = sidecars(bids)
    say_missing(first, said)

    recording = open_recording(bids)

    gappy, whole = recording.runs
    assert gappy.missing == {2, 5}
    assert gappy.measured.tolist() == [0, 1, 3, 4]
    assert gappy.volume_count == 6
    assert not gappy.volumes()[[2, 5]].any()
    assert (whole.missing, whole.measured.tolist()) == (frozenset(), list(range(6)))
    assert recording.left_out == "2 of 12 volumes missing, as MissingVolumes says"


def test_nothing_is_said_of_a_recording_that_misses_none(bids):  # noqa: F811
    say_missing(sidecars(bids)[0], [])

    assert open_recording(bids).left_out == ""


def test_a_sidecar_further_up_says_it_of_all_runs_and_the_nearest_prevails(bids):  # noqa: F811
    (bids / "task-look_bold.json").write_text('{"MissingVolumes": [1]}')
    say_missing(sidecars(bids)[1], [0, 3])

    assert [run.missing for run in open_recording(bids).runs] == [{1}, {0, 3}]


def test_what_is_missing_need_not_be_finite(bids):  # noqa: F811
    first, _ = sidecars(bids)
    file = first.with_name(first.name.replace(".json", ".nii.gz"))
    data = nib.load(file).get_fdata().astype(np.float32)
    data[..., 3] = np.nan
    write_image(file, data)
    say_missing(first, [3])

    volumes = open_recording(bids).runs[0].volumes()

    assert not volumes[3].any()
    np.testing.assert_array_equal(volumes[2], data[..., 2])


def test_a_missing_volume_needs_no_confound(bids):  # noqa: F811
    first, _ = sidecars(bids)
    say_missing(first, [1])
    table = first.name.replace("_bold.json", "_desc-confounds_timeseries.tsv")
    first.with_name(table).write_text("resp\n0.5\nn/a\n" + "1.5\n" * 4)

    told = open_recording(bids).runs[0].confounds(["resp"])

    assert [line["resp"] for line in told] == [0.5, 0.0, 1.5, 1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([6], "indices from 0 to 5 as the run has, found 6"),
        ([{"Index": -1}], "indices from 0 to 5 as the run has, found -1"),
        (
            3,
            "a list of indices, or of objects with Index, found: Expected `array`, "
            "got `int`",
        ),
        (
            [{"Reason": "LOST"}],
            "a list of indices, or of objects with Index, found: Object missing "
            "required field `Index` - at `$[0]`",
        ),
    ],
)
def test_what_names_no_volumes_of_the_run_is_refused_in_one_line(bids, said, found):  # noqa: F811
    first, _ = sidecars(bids)
    say_missing(first, said)

    with pytest.raises(RecordingError) as error:
        open_recording(bids)

    assert str(error.value) == f"{first}: MissingVolumes: expected {found}"


def test_volumes_that_no_server_used_are_passed_over_and_counted(bids):  # noqa: F811
    first, _ = sidecars(bids)
    say(first, MissingVolumes=[{"Index": 2, "Reason": "LOST"}], UnusedVolumes=[2, 4])

    recording = open_recording(bids)

    gappy, whole = recording.runs
    assert (gappy.missing, gappy.unused) == ({2, 4}, {4})
    assert gappy.measured.tolist() == [0, 1, 3, 5]
    assert not gappy.volumes()[[2, 4]].any()
    assert whole.missing == whole.unused == frozenset()
    assert recording.left_out == (
        "1 of 12 volumes missing, as MissingVolumes says; "
        "1 of 12 volumes passed over, as UnusedVolumes says"
    )


def test_an_unused_volume_that_the_run_does_not_have_is_refused(bids):  # noqa: F811
    first, _ = sidecars(bids)
    say(first, UnusedVolumes=[6])

    with pytest.raises(RecordingError) as error:
        open_recording(bids)

    assert str(error.value) == (
        f"{first}: UnusedVolumes: expected indices from 0 to 5 as the run has, found 6"
    )


@pytest.mark.parametrize("unused", [[], [4, 5], [0, 1, 2, 3, 4, 5]])
def test_a_run_without_a_volume_to_read_is_refused(bids, unused):  # noqa: F811
    first, _ = sidecars(bids)
    missing = [index for index in range(6) if index not in unused]
    say(first, MissingVolumes=missing, UnusedVolumes=unused)

    with pytest.raises(RecordingError) as error:
        open_recording(bids)

    assert str(error.value) == (
        f"{first}: expected at least one volume in neither MissingVolumes nor "
        "UnusedVolumes, found all 6 there. Take out those to read as measured"
    )


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """The first run of the tiny participant, and itself with gaps."""
    folder = shutil.copytree(tiny_participant(), tmp_path_factory.mktemp("m") / "bids")
    name = open_recording(folder).runs[0].run_id
    sidecar = next(folder.rglob(f"{name}_bold.json"))
    say_missing(sidecar, sorted(GAPS))
    return open_recording(folder, [name])


def with_(recording, run):
    return Recording(recording.folder, (run,), recording.mask)


def test_no_beta_depends_on_what_stands_for_a_missing_volume(gappy, spoil):
    (run,) = gappy.runs
    whole = trial_betas(with_(gappy, replace(run, missing=frozenset())), BETAS)

    found = trial_betas(gappy, BETAS)

    spoil()
    np.testing.assert_array_equal(found.betas, trial_betas(gappy, BETAS).betas)
    assert len(found) == len(whole)
    assert not np.array_equal(found.betas, whole.betas)


def test_offline_betas_have_no_row_of_a_missing_volume(gappy, spoil):
    pytest.importorskip("nilearn")

    found = offline_betas(gappy, BETAS)

    spoil()
    np.testing.assert_array_equal(found.betas, offline_betas(gappy, BETAS).betas)


def test_volumes_that_are_missing_have_no_features_and_move_no_statistics(gappy, spoil):
    (run,) = gappy.runs
    estimator, mask = VolumeEstimator(), gappy.mask
    masked = masked_volumes(run, run.volumes()[run.measured], mask, estimator)
    spoil()

    statistics = volume_statistics([run], mask, estimator)
    rows = volume_features(run, mask, estimator, statistics)

    assert len(rows) == run.volume_count - len(GAPS)
    np.testing.assert_allclose(statistics.prior, masked.mean(axis=0), rtol=1e-5)
    wanted = CausalNormaliser(statistics, run.volume_count)
    for index, row, voxels in zip(run.measured.tolist(), rows, masked, strict=True):
        np.testing.assert_array_equal(row, wanted.update(voxels, index))


def test_motion_is_told_against_volumes_that_were_measured(gappy, monkeypatch):
    run, taken = replace(gappy.runs[0], missing=frozenset({0, 2})), []
    monkeypatch.setattr(
        features, "reference_from_volumes", lambda volumes, *_: taken.append(volumes)
    )

    reference_of(run, BetaEstimator(decision_delay_s=9.0, motion=Motion()))

    wanted = run.volumes()[[1, *range(3, 12)]]
    np.testing.assert_array_equal(taken[0], wanted)


def test_each_voxels_response_is_chosen_without_the_missing_volumes(tmp_path, spoil):
    run, kinds, _ = recorded(tmp_path)
    spoil()

    found = choose_responses(
        [replace(run, missing=frozenset({20, 21, 60, 61, 62}))], MASK, ESTIMATOR
    )

    np.testing.assert_array_equal(found, kinds)


def with_gap_at(recording, trial, first_s, width_s):
    """Let volumes be missing from some seconds after a trial's onset on."""
    (run,) = recording.runs
    begin = int((run.events[trial].onset_s + first_s) / run.tr_s)
    gap = frozenset(range(begin, begin + round(width_s / run.tr_s)))
    return with_(recording, replace(run, missing=gap))


@pytest.mark.parametrize(
    ("first_s", "width_s"),
    [(0, 10), (0, 12), (0, 26), (0, 34), (1, 8), (1, 24), (2, 10), (3, 16), (4, 24)],
)
def test_a_trial_whose_response_lies_in_a_gap_has_no_offline_beta(
    gappy, first_s, width_s
):
    pytest.importorskip("nilearn")
    recording = with_gap_at(gappy, 8, first_s, width_s)
    (run,) = recording.runs

    found = offline_betas(recording, BETAS)

    assert run.events[8] not in found.events
    # No beta that is left has the size that a few grains of a response make.
    whole = offline_betas(with_(gappy, replace(run, missing=frozenset())), BETAS)
    sizes, usual = (np.linalg.norm(one.betas, axis=1) for one in (found, whole))
    assert sizes.max() < 2 * usual.max()
    count = len(whole) - len(found)
    assert without_beta(recording.runs, [(0, event) for event in found.events]) == (
        f"trials left out: {count} too near to an end of their run or to missing "
        "volumes for a beta"
    )


@pytest.mark.parametrize(("first_s", "width_s"), [(0, 6), (1, 4), (3, 4), (12, 20)])
def test_a_trial_of_whose_response_enough_was_measured_has_an_offline_beta(
    gappy, first_s, width_s
):
    pytest.importorskip("nilearn")
    recording = with_gap_at(gappy, 8, first_s, width_s)

    assert recording.runs[0].events[8] in offline_betas(recording, BETAS).events


def test_a_run_whose_trials_all_lie_in_a_gap_is_refused(gappy):
    pytest.importorskip("nilearn")
    (run,) = gappy.runs
    first = run.events[0]
    recording = with_gap_at(gappy, 0, 0, run.volume_count * run.tr_s - first.onset_s)

    with pytest.raises(RecordingError) as error:
        offline_betas(recording, BETAS)

    assert str(error.value) == (
        f"{gappy.folder}: expected trials that begin in their run and 9 s before it "
        "ends, and not in a gap, found none"
    )


def test_what_is_missing_is_said_of_the_pictures_that_were_shown(gappy):
    # What prepare-bids, train and evaluate print.
    assert shown_pictures(gappy).left_out() == (
        "3 of 124 volumes missing, as MissingVolumes says"
    )
