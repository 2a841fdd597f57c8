from pathlib import Path

import msgspec
import nibabel
import numpy as np
import pytest

from runtime.errors import RecordingError, UsageError
from training.participant import generate_hybrid
from training.participant.hybrid import (
    hybrid_table,
    read_recording,
    residual_of_run,
)
from training.participant.measure import split_betas

# Reads recorded fMRI.
pytestmark = pytest.mark.slow

HAXBY = Path(__file__).parents[3] / "shared" / "data" / "haxby2001"


def test_a_residual_is_orthogonal_to_mean_line_and_categories():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 80)
    series = rng.standard_normal((80, 3)) + 5 * labels[:, None] + np.arange(80)[:, None]

    residual = residual_of_run(series, labels)

    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.arange(80) @ residual, 0, atol=1e-7)
    for label in range(4):
        np.testing.assert_allclose(residual[labels == label].sum(axis=0), 0, atol=1e-9)


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(RecordingError, match="expected a recording"):
        read_recording(tmp_path)


@pytest.fixture(scope="module")
def recording():
    if not HAXBY.is_dir():
        pytest.skip(f"no recording in {HAXBY}")
    return read_recording(HAXBY)


@pytest.fixture(scope="module")
def hybrid(recording, tmp_path_factory):
    out = tmp_path_factory.mktemp("hybrid") / "out"
    return generate_hybrid(out, recording, hybrid_table(), seed=2)


@pytest.mark.recording
def test_runs_keep_the_recording_outside_the_mask(recording, hybrid):
    joined = np.concatenate([run.volumes() for run in hybrid.runs], axis=3)

    np.testing.assert_array_equal(
        joined[~recording.mask], recording.volumes[~recording.mask]
    )
    assert nibabel.load(hybrid.runs[0].bold).header.get_zooms()[3] == 2.5


@pytest.mark.recording
def test_the_known_signal_is_found_in_the_volumes(hybrid):
    truth = hybrid.truth()
    train = split_betas(hybrid, "train")
    runs = hybrid.runs_of("train")
    true = truth["trial_amplitudes"][[e.trial_id for r in runs for e in r.events]]
    visual = true.std(axis=0) > 0

    x = true[:, visual] - true[:, visual].mean(axis=0)
    y = train.betas[:, visual] - train.betas[:, visual].mean(axis=0)
    slope = (x * y).sum() / (x**2).sum()

    assert 0.6 < slope < 1.4
    shuffled = np.random.default_rng(0).permutation(x)
    assert abs((shuffled * y).sum() / (x**2).sum()) < 0.15


@pytest.mark.recording
def test_a_design_that_does_not_fit_the_runs_is_refused(recording, tmp_path):
    table = msgspec.structs.replace(hybrid_table(), training_runs=4)

    with pytest.raises(UsageError, match="expected 12 runs of at most 121"):
        generate_hybrid(tmp_path / "out", recording, table, seed=2)
