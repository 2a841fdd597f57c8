"""Recorded and written DICOM files become what nibabel and dcm2niix make of them.

Voxels exactly, affines to 1e-4 mm, both turned to RAS+ by nibabel.
"""

import subprocess
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from bci_bridge.sources.dicom_elements import read_elements
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.series_choice import Choice
from tests import dicom_files as files

with warnings.catch_warnings():
    # It warns of being experimental; as an oracle it is one of two.
    warnings.simplefilter("ignore")
    from nibabel.nicom import dicomwrappers

DATA = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = ("siemens_mosaic_tr1000", "siemens_multiband_tr800", "ge_slices")
recorded = pytest.mark.skipif(
    not all((DATA / name).is_dir() for name in FOLDERS), reason=f"no data in {DATA}"
)


def received(contents):
    """The volumes of some files, by number."""
    receiver = DicomReceiver(Choice(), b"salt")
    arrivals = [one for data in contents for one in receiver.take(data, "a file", 0.0)]
    return sorted(arrivals, key=lambda volume: volume.number)


def contents_of(folder):
    return [file.read_bytes() for file in sorted((DATA / folder).iterdir())]


def converted(folder, out):
    """What dcm2niix makes of a folder: voxels with time last, affine, both RAS+."""
    dcm2niix = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    subprocess.run(
        [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "run", "-o", out, folder],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (made,) = out.glob("*.nii")
    return turned(nib.load(made))


def turned(image):
    closest = nib.as_closest_canonical(image)
    voxels = np.asarray(closest.dataobj)
    return voxels.reshape(*voxels.shape[:3], -1), closest.affine


def require_equal(volumes, voxels, affine, atol=1e-4):
    assert len(volumes) == voxels.shape[3]
    for index, volume in enumerate(volumes):
        assert volume.number == index
        np.testing.assert_array_equal(volume.voxels, voxels[..., index])
        np.testing.assert_allclose(volume.geometry.affine, affine, atol=atol, rtol=0)


@recorded
@pytest.mark.recording
@pytest.mark.parametrize("folder", FOLDERS[:2])
def test_mosaics_are_nibabels(folder):
    volumes = received(contents_of(folder))

    for volume, file in zip(volumes, sorted((DATA / folder).iterdir()), strict=True):
        wrapper = dicomwrappers.wrapper_from_file(file)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ wrapper.affine
        voxels, affine = turned(nib.Nifti1Image(wrapper.get_data(), affine))
        np.testing.assert_array_equal(volume.voxels, voxels[..., 0])
        np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4, rtol=0)


@recorded
@pytest.mark.recording
@pytest.mark.parametrize(
    ("folder", "tr_s"), [*zip(FOLDERS, (1.0, 0.8, 1.0), strict=True)]
)
def test_recorded_files_are_dcm2niixs(folder, tr_s, tmp_path):
    volumes = received(contents_of(folder))

    # dcm2niix takes the distance of two neighbouring slices, whose positions GE rounds
    # to 1e-4 mm; here it is that of the outermost slices, divided.
    atol = 2e-4 if folder == "ge_slices" else 1e-4
    require_equal(volumes, *converted(DATA / folder, tmp_path), atol)
    assert {volume.geometry.tr_s for volume in volumes} == {tr_s}


@pytest.mark.parametrize("order", ["slices", "times", "mixed"])
def test_enhanced_files_are_dcm2niixs(order, tmp_path):
    volumes = [files.volume(seed, (8, 6, 5)) for seed in range(3)]
    mixed = np.random.default_rng(3).permutation(15).tolist()
    data = files.dumped(files.enhanced(volumes, mixed if order == "mixed" else order))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "all.dcm").write_bytes(data)
    (tmp_path / "out").mkdir()

    require_equal(received([data]), *converted(tmp_path / "in", tmp_path / "out"))


@pytest.mark.parametrize("number", [0, 2])
def test_an_enhanced_file_of_one_volume_is_dcm2niixs(number, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    made = files.enhanced(
        [files.volume(number)], [2, 0, 3, 1], InstanceNumber=number + 1
    )
    data = files.dumped(made)
    (tmp_path / "in" / "one.dcm").write_bytes(data)

    (volume,) = received([data])

    assert volume.number == number
    voxels, affine = converted(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(volume.voxels, voxels[..., 0])
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4, rtol=0)


def test_classic_slices_are_dcm2niixs(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    contents = [
        files.dumped(files.classic(files.volume(time, (8, 6, 5)), index, time))
        for time in range(3)
        for index in range(5)
    ]
    for number, data in enumerate(contents):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(data)

    require_equal(received(contents), *converted(tmp_path / "in", tmp_path / "out"))


@recorded
@pytest.mark.recording
def test_ge_slices_lie_where_the_first_ones_header_says():
    first = pydicom.dcmread(DATA / "ge_slices" / "i2862280.MRDC.1")
    right, down = np.array(first.ImageOrientationPatient).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([3 * right, 3 * down, 3.8 * np.cross(right, down)], 1)
    affine[:3, 3] = first.ImagePositionPatient
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    volumes = received(contents_of("ge_slices"))

    expected = nib.as_closest_canonical(
        nib.Nifti1Image(np.zeros((64, 64, 18), np.int16), affine)
    ).affine
    for volume in volumes:
        np.testing.assert_allclose(volume.geometry.affine, expected, atol=1e-4)


@recorded
@pytest.mark.recording
def test_slice_times_are_those_of_the_header():
    (volume,) = received(contents_of(FOLDERS[0])[:1])

    # In the mosaic's order, which runs upwards here: (0019,1029) in ms.
    assert volume.geometry.slice_axis == 2
    assert volume.geometry.slice_times_s[:4] == (0.49, 0.0, 0.5425, 0.055)
    assert read_elements(contents_of(FOLDERS[0])[0]).patient
