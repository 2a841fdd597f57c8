"""A preparation of a BIDS folder goes on after a picture that was damaged."""

import shutil

import numpy as np
import pytest
from PIL import Image

from runtime.errors import ArtifactError, NeuroFlowError
from runtime.estimator import BetaEstimator
from tests.participants import tiny_participant
from training.data.bids import open_bids, prepare_bids
from training.visual.backbone import PatchDctBackbone

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)


class StoppedError(Exception):
    pass


class Stops(PatchDctBackbone):
    """Computes one batch of pictures, and no second."""

    batches = 0

    def latents(self, pictures):
        self.batches += 1
        if self.batches > 1:
            raise StoppedError
        return super().latents(pictures)


def prepare(folder, out, backbone=None):
    trials = open_bids(folder)
    return prepare_bids(trials, out, backbone or PatchDctBackbone(), ESTIMATOR)


@pytest.fixture
def folder(tmp_path):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    # Pictures of several sizes come one by one.
    picture(folder, 0, np.zeros((20, 20, 3), np.uint8))
    return folder


def picture(folder, row, pixels):
    names = list(open_bids(folder).pictures.values())
    Image.fromarray(pixels).save(names[row])
    return names[row]


def test_a_picture_that_was_damaged_is_copied_again_and_the_preparation_goes_on(
    folder, tmp_path
):
    file = open_bids(folder).pictures.popitem()[1]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NeuroFlowError) as error:
        prepare(folder, tmp_path / "out")
    assert str(file) in str(error.value)
    file.write_bytes(whole)

    assert prepare(folder, tmp_path / "out") == prepare(folder, tmp_path / "whole")


def test_a_picture_with_z_v_that_is_another_since_is_refused(folder, tmp_path):
    with pytest.raises(StoppedError):
        prepare(folder, tmp_path / "out", Stops())
    picture(folder, 0, np.ones((20, 20, 3), np.uint8))

    with pytest.raises(ArtifactError) as error:
        prepare(folder, tmp_path / "out")

    assert str(error.value) == (
        f"{tmp_path / 'out' / 'progress.json'}: stimuli: expected what the preparation "
        "that was interrupted has read, found it changed since. Choose another --out"
    )
