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


def module(name):
    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        return importlib.import_module(name)


@pytest.fixture
def files(monkeypatch):
    files = module("nsd_files")
    monkeypatch.setattr(files, "SHAPE", (9, 8, 7))
    monkeypatch.setattr(files, "VOXELS", VOXELS)
    monkeypatch.setattr(files.CheapBackbone, "shape", (2, 3))
    return files


@pytest.fixture
def scale():
    return module("nsd_scale")


@pytest.mark.slow
def test_what_is_measured_is_todays_preparation(files, scale, tmp_path):
    files.generate(tmp_path / "nsd", 1)

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


def test_a_sparse_folder_has_the_shapes_that_are_asked_for(files, tmp_path):
    sizes = files.sparse(tmp_path / "trials", 9, (2, 3))

    trials = open_trials(tmp_path / "trials").split("train")
    assert trials.voxels.shape == (files.TRAIN, 9)
    assert trials.latents.shape == (files.IMAGES, 2, 3)
    assert sizes["bytes_on_disk"] > 0
