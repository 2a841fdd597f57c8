"""Prepared trials beside a bundle: what it is made of, and what may judge it."""

import shutil

import msgspec
import numpy as np
import pytest

from runtime.bundle import (
    MANIFEST,
    BackboneSpec,
    decode_manifest,
    open_bundle,
    require_live,
    write_manifest,
)
from runtime.errors import ArtifactError, BundleError
from runtime.estimator import BetaEstimator, ExternalEstimator
from runtime.preprocess import Hrf, VoxelMask
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.reference import Reference
from tests.sealed_folder import write_folder
from training.data.manifest import Split, TrialsManifest, VisualSource
from training.data.store import open_trials
from training.data.writer import TrialsWriter
from verbs.prepared import candidates_from, check_kept, ingredients_from, split_of

# As in the sealed folder: two voxels, latents of 3 x 4.
MASK = np.zeros((2, 2, 2), np.bool_)
MASK[0, 1, :] = True
TRAIN, TEST, LATENT = 6, 6, (3, 4)
ROWS = np.random.default_rng(0).normal(size=(TRAIN + TEST, 2)).astype(np.float32)
Z_V = np.random.default_rng(1).normal(size=(5, *LATENT)).astype(np.float32)
MEAN = np.array([[1, 2], [30, 40]], np.float32)
STD = np.array([[2, 3], [0.5, 0]], np.float32)
# Test trials of pictures 4 and 3, in the order of the experiment 4 3 3 4 4 3.
IMAGE = np.array([0, 1, 2, 0, 1, 2, 4, 3, 3, 4, 4, 3])
GROUP = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1])
PATCHES = VisualSource(name="patch_dct", detail="", image_size=32, patch=4)
EXTERNAL = ExternalEstimator(name="nsd", detail="b3", normalisation="session-train")


def manifest(**changes):
    fields = {
        "source": "nsd", "subject": "01", "voxels": 2,
        "mask_sha256": VoxelMask.from_volume(MASK).sha256,
        "affine": tuple(map(tuple, np.eye(4).tolist())),
        "betas": "nsd", "betas_detail": "b3", "normalisation": "session-train",
        "groups": ("a", "b"), "runs": ("1",),
        "splits": {
            "train": Split(first=0, trials=TRAIN),
            "test": Split(first=TRAIN, trials=TEST),
        },
        "image_ids": ("p0", "p1", "p2", "p3", "p4"), "visual": PATCHES, "files": {},
    }  # fmt: skip
    return TrialsManifest(**{**fields, **changes})


def write(folder, *, mask=MASK, reference=None, hrf_index=None, **changes):
    said = manifest(**changes)
    groups = len(said.groups)
    group = GROUP if groups == 2 else np.zeros_like(GROUP)
    writer = TrialsWriter(folder, said, len(ROWS), (5, *LATENT), "float32")
    for number in range(groups):
        writer.write_statistics(number, MEAN[number], STD[number])
        rows = np.flatnonzero(group == number)
        writer.write_voxels(rows, ROWS[rows], number)
    writer.write_latents(0, Z_V)
    indices = {
        "image": IMAGE, "group": group, "run": np.zeros(12, np.int64),
        "position": np.arange(12),
    }  # fmt: skip
    kept = {"mask": mask, "reference": reference, "hrf_index": hrf_index}
    writer.finish(indices, np.arange(3), kept)
    return open_trials(folder, whole=True)


def causal(**changes):
    return {
        "betas": "causal", "estimator": BetaEstimator(), "source": "bids",
        "normalisation": "pooled-train", "groups": ("all",), **changes,
    }  # fmt: skip


def bundle(folder, **changes):
    """A bundle of betas that others estimated, unless `changes` say more."""
    said = write_folder(folder)
    voxels = msgspec.structs.replace(said.voxels, units="session z")
    fields = {"estimator": EXTERNAL, "voxels": voxels, **changes}
    write_manifest(folder, msgspec.structs.replace(said, **fields))
    return folder


def test_sessions_z_scores_go_into_a_bundle_as_they_are(tmp_path):
    parts = ingredients_from(write(tmp_path / "trials"))

    assert parts.preprocessing.estimator == EXTERNAL
    assert parts.preprocessing.voxels().units == "session z"
    np.testing.assert_array_equal(parts.preprocessing.mask, MASK)
    np.testing.assert_array_equal(parts.preprocessing.space.to_model(ROWS), ROWS)
    np.testing.assert_array_equal(parts.golden_voxels, ROWS[:4])
    np.testing.assert_allclose(parts.latent_mean, Z_V[:3].mean(axis=0), atol=1e-6)
    assert parts.backbone == BackboneSpec(name="patch_dct", image_size=32, patch=4)


def test_one_scaling_of_all_trials_goes_into_the_bundle(tmp_path):
    parts = ingredients_from(write(tmp_path / "trials", **causal()))

    assert parts.preprocessing.estimator == BetaEstimator()
    assert parts.preprocessing.voxels().units == "percent"
    space = parts.preprocessing.space
    np.testing.assert_array_equal(space.affine.mean, MEAN[0])
    np.testing.assert_array_equal(space.affine.scale, STD[0])
    assert not len(space.whitening.components)


def test_betas_of_whole_runs_are_named_and_in_percent(tmp_path):
    whole_runs = causal(betas="offline", estimator=None, betas_detail="nilearn")

    parts = ingredients_from(write(tmp_path / "trials", **whole_runs))

    assert parts.preprocessing.estimator == ExternalEstimator(
        name="offline", detail="nilearn", normalisation="pooled-train"
    )
    assert parts.preprocessing.voxels().units == "percent"
    np.testing.assert_array_equal(parts.preprocessing.space.affine.mean, MEAN[0])


def test_a_folder_without_its_mask_makes_no_bundle(tmp_path):
    trials = write(tmp_path / "trials", mask=None)

    with pytest.raises(ArtifactError, match=r"mask.npy: expected the mask .* Prepare"):
        ingredients_from(trials)


def test_latents_of_a_file_are_named_by_it(tmp_path):
    source = VisualSource(name="file", detail="z_v.npy, sampled sha256 12ab")

    parts = ingredients_from(write(tmp_path / "trials", visual=source))

    assert parts.backbone.name == "file z_v.npy, sampled sha256 12ab"


def test_a_gallery_is_what_the_recording_names_or_all_pictures(tmp_path):
    named = candidates_from(
        write(
            tmp_path / "named",
            **causal(gallery=("p4", "p1"), labels=("a", "b", "c", "d", "e")),
        )
    )
    every = candidates_from(write(tmp_path / "every", **causal()))

    assert named.rows.tolist() == [4, 1]
    assert (list(named.ids), list(named.labels)) == (["p4", "p1"], ["e", "b"])
    assert every.rows.tolist() == [0, 1, 2, 3, 4]
    assert list(every.labels) == list(every.ids)
    assert every.calibration is None


def test_trials_calibrate_where_a_split_is_for_it(tmp_path):
    splits = {
        "train": Split(first=0, trials=6), "calibration": Split(first=6, trials=6)
    }  # fmt: skip

    found = candidates_from(write(tmp_path / "trials", **causal(splits=splits)))

    assert found.calibration is not None
    np.testing.assert_array_equal(found.calibration.voxels, ROWS[6:])


def test_a_splits_trials_come_in_the_order_of_the_experiment(tmp_path):
    trials = write(tmp_path / "trials", labels=("a", "b", "c", "d", "e"))
    with open_bundle(bundle(tmp_path / "bundle")) as opened:
        found = split_of(trials, opened, "test")

    np.testing.assert_array_equal(found.betas, ROWS[6:])
    assert found.names == ["p3", "p4"]
    assert found.labels == ["d", "e"]
    assert found.shown.tolist() == [1, 0, 0, 1, 1, 0]
    np.testing.assert_array_equal(found.z_v, Z_V[3:])
    assert found.repeats == 3


def test_each_sessions_statistics_give_percent_back(tmp_path):
    trials = write(tmp_path / "trials")
    with open_bundle(bundle(tmp_path / "bundle")) as opened:
        found = split_of(trials, opened, "test")

    percent = found.in_percent(found.betas)
    np.testing.assert_allclose(
        percent, trials.in_units(ROWS[6:], np.arange(6, 12)), rtol=1e-6
    )
    # By hand: the first of session a, the last of session b, whose std is 0 there.
    np.testing.assert_allclose(percent[0], ROWS[6] * [2, 3] + [1, 2], rtol=1e-6)
    assert percent[-1, 1] == 40.0
    np.testing.assert_allclose(
        found.averaged(percent)[0], percent[[1, 2, 5]].mean(axis=0), rtol=1e-6
    )


def test_betas_of_one_scaling_are_judged_in_percent(tmp_path):
    trials = write(tmp_path / "trials", **causal())
    said = {"estimator": BetaEstimator()}
    folder = bundle(tmp_path / "bundle")
    sealed = decode_manifest((folder / MANIFEST).read_bytes())
    voxels = msgspec.structs.replace(sealed.voxels, units="percent")
    write_manifest(folder, msgspec.structs.replace(sealed, voxels=voxels, **said))

    with open_bundle(folder) as opened:
        found = split_of(trials, opened, "test")

    np.testing.assert_allclose(found.betas, ROWS[6:] * [2, 3] + [1, 2], rtol=1e-6)
    assert found.in_percent(found.betas) is found.betas


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"subject": "02"}, "subject: expected 01 as the bundle's, found 02"),
        (
            {"normalisation": "session-published-leaky"},
            r"betas: expected .* session-train as .*, found .* session-published-leaky",
        ),
        ({"betas_detail": "b2"}, r"betas: expected .*\(b3\).*, found .*\(b2\)"),
        (causal(), "betas: expected betas of others: nsd .*, found betas by least sq"),
        (
            {"visual": VisualSource(name="file", detail="z.npy")},
            "visual: expected .*patch_dct.* found .*file z.npy",
        ),
    ],
)
def test_trials_of_another_kind_than_the_bundles_are_refused(tmp_path, changes, line):
    trials = write(tmp_path / "trials", **changes)

    with (
        open_bundle(bundle(tmp_path / "bundle")) as opened,
        pytest.raises(ArtifactError, match=line) as caught,
    ):
        split_of(trials, opened, "test")

    assert str(tmp_path / "trials" / "manifest.json") in str(caught.value)


def test_another_mask_or_split_is_refused(tmp_path):
    other = MASK[::-1].copy()
    sha256 = VoxelMask.from_volume(other).sha256
    moved = write(tmp_path / "moved", mask=other, mask_sha256=sha256)
    trials = write(tmp_path / "trials")

    with open_bundle(bundle(tmp_path / "bundle")) as opened:
        with pytest.raises(ArtifactError, match=f"mask_sha256: .* found {sha256}"):
            split_of(moved, opened, "test")
        with pytest.raises(ArtifactError, match="splits: expected tset, found train"):
            split_of(trials, opened, "tset")


def test_a_mask_of_other_voxels_than_the_manifest_says_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"mask.npy: voxels: expected those of"):
        write(tmp_path / "trials", mask=~MASK)


MOVED = BetaEstimator(motion=Motion())
LIBRARY = BetaEstimator(hrf_library=(Hrf(), Hrf(peak_s=5.0)))
VOLUME = np.ones(MASK.shape, np.float32)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            causal(estimator=MOVED),
            "files: expected reference.npy, as the estimator says, found none",
        ),
        (
            causal(reference=VOLUME),
            "files: expected no reference.npy, as the estimator says, found one",
        ),
        (
            causal(estimator=MOVED, reference=VOLUME[1:]),
            r"files.reference.npy.shape: expected that of mask.npy, found \(1, 2, 2\)",
        ),
        (
            causal(estimator=LIBRARY),
            "files: expected hrf_index.npy, as the estimator says, found none",
        ),
        (
            causal(hrf_index=np.zeros(2, np.int64)),
            "files: expected no hrf_index.npy, as the estimator says, found one",
        ),
        (
            causal(estimator=LIBRARY, hrf_index=np.zeros(3, np.int64)),
            r"files.hrf_index.npy.shape: expected \(2,\), found \(3,\)",
        ),
        (
            causal(estimator=LIBRARY, hrf_index=np.array([0, 2])),
            r"hrf_index.npy: values: expected rows in \[0, 2\), found 2 at voxel 1",
        ),
    ],
)
def test_what_the_estimator_was_fitted_with_must_be_there_and_fit(
    tmp_path, changes, line
):
    with pytest.raises(ArtifactError, match=line):
        write(tmp_path / "trials", **changes)


def test_trials_told_against_another_reference_are_refused(tmp_path):
    said = causal(estimator=MOVED, reference=VOLUME)
    trials = write(tmp_path / "trials", **said)
    parts = ingredients_from(trials).preprocessing
    other = write(tmp_path / "other", **{**said, "reference": 2 * VOLUME})

    reference = Reference(parts.reference, np.eye(4))

    check_kept(trials, reference, None)
    with pytest.raises(ArtifactError, match=r"reference.npy: expected the bundle's"):
        check_kept(other, reference, None)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"labels": ("a",)}, "labels: expected 5 or none, found 1"),
        ({"gallery": ("p9",)}, "gallery: expected pictures of image_ids, found p9"),
        ({"betas": "causal"}, "estimator: expected one with causal betas alone, found"),
        ({"estimator": BetaEstimator()}, "estimator: .* found one with nsd"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, changes, line):
    with pytest.raises(ArtifactError, match=line):
        write(tmp_path / "trials", **changes)


def test_betas_of_others_are_a_bundle_in_the_units_that_they_were_scaled_to(tmp_path):
    folder = bundle(tmp_path / "bundle")
    sound = decode_manifest((folder / MANIFEST).read_bytes())
    with open_bundle(folder) as opened:
        assert opened.manifest.estimator == EXTERNAL
        assert opened.manifest.input_kind == "beta"
    with pytest.raises(BundleError, match=f"^{folder}: estimator: expected one that"):
        require_live(folder)

    for changes, line in (
        (
            {"voxels": msgspec.structs.replace(sound.voxels, units="percent")},
            "expected session z as the estimator's, found percent",
        ),
        (
            {"estimator": BetaEstimator()},
            "expected percent as the estimator's, found session z",
        ),
    ):
        other = shutil.copytree(folder, tmp_path / line[:12])
        write_manifest(other, msgspec.structs.replace(sound, **changes))
        with pytest.raises(BundleError, match=f"voxels.units: {line}"):
            open_bundle(other)
