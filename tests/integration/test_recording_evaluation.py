"""Ours beside ridge on two runs of the recorded participant."""

from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.estimator import VolumeEstimator
from runtime.recording import open_recording
from training.comparison import compare
from training.config import config_from_preset
from training.evaluate import answer_left_out_runs
from training.haxby import read_labelled

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "haxby2001"


@pytest.mark.slow
@pytest.mark.recording
@pytest.mark.skipif(not RECORDING.is_dir(), reason=f"no recording at {RECORDING.name}")
def test_two_left_out_runs_are_decoded_about_as_well_as_by_ridge():
    torch.set_num_threads(1)
    data = read_labelled(open_recording(RECORDING))
    config = config_from_preset("haxby", voxels=data.recording.mask.voxels)

    answers = answer_left_out_runs(
        data, config, VolumeEstimator(), seeds=1, held_runs=[1, 7]
    )

    found = compare(answers, data.labels, data.runs, np.random.default_rng(0))
    accuracy = {method.method: method.accuracy.mean for method in found.methods}
    # 16 blocks: the standard deviation of an accuracy is about 7 points, of a
    # difference about 5.
    assert found.labelled_volumes == 144
    assert accuracy["ours causal"] > 0.4
    assert found.pairs[0].difference.mean > -0.15
    assert accuracy["ours shuffled"] < 0.125 + 3 * 0.083
    assert found.rest.confidence_rest.mean < found.rest.confidence_labelled.mean
