"""The benchmark of data at scale prepares what `prepare-nsd` does; on small grids."""

import importlib
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from training.data.nsd_regions import COLLECTIONS
from training.data.store import open_trials

ROOT = Path(__file__).parents[2]
VOXELS = 60


@pytest.fixture
def scale(monkeypatch):
    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        module = importlib.import_module("nsd_scale")
    monkeypatch.setattr(module, "SHAPE", (9, 8, 7))
    monkeypatch.setattr(module, "VOXELS", VOXELS)
    monkeypatch.setattr(module.CheapBackbone, "shape", (2, 3))
    return module


@pytest.mark.slow
def test_what_is_measured_is_todays_preparation(scale, tmp_path):
    scale.generate(tmp_path / "nsd", 1)

    found = scale.prepare(tmp_path / "nsd", tmp_path / "out")

    manifest = open_trials(tmp_path / "out").manifest
    names = {name for labels in COLLECTIONS.values() for name in labels}
    assert set(manifest.regions) == names
    assert found["regions"] == len(names)
    assert found["test_pictures_kept"] == manifest.test_images > 0
    assert found["voxels"] == VOXELS
    pictures = np.load(tmp_path / "out" / "test_pictures.npy", mmap_mode="r")
    assert pictures.shape == (manifest.test_images, 425, 425, 3)
    stages = list(found["seconds"])
    assert stages[0] == "design, mask, sessions, regions"
    assert f"{manifest.test_images} pictures of the test" in stages
    assert stages[-1] == "opened again"


def test_a_sparse_folder_has_the_shapes_that_are_asked_for(scale, tmp_path):
    sizes = scale.sparse(tmp_path / "trials", 9, (2, 3))

    trials = open_trials(tmp_path / "trials").split("train")
    assert trials.voxels.shape == (scale.TRAIN, 9)
    assert trials.latents.shape == (scale.IMAGES, 2, 3)
    assert sizes["bytes_on_disk"] > 0
