"""Ours beside ridge on a run of the recorded participant, after a short training.

What all twelve runs and whole trainings give stands in docs/recorded.md.
"""

from pathlib import Path

import msgspec
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
def test_a_left_out_run_is_decoded_about_as_well_as_by_ridge():
    torch.set_num_threads(1)
    data = read_labelled(open_recording(RECORDING))
    whole = config_from_preset("haxby", voxels=data.recording.mask.voxels)
    config = msgspec.structs.replace(
        whole,
        vae_training=msgspec.structs.replace(whole.vae_training, epochs=8),
        flow_training=msgspec.structs.replace(whole.flow_training, steps=200),
    )

    answers = answer_left_out_runs(
        data, config, VolumeEstimator(), seeds=1, held_runs=[1]
    )

    found = compare(answers, data.labels, data.runs, np.random.default_rng(0))
    accuracy = {method.method: method.accuracy.mean for method in found.methods}
    # 8 blocks: the standard deviation of an accuracy is about 10 points, of a
    # difference about 7.
    assert found.labelled_volumes == 72
    assert accuracy["ours causal"] > 0.4
    assert found.pairs[0].difference.mean > -0.2
    assert accuracy["ours shuffled"] < 0.4
