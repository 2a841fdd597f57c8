"""An export of a recording that changes meanwhile holds what its first look found."""

import gzip

import h5py
import nibabel as nib
import numpy as np
import pytest

from bci_bridge.exports import export as module
from bci_bridge.exports.export import export
from bci_bridge.places import INPUTS
from runtime.errors import RecordingError
from tests.integration.tiny import SHAPE
from tests.recorded import Rig, noise

BIDS = "sub-unknown/func/sub-unknown_task-unknown_run-1_bold.nii.gz"
HEADER_BYTES = 352


def between(monkeypatch, change):
    """Let something happen after the first pass over the logs."""
    facts_of = module.facts_of

    def looking(*logs):
        found = facts_of(*logs)
        change()
        return found

    monkeypatch.setattr(module, "facts_of", looking)


def grow(rig):
    """Let the run go on, end, and another one begin."""
    rig.volume(1, noise(1))
    rig.event("t-2", 3.0)
    for index in (3, 4):
        rig.volume(index, noise(index), "f4")
    rig.end(5)
    rig.start("run-2")
    rig.volume(0, noise(0))


@pytest.mark.parametrize("kind", ["nifti", "bids", "hdf5"])
def test_what_comes_while_a_recording_is_exported_is_left_out(
    tmp_path, monkeypatch, kind
):
    recording, out = tmp_path / "log", tmp_path / "out"
    with Rig(recording) as rig:
        rig.start()
        rig.event("t-1", 0.0)
        for index in (0, 2):
            rig.volume(index, noise(index))
        between(monkeypatch, lambda: grow(rig))
        exported = export(recording, out, kind, version="1")

    assert list(exported.runs) == ["run-1"]
    if kind == "hdf5":
        with h5py.File(out / "recording.h5") as file:
            voxels = np.moveaxis(file["runs/run-1/volumes"][()], 0, -1)
            assert list(file["runs"]) == ["run-1"]
            assert set(file["runs/run-1/arrays"]) <= {"t-1"}
    else:
        path = out / (BIDS if kind == "bids" else "run-1.nii")
        voxels = np.asanyarray(nib.load(path).dataobj)
        data = path.read_bytes()
        data = gzip.decompress(data) if kind == "bids" else data
        assert len(data) == HEADER_BYTES + voxels.nbytes
    assert (voxels.shape, voxels.dtype) == ((*SHAPE, 3), np.int16)
    for index in (0, 2):
        np.testing.assert_array_equal(voxels[..., index], noise(index))
    assert not voxels[..., 1].any()


@pytest.mark.parametrize("kind", ["nifti", "bids", "hdf5"])
def test_what_goes_while_a_recording_is_exported_is_missed(tmp_path, monkeypatch, kind):
    recording, out = tmp_path / "log", tmp_path / "out"
    with Rig(recording) as rig:
        rig.start()
        for index in (0, 1):
            rig.volume(index, noise(index))
        rig.end(2)
    (segment,) = (recording / INPUTS).glob("*.mcap")

    def damage():
        data = bytearray(segment.read_bytes())
        data[data.index(noise(1).tobytes())] ^= 1
        segment.write_bytes(data)

    between(monkeypatch, damage)
    monkeypatch.setattr(module, "changes_in", lambda _: ((), ()))

    with pytest.raises(RecordingError) as error:
        export(recording, out, kind, version="1")

    assert str(error.value) == (
        "log of inputs: expected the 2 volumes that it had a moment ago, found 1. It "
        "was changed meanwhile; export it again."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
