"""The dataset's files to trials, against an oracle that shares no code with it."""

import gzip
import re
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest

from runtime.errors import ArtifactError, NeuroFlowError, RecordingError
from runtime.preprocess.mask import VoxelMask
from tests.nsd_folder import (
    BETAS,
    DESIGN,
    MASK,
    PER_SESSION,
    PICTURES,
    SHAPE,
    STIMULI,
    write_design,
    write_mask,
    write_nsd,
    write_session,
)
from training.data.nsd import open_nsd, prepare_nsd
from training.data.nsd_latents import latents_of_backbone, latents_of_file
from training.data.store import open_trials
from training.visual.backbone import PatchDctBackbone

SUBJECT = 2


@pytest.fixture(scope="module")
def nsd(tmp_path_factory):
    return write_nsd(tmp_path_factory.mktemp("nsd"))


@pytest.fixture
def copy(nsd, tmp_path):
    return shutil.copytree(nsd.root, tmp_path / "nsd")


def prepare(root, out, variant="train", **changes):
    trials = open_nsd(root, SUBJECT)
    latents = latents_of_backbone(PatchDctBackbone(), root / STIMULI)
    return prepare_nsd(trials, SUBJECT, out, variant, latents, **changes)


def oracle(nsd, variant):
    """Voxels, picture and session of every trial in order, the plain way."""
    voxels, picture, is_test, session = [], [], [], []
    for s, betas in enumerate(nsd.betas):
        values = np.array([trial[nsd.mask] for trial in betas]) / 300.0
        numbers = nsd.order[s * PER_SESSION : (s + 1) * PER_SESSION]
        test = numbers <= 1000
        seen = values if variant == "published-leaky" else values[~test]
        std = seen.std(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            scored = (values - seen.mean(axis=0)) / std
        voxels.append(np.where(std > 1e-12, scored, 0))
        picture += [nsd.subjectim[SUBJECT - 1, number - 1] - 1 for number in numbers]
        is_test += test.tolist()
        session += [s] * PER_SESSION
    return np.concatenate(voxels), np.array(picture), np.array(is_test), session


@pytest.mark.parametrize("variant", ["train", "published-leaky"])
def test_voxels_pictures_and_sessions_are_those_of_the_oracle(nsd, tmp_path, variant):
    prepare(nsd.root, tmp_path / "out", variant)
    opened = open_trials(tmp_path / "out", whole=True)
    voxels, picture, is_test, session = oracle(nsd, variant)

    for split, chosen in (("train", ~is_test), ("test", is_test)):
        rows = opened.rows(split)
        # float32 keeps a z-score of a few units to about 1e-6.
        np.testing.assert_allclose(
            opened.arrays["voxels"][rows], voxels[chosen], atol=2e-6
        )
        ids = [opened.manifest.image_ids[i] for i in opened.arrays["image"][rows]]
        assert ids == [f"nsd-{p:05}" for p in picture[chosen]]
        assert (
            opened.arrays["group"][rows].tolist() == np.array(session)[chosen].tolist()
        )
        assert opened.arrays["position"][rows].tolist() == list(np.flatnonzero(chosen))
    assert opened.manifest.normalisation == (
        "session-train" if variant == "train" else "session-published-leaky"
    )


def test_the_default_does_not_see_test_trials_and_the_published_variant_does(
    nsd, tmp_path
):
    # One test trial that is far away from all others.
    betas = nsd.betas.copy()
    first_test = int(np.flatnonzero(nsd.order[:PER_SESSION] <= 1000)[0])
    betas[0, first_test] = 30_000
    root = shutil.copytree(nsd.root, tmp_path / "nsd")
    write_session(root / BETAS / "betas_session01.nii.gz", betas[0])
    found = {}
    for variant in ("train", "published-leaky"):
        for name, folder in (("plain", nsd.root), ("far", root)):
            out = tmp_path / f"{variant}-{name}"
            prepare(folder, out, variant)
            opened = open_trials(out)
            found[variant, name] = np.array(opened.arrays["std"][0])

    np.testing.assert_array_equal(found["train", "plain"], found["train", "far"])
    assert (found["published-leaky", "far"] > found["published-leaky", "plain"]).any()


def test_the_normalisation_can_be_undone(nsd, tmp_path):
    prepare(nsd.root, tmp_path / "out")
    opened = open_trials(tmp_path / "out")

    rows = np.arange(len(opened.arrays["voxels"]))
    units = opened.in_units(opened.arrays["voxels"], rows)

    position = opened.arrays["position"]
    truth = nsd.betas.reshape(-1, *SHAPE)[position][:, nsd.mask] / 300
    # float32 of numbers up to 3 percent, through a division and a product.
    np.testing.assert_allclose(units, truth, atol=2e-6)


def test_latents_stand_once_a_picture_training_pictures_first(nsd, tmp_path):
    prepare(nsd.root, tmp_path / "out")
    opened = open_trials(tmp_path / "out")
    latents, backbone = opened.arrays["latents"], PatchDctBackbone()

    assert latents.dtype == np.float16
    ids = opened.manifest.image_ids
    assert len(set(ids)) == len(ids) == len(latents)
    for row, name in enumerate(ids):
        picture = nsd.bricks[int(name.removeprefix("nsd-"))][None]
        wanted = backbone.latents(picture)[0].astype(np.float16)
        np.testing.assert_array_equal(latents[row], wanted)
    train = opened.split("train")
    images = np.unique(train.image)
    assert images.tolist() == list(range(len(images)))
    np.testing.assert_allclose(
        train.latent_mean(), latents[: len(images)].astype(float).mean(0), atol=1e-6
    )


def test_the_runs_of_a_session_follow_the_design(nsd, tmp_path):
    prepare(nsd.root, tmp_path / "out")
    opened = open_trials(tmp_path / "out")

    names = [opened.manifest.runs[r] for r in opened.arrays["run"]]
    for name, position in zip(names, opened.arrays["position"], strict=True):
        session, trial = divmod(int(position), PER_SESSION)
        assert name == f"session{session + 1:02} run{1 if trial < 4 else 2:02}"


def test_nifti_and_hdf5_of_the_same_betas_give_the_same_trials(nsd, tmp_path):
    for form in ("nii.gz", "nii", "hdf5"):
        root = write_nsd(tmp_path / form, formats=(form,)).root
        prepare(root, tmp_path / f"{form}-out")

    voxels = [
        open_trials(tmp_path / f"{form}-out").manifest.files["voxels.npy"].sha256
        for form in ("nii.gz", "nii", "hdf5")
    ]
    assert len(set(voxels)) == 1


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_an_interrupted_preparation_goes_on_and_ends_the_same(nsd, tmp_path, calls):
    prepare(nsd.root, tmp_path / "whole")
    left = [calls]

    def stop(_done, _all):
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare(nsd.root, tmp_path / "out", count=stop)
    with pytest.raises(ArtifactError, match="found an interrupted one"):
        open_trials(tmp_path / "out")
    with pytest.raises(ArtifactError, match="found another one's arguments"):
        prepare(nsd.root, tmp_path / "out", "published-leaky")
    prepare(nsd.root, tmp_path / "out")

    one, other = (open_trials(tmp_path / name).manifest for name in ("whole", "out"))
    assert one == other


def test_latents_of_a_file_may_be_all_pictures_or_those_that_were_shown(nsd, tmp_path):
    rng = np.random.default_rng(0)
    every = rng.standard_normal((PICTURES, 3, 5)).astype(np.float16)
    trials = open_nsd(nsd.root, SUBJECT)
    for name, array in (("every", every), ("shown", every[trials.pictures])):
        np.save(tmp_path / f"{name}.npy", array)
        file = tmp_path / f"{name}.npy"
        latents = latents_of_file(file, trials.pictures, PICTURES)
        prepare_nsd(trials, SUBJECT, tmp_path / name, "train", latents)
        stored = open_trials(tmp_path / name).arrays["latents"]
        np.testing.assert_array_equal(stored, every[trials.pictures])


def test_latents_that_float16_cannot_hold_are_refused(nsd, tmp_path):
    class Loud(PatchDctBackbone):
        def latents(self, pictures):
            return super().latents(pictures) + np.float32(70_000)

    trials = open_nsd(nsd.root, SUBJECT)
    source = latents_of_backbone(Loud(), nsd.root / STIMULI)

    with pytest.raises(NeuroFlowError, match="latents from image 0 as float16: exp"):
        prepare_nsd(trials, SUBJECT, tmp_path / "out", "train", source)


def cut(file, share=0.6):
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


def another_mask(root, nsd):
    write_mask(root / MASK, np.ones((5, 4, 4), bool))


def empty_mask(root, nsd):
    write_mask(root / MASK, np.zeros(SHAPE, bool))


def no_stimulus(root, nsd):
    pictures = nsd.subjectim.copy()
    pictures[1, nsd.order[3] - 1] = 0
    write_design(root / DESIGN, nsd.order, pictures)


def short_design(root, nsd):
    write_design(root / DESIGN, nsd.order[:-3], nsd.subjectim)


def nan_betas(root, nsd):
    betas = nsd.betas[0].astype(np.float32) / 300
    betas[4, *np.argwhere(nsd.mask)[2]] = np.nan
    write_session(root / BETAS / "betas_session01.nii.gz", betas)


def double_betas(root, nsd):
    write_session(root / BETAS / "betas_session01.nii.gz", nsd.betas[0].astype(float))


def missing_trials(root, nsd):
    write_session(root / BETAS / "betas_session02.hdf5", nsd.betas[1][:-1])


def cut_hdf5(root, nsd):
    cut(root / BETAS / "betas_session02.hdf5")


def cut_nifti(root, nsd):
    cut(root / BETAS / "betas_session03.nii.gz", 0.98)


def no_trailer(root, nsd):
    # All betas are there, but not the checksum that vouches for them.
    cut(root / BETAS / "betas_session03.nii.gz", 0.9999)


def short_nifti(root, nsd):
    file = root / BETAS / "betas_session03.nii.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-5]))


def scaled_header(root, nsd):
    file = root / BETAS / "betas_session01.nii.gz"
    image = nib.Nifti1Image(nsd.betas[0].transpose(1, 2, 3, 0), np.eye(4))
    image.header.set_slope_inter(1 / 300, 0)
    nib.save(image, file)


def missing_session(root, nsd):
    (root / BETAS / "betas_session02.hdf5").unlink()


def no_betas(root, nsd):
    with h5py.File(root / BETAS / "betas_session02.hdf5", "w") as file:
        file["other"] = [1]


def cut_pictures(root, nsd):
    cut(root / STIMULI)


def few_pictures(root, nsd):
    with h5py.File(root / STIMULI, "w") as file:
        file["imgBrick"] = nsd.bricks[:3]


def cut_design(root, nsd):
    cut(root / DESIGN, 0.02)


LIBRARY = "<its words>"
"""In the place of what a library says of a damaged file, which its version decides."""


def said(error, line):
    """Whether an error is exactly this line."""
    wanted = re.escape(line).replace(re.escape(LIBRARY), r"[^\n]+")
    return re.fullmatch(wanted, str(error)) is not None


@pytest.mark.parametrize(
    ("harm", "file", "line"),
    [
        (
            another_mask,
            MASK,
            "shape: expected (5, 4, 3) as in betas_session01.nii.gz, found (5, 4, 4)",
        ),
        (empty_mask, MASK, "expected at least one voxel above 0, found none"),
        (
            no_stimulus,
            DESIGN,
            "subjectim: expected a picture from 1 to 73000 for every trial, "
            "found 0 at trial 3",
        ),
        (
            short_design,
            DESIGN,
            "masterordering: expected a multiple of 40 trials, found 397",
        ),
        (
            cut_design,
            DESIGN,
            f"expected a MATLAB file, found it cut or damaged ({LIBRARY})",
        ),
        (
            nan_betas,
            f"{BETAS}/betas_session01.nii.gz",
            "betas [trial, voxel]: expected finite values, found another at [4, 2]",
        ),
        (
            double_betas,
            f"{BETAS}/betas_session01.nii.gz",
            "dtype: expected int16 or float32, found float64",
        ),
        (
            scaled_header,
            f"{BETAS}/betas_session01.nii.gz",
            "scl_slope: expected none, found 0.0033333334140479565 and 0.0",
        ),
        (
            missing_trials,
            f"{BETAS}/betas_session02.hdf5",
            "trials: expected 10 as in the experiment's design, found (9,)",
        ),
        (
            cut_hdf5,
            f"{BETAS}/betas_session02.hdf5",
            "betas: expected a whole HDF5 file, found it cut or damaged "
            f"({LIBRARY}). Copy it again",
        ),
        (
            no_betas,
            f"{BETAS}/betas_session02.hdf5",
            "betas: expected a data set, found ['other']",
        ),
        (
            cut_nifti,
            f"{BETAS}/betas_session03.nii.gz",
            "betas: expected a whole file, found it cut or damaged "
            f"({LIBRARY}). Copy it again",
        ),
        (
            no_trailer,
            f"{BETAS}/betas_session03.nii.gz",
            "betas: expected a whole file, found it cut or damaged "
            f"({LIBRARY}). Copy it again",
        ),
        (
            short_nifti,
            f"{BETAS}/betas_session03.nii.gz",
            "betas: expected 1,200 more bytes, found 1,195. "
            "The file is cut; copy it again",
        ),
        (
            missing_session,
            BETAS,
            "expected betas_session02.nii.gz or .hdf5, found betas_session03.nii.gz",
        ),
        (
            cut_pictures,
            STIMULI,
            "imgBrick: expected a whole HDF5 file, found it cut or damaged "
            f"({LIBRARY}). Copy it again",
        ),
        (
            few_pictures,
            STIMULI,
            "imgBrick: expected pictures up to 59, found shape (3, 16, 16, 3)",
        ),
    ],
)
def test_bad_input_is_one_line_with_file_field_expected_and_found(
    nsd, copy, tmp_path, harm, file, line
):
    harm(copy, nsd)

    with pytest.raises(NeuroFlowError) as caught:
        prepare(copy, tmp_path / "out")

    assert said(caught.value, f"{copy / file}: {line}"), str(caught.value)
    assert caught.value.exit_status == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"masterordering": "text"}, "masterordering: expected numbers, found none"),
        (
            {"masterordering": np.full(400, 1.5)},
            "masterordering: expected whole numbers, found others",
        ),
        (
            {"masterordering": np.full(400, np.nan)},
            "masterordering: expected whole numbers, found others",
        ),
        (
            {"masterordering": np.full(400, 20_000)},
            "masterordering: expected a picture from 1 to {pictures} for every trial, "
            "found 20000 at trial 0",
        ),
        (
            {"subjectim": np.ones((1, 10_000), np.int32)},
            "subjectim: expected subject 2, found 1 subjects",
        ),
        (
            {"stimpattern": np.ones((39, 2, 10), np.uint8)},
            "stimpattern: expected (40, runs, positions), found (39, 2, 10)",
        ),
        (
            {"stimpattern": np.ones((40, 2, 10), np.uint8)},
            "stimpattern: expected 10 trials in session 1, found 20",
        ),
    ],
)
def test_a_design_that_cannot_be_is_named_by_its_matrix(copy, nsd, changes, line):
    write_design(copy / DESIGN, nsd.order, **{"subjectim": nsd.subjectim, **changes})

    with pytest.raises(RecordingError) as caught:
        open_nsd(copy, SUBJECT)

    line = line.format(pictures=nsd.subjectim.shape[1])
    assert str(caught.value) == f"{copy / DESIGN}: {line}"


def test_a_design_that_is_missing_is_named(copy):
    (copy / DESIGN).unlink()

    with pytest.raises(RecordingError) as caught:
        open_nsd(copy, SUBJECT)

    assert str(caught.value) == (
        f"{copy / DESIGN}: expected the experiment's design, found no file"
    )


def test_trials_without_any_for_training_are_refused(copy, nsd):
    order = np.minimum(nsd.order, 1000)
    write_design(copy / DESIGN, order, nsd.subjectim)

    with pytest.raises(RecordingError) as caught:
        open_nsd(copy, SUBJECT)

    assert str(caught.value) == (
        f"{copy / DESIGN}: masterordering: expected training trials, found none"
    )


def test_the_mask_that_is_stored_is_the_one_of_the_runtime(nsd, tmp_path):
    manifest = prepare(nsd.root, tmp_path / "out")

    assert manifest.mask_sha256 == VoxelMask.from_volume(nsd.mask).sha256
    stored = open_trials(tmp_path / "out").arrays["mask"]
    np.testing.assert_array_equal(stored, nsd.mask)
    np.testing.assert_array_equal(manifest.affine, np.eye(4))


def test_the_manifest_says_of_the_betas_what_a_bundle_says(nsd, tmp_path):
    train = prepare(nsd.root, tmp_path / "train").estimated_by()
    leaky = prepare(nsd.root, tmp_path / "leaky", "published-leaky").estimated_by()

    assert train.name == "nsd"
    assert "betas_fithrf_GLMdenoise_RR" in train.detail
    assert train.normalisation == "session-train"
    assert leaky.normalisation == "session-published-leaky"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("wild.json", b'{"a": 1}', "another file (it is JSON or another text)"),
        ("none.npy", None, "found none"),
        ("cut.npy", b"\x93NUMPY\x01", "another file (an .npy file, cut or of objects)"),
        ("some.pkl", b"\x80\x04K\x01.", "another file (a pickle: cut, or of"),
    ],
)
def test_latents_that_are_no_npy_are_named_for_what_they_are(
    tmp_path, name, data, words
):
    if data is not None:
        (tmp_path / name).write_bytes(data)

    with pytest.raises(RecordingError) as caught:
        latents_of_file(tmp_path / name, np.arange(3), PICTURES)

    line = str(caught.value)
    assert line.startswith(f"{tmp_path / name}: expected latents as .npy of plain num")
    assert words in line
    assert "pickle=" not in line


def test_an_archive_of_latents_is_no_latents(tmp_path):
    np.savez(tmp_path / "z.npz", z=np.zeros((3, 2, 2), np.float32))

    with pytest.raises(RecordingError, match=r"one array, found an archive \(.npz\)"):
        latents_of_file(tmp_path / "z.npz", np.arange(3), PICTURES)
