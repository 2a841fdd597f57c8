"""Regions and test pictures in prepared trials: which, what names, what is refused."""

import msgspec
import numpy as np
import pytest

from runtime.errors import ArtifactError, RecordingError, UsageError
from runtime.preprocess.mask import VoxelMask
from tests.nsd_folder import MASK, SIDE, STIMULI, write_labels, write_nsd
from training.data.nsd import open_nsd, prepare_nsd
from training.data.nsd_latents import SharedPictures, latents_of_backbone
from training.data.nsd_regions import COLLECTIONS, nsd_volumes
from training.data.regions import chosen_volumes, read_regions
from training.data.store import check_manifest, open_trials
from training.visual.backbone import PatchDctBackbone
from verbs.prepared import _pictures, _regions

SHAPE = (2, 3, 2)
LABELS = np.array([[[1, 2], [3, 4], [5, 7]], [[0, -1], [2, 6], [7, 7]]])
# In C order: 1 2 3 4 5 7 0 -1 2 6 7 7; the mask leaves out the first and the last.
VOXELS = VoxelMask.from_volume((np.arange(12) % 11 > 0).reshape(SHAPE))


def read(folder, wanted=()):
    return read_regions(chosen_volumes(wanted, nsd_volumes(folder)), VOXELS)


@pytest.fixture
def folder(tmp_path):
    write_labels(tmp_path / "prf-visualrois.nii.gz", LABELS)
    faces = np.zeros(SHAPE)
    faces[1, 2, 0], faces[0, 0, 1] = 2, 1
    write_labels(tmp_path / "floc-faces.nii.gz", faces)
    return tmp_path


def listed(found):
    return {name: np.flatnonzero(voxels).tolist() for name, voxels in found.items()}


def test_the_datasets_own_are_all_taken_and_have_their_names(folder):
    found = read(folder)

    assert listed(found) == {
        # V1 is ventral (label 1, outside of the mask) and dorsal (2) together.
        "V1": [0, 7],
        "V2": [1, 2],
        "V3": [3, 8],
        "hV4": [4, 9],
        "OFA": [0],
        "FFA-1": [9],
    }
    assert all(len(voxels) == VOXELS.voxels for voxels in found.values())


def test_one_may_choose_among_them(folder):
    assert list(read(folder, ["floc-faces"])) == ["OFA", "FFA-1"]


def test_volumes_of_ones_own_take_names_from_a_table_or_their_number(folder):
    own = folder / "mine.nii.gz"
    write_labels(own, LABELS)
    by_number = read(folder, [f"mine={own}"])
    assert list(by_number)[:2] == ["mine 2", "mine 3"]

    (folder / "mine.tsv").write_text("index\tname\n" + "".join(
        f"{k}\tarea {k % 2}\n" for k in range(1, 8)
    ))  # fmt: skip
    named = read(folder, [f"mine={own}"])
    # Labels with one name are one region.
    assert listed(named) == {"area 0": [0, 2, 7, 8], "area 1": [1, 3, 4, 9]}

    write_labels(folder / "one.nii.gz", LABELS == 7)
    assert listed(read(folder, [f"x={folder / 'one.nii.gz'}"])) == {"x": [4, 9]}


def test_without_volumes_there_are_no_regions(tmp_path):
    assert read(tmp_path) == {}


def test_what_is_no_volume_of_regions_is_refused_in_one_line(folder):
    def refused(kind, line, *wanted):
        with pytest.raises(kind, match=line) as caught:
            read(folder, wanted)
        assert "\n" not in str(caught.value)

    refused(UsageError, "prf-visualrois.*, found Kastner2015", "Kastner2015")
    refused(UsageError, "expected NAME=FILE", f"x={folder / 'none.nii.gz'}")
    refused(UsageError, "expected NAME=FILE", f"={folder / 'floc-faces.nii.gz'}")
    (folder / "cut.nii.gz").write_bytes(b"\x1f\x8b")
    refused(RecordingError, "torn or damaged", f"x={folder / 'cut.nii.gz'}")
    write_labels(folder / "flat.nii.gz", np.zeros((2, 3)))
    refused(RecordingError, "3 dimensions", f"x={folder / 'flat.nii.gz'}")
    write_labels(folder / "other.nii.gz", np.zeros((2, 3, 3)))
    refused(
        RecordingError, r"\[2, 3, 2\] as the mask's", f"x={folder / 'other.nii.gz'}"
    )
    twice = f"V1={folder / 'one.nii.gz'}"
    write_labels(folder / "one.nii.gz", LABELS == 2)
    refused(RecordingError, "found V1 in another", "prf-visualrois", twice)
    write_labels(folder / "prf-visualrois.nii.gz", LABELS + 1)
    refused(RecordingError, "labels: expected those with a name, .* found 8")
    (folder / "one.tsv").write_text("index\tname\nfirst\tV1\n")
    refused(RecordingError, "columns index and name", f"x={folder / 'one.nii.gz'}")


def test_every_collection_has_at_least_three_labels():
    assert set(COLLECTIONS) == {
        "prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words",
        "streams",
    }  # fmt: skip
    assert [len(names) for names in COLLECTIONS.values()] == [7, 4, 5, 3, 5, 7]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("nsd")
    nsd = write_nsd(root)
    labels = np.arange(nsd.mask.size).reshape(nsd.mask.shape) % 8
    write_labels((root / MASK).parent / "prf-visualrois.nii.gz", labels)
    trials = open_nsd(root, 2)
    volumes = chosen_volumes((), nsd_volumes(trials.roi_folder))
    regions = read_regions(volumes, trials.mask)
    out = tmp_path_factory.mktemp("out") / "trials"
    stimuli = root / STIMULI
    prepare_nsd(
        trials, 2, out, "train", latents_of_backbone(PatchDctBackbone(), stimuli),
        regions=regions, kept=SharedPictures(stimuli),
    )  # fmt: skip
    return nsd, labels, open_trials(out, whole=True)


def test_prepared_trials_carry_regions(prepared):
    nsd, labels, opened = prepared

    inside = labels[nsd.mask]
    assert opened.manifest.regions == ("V1", "V2", "V3", "hV4")
    for number, voxels in enumerate(_regions(opened).values()):
        wanted = np.isin(inside, [2 * number + 1, 2 * number + 2]) & (inside > 0)
        np.testing.assert_array_equal(voxels, wanted)


def test_prepared_trials_carry_the_tests_pictures_as_they_are(prepared):
    nsd, _, opened = prepared

    images = np.unique(opened.arrays["image"][opened.rows("test")])
    kept = _pictures(opened, images)
    assert isinstance(kept, np.memmap)
    assert kept.shape == (len(images), SIDE, SIDE, 3)
    for picture, row in zip(kept, images, strict=True):
        number = int(opened.manifest.image_ids[row].removeprefix("nsd-"))
        np.testing.assert_array_equal(picture, nsd.bricks[number])
    np.testing.assert_array_equal(_pictures(opened, images[[0, -1]]), kept[[0, -1]])
    train = np.unique(opened.arrays["image"][opened.rows("train")])
    assert "of the test alone" in _pictures(opened, train).reason


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"regions": ("V1",)}, r"regions.npy: expected \(1, .*, found \(4, "),
        ({"regions": ()}, r"regions.npy: expected none.*, found \(4, "),
        ({"test_images": 1}, r"test_pictures.npy: expected \(1, height"),
        ({"test_images": 0}, r"test_pictures.npy: expected \(0, height"),
    ],
)
def test_a_manifest_that_contradicts_them_is_refused(prepared, changes, line):
    manifest = msgspec.structs.replace(prepared[2].manifest, **changes)
    with pytest.raises(ArtifactError, match=line):
        check_manifest(manifest, "manifest.json")
