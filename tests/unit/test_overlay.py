"""The overlay: a sealed folder that belongs to one bundle and says what it gained."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.bundle import open_bundle
from runtime.calibration import Calibration, Findings
from runtime.correction import CorrectedModel, InputCorrection
from runtime.errors import ArtifactError, BundleError, UsageError
from runtime.identification import Interval
from runtime.overlay import OVERLAY, OVERLAY_TENSORS, open_overlay, require_fit
from runtime.overlay_writing import write_overlay
from runtime.preprocess import AffineNormaliser, FeatureSpace
from runtime.sealed import SIGNATURE, seal
from runtime.signing import signing_key
from runtime.signing_keys import folder_signer, sign_folder
from tests.linear_model import LinearModel
from tests.sealed_folder import write_folder

KEY = signing_key("author", bytes(range(32)))
VOXELS = 2
GAIN = Interval(0.05, 0.01, 0.09)
NOTHING = Interval(0.0, -0.01, 0.01)
FINDINGS = Findings(
    trials=60, images=30, without=0.7, normalised=0.73, corrected=0.75,
    normalisation=Interval(0.03, 0.01, 0.05),
    screened=Interval(0.02, 0.01, 0.03),
    correction=Interval(0.02, 0.005, 0.04),
    both=GAIN,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlay") / "bundle"
    write_folder(folder)
    with open_bundle(folder) as opened:
        yield opened


def calibration(bundle, *, is_corrected=True):
    rng = np.random.default_rng(0)
    affine = AffineNormaliser(
        rng.standard_normal(VOXELS).astype("f4"), np.array([0.5, 0.0], "f4")
    )
    correction = InputCorrection(
        *rng.standard_normal((2, 3, VOXELS)).astype("f4")
    ) if is_corrected else None  # fmt: skip
    return Calibration(
        FeatureSpace(affine, bundle.feature_space().whitening),
        correction,
        10.0 if is_corrected else None,
        FINDINGS if is_corrected else replace(FINDINGS, correction=NOTHING),
    )


def written(folder, bundle, *, is_corrected=True, **more):
    write_overlay(
        folder,
        calibration(bundle, is_corrected=is_corrected),
        bundle,
        label="session 2",
        created="2026-03-04",
        runs=("run-1", "run-2"),
        **more,
    )
    return folder


def said(folder):
    return json.loads((folder / OVERLAY).read_text())


def restated(folder, **changes):
    """Say something else in the manifest, tensors sealed anew."""
    files = [
        {"path": one.path, "size": one.size, "sha256": one.sha256}
        for one in _sealed(folder)
    ]
    text = json.dumps(said(folder) | {"files": files} | changes)
    (folder / OVERLAY).write_text(text)


def _sealed(folder):
    manifest = folder / OVERLAY
    aside = manifest.rename(folder.parent / "aside.json")
    try:
        return seal(folder)
    finally:
        aside.rename(manifest)


@pytest.mark.parametrize("is_corrected", [True, False])
def test_an_overlay_comes_back_as_it_was_written(bundle, tmp_path, is_corrected):
    made = calibration(bundle, is_corrected=is_corrected)

    folder = written(tmp_path / "overlay", bundle, is_corrected=is_corrected)
    found = open_overlay(folder, bundle)

    manifest = found.manifest
    assert manifest.bundle_sha256 == bundle.sha256
    assert (manifest.label, manifest.created) == ("session 2", "2026-03-04")
    assert manifest.trials.runs == ("run-1", "run-2")
    assert (manifest.trials.count, manifest.trials.images) == (60, 30)
    assert manifest.gain.without == 0.7
    np.testing.assert_array_equal(found.affine.mean, made.space.affine.mean)
    np.testing.assert_array_equal(found.affine.scale, made.space.affine.scale)
    assert found.signer is None
    assert found.space(bundle).affine is found.affine
    if is_corrected:
        assert manifest.holds == ("normalisation", "correction")
        assert (manifest.gain.mean, manifest.gain.reached) == (0.05, 0.75)
        np.testing.assert_array_equal(found.correction.reads, made.correction.reads)
        np.testing.assert_array_equal(found.correction.writes, made.correction.writes)
    else:
        assert manifest.holds == ("normalisation",)
        assert (manifest.gain.mean, manifest.gain.reached) == (0.03, 0.73)
        assert (found.correction, manifest.penalty) == (None, None)


def test_a_model_is_corrected_only_where_there_is_a_correction(bundle, tmp_path):
    model = LinearModel(VOXELS)
    plain = open_overlay(written(tmp_path / "a", bundle, is_corrected=False))
    corrected = open_overlay(written(tmp_path / "b", bundle))

    assert plain.corrected(model) is model
    assert isinstance(corrected.corrected(model), CorrectedModel)


def test_the_same_calibration_is_the_same_overlay(bundle, tmp_path):
    first, second = (written(tmp_path / name, bundle) for name in "ab")

    assert open_overlay(first).sha256 == open_overlay(second).sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle_sha256": "1" * 64}, "bundle: expected {mine} as of the bundle, found "
         "111111111111"),
        ({"estimator_sha256": "2" * 64}, "estimator: expected {estimator} as of the "
         "bundle, found 222222222222"),
        ({"voxels": 3}, "voxels: expected 2 as of the bundle, found 3"),
    ],
)  # fmt: skip
def test_another_bundle_estimator_or_number_of_voxels_is_refused(
    bundle, tmp_path, changes, message
):
    folder = written(tmp_path / "overlay", bundle)
    found = open_overlay(folder).manifest
    import msgspec

    with pytest.raises(BundleError) as error:
        require_fit(
            msgspec.structs.replace(found, **changes), bundle.manifest, bundle.sha256
        )

    wanted = message.format(
        mine=bundle.sha256[:12], estimator=found.estimator_sha256[:12]
    )
    assert str(error.value) == f"overlay.json: {wanted}. Calibrate with this bundle"


def test_an_overlay_of_another_bundle_is_not_opened_for_this_one(bundle, tmp_path):
    folder = written(tmp_path / "overlay", bundle)
    restated(folder, bundle_sha256="1" * 64)

    open_overlay(folder)
    with pytest.raises(BundleError, match="Calibrate with this bundle"):
        open_overlay(folder, bundle)


def tensors_of(folder, **changes):
    """Write other tensors, listed and hashed as they are."""
    found = load_file(folder / OVERLAY_TENSORS) | changes
    found = {name: array for name, array in found.items() if array is not None}
    save_file(found, folder / OVERLAY_TENSORS)
    listed = [
        {"name": k, "shape": list(a.shape), "dtype": a.dtype.name}
        for k, a in sorted(found.items())
    ]
    restated(folder, tensors=listed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxel_mean": np.zeros(3, "f4")}, "voxel_mean: expected float32 [2], "
         "found float32 [3]"),
        ({"voxel_mean": np.zeros(2)}, "voxel_mean: expected float32 [2], "
         "found float64 [2]"),
        ({"correction_writes": np.zeros((4, 2), "f4")}, "correction_writes: expected "
         "float32 [3, 2], found float32 [4, 2]"),
        ({"correction_reads": np.zeros((3, 2, 1), "f4")}, "correction_reads: expected "
         "float32 [3, 2], found float32 [3, 2, 1]"),
        ({"voxel_scale": np.array([1, -1], "f4")}, "voxel_scale: expected finite "
         "numbers, and no negative scale, found others among them"),
        ({"correction_reads": np.full((3, 2), np.nan, "f4")}, "correction_reads: "
         "expected finite numbers, and no negative scale, found others among them"),
        ({"correction_reads": None}, "expected correction_reads, correction_writes, "
         "voxel_mean, voxel_scale, found correction_writes, voxel_mean, voxel_scale"),
        ({"other": np.zeros(1, "f4")}, "expected correction_reads, correction_writes, "
         "voxel_mean, voxel_scale, found correction_reads, correction_writes, other, "
         "voxel_mean, voxel_scale"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_overlays_are_refused(bundle, tmp_path, changes, message):
    folder = written(tmp_path / "overlay", bundle)
    tensors_of(folder, **changes)

    with pytest.raises(BundleError) as error:
        open_overlay(folder)

    assert str(error.value) == f"overlay.safetensors: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holds": []}, "holds: expected normalisation, and correction after it or "
         "nothing, found nothing"),
        ({"holds": ["correction"]}, "holds: expected normalisation, and correction "
         "after it or nothing, found correction"),
    ],
)  # fmt: skip
def test_statements_that_cannot_be_are_refused(bundle, tmp_path, changes, message):
    folder = written(tmp_path / "overlay", bundle)
    restated(folder, **changes)

    with pytest.raises(BundleError) as error:
        open_overlay(folder)

    assert str(error.value) == f"overlay.json: {message}"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "extra.safetensors").write_bytes(b"x"), "found extra extra"),
        (lambda f: (f / OVERLAY_TENSORS).unlink(), "found missing overlay.safetensors"),
        (lambda f: _flip(f / OVERLAY_TENSORS), "expected sha256"),
        (lambda f: _flip(f / OVERLAY), "overlay.json"),
    ],
)
def test_a_folder_that_is_not_as_listed_is_refused(bundle, tmp_path, damage, message):
    folder = written(tmp_path / "overlay", bundle)
    damage(folder)

    with pytest.raises(BundleError) as error:
        open_overlay(folder)

    assert message in str(error.value)


def _flip(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def test_a_signed_overlay_is_known_by_its_signer_and_no_other(bundle, tmp_path):
    folder = written(tmp_path / "overlay", bundle)
    with pytest.raises(BundleError, match="expected a signature by author"):
        open_overlay(folder, bundle, trust=(KEY.public,))

    sha256 = sign_folder(folder, KEY)

    found = open_overlay(folder, bundle, trust=(KEY.public,))
    assert found.sha256 == sha256
    assert found.signer.name == "author"
    assert folder_signer(folder, (KEY.public,)).name == "author"
    other = signing_key("other", bytes(range(1, 33)))
    with pytest.raises(BundleError, match="expected a signature by other"):
        open_overlay(folder, bundle, trust=(other.public,))
    (folder / SIGNATURE).write_bytes(b"{}")
    with pytest.raises(BundleError):
        open_overlay(folder, bundle)


def test_a_folder_of_two_kinds_is_not_signed(bundle, tmp_path):
    folder = written(tmp_path / "overlay", bundle)
    shutil.copy(folder / OVERLAY, folder / "gallery.json")

    with pytest.raises(BundleError) as error:
        sign_folder(folder, KEY)

    assert str(error.value).endswith("found gallery.json and overlay.json")


def test_an_overlay_is_never_overwritten_and_never_half_written(bundle, tmp_path):
    folder = written(tmp_path / "overlay", bundle)
    with pytest.raises(ArtifactError, match="expected no such folder yet"):
        written(folder, bundle)
    with pytest.raises(BundleError, match="label"):
        write_overlay(
            tmp_path / "other", calibration(bundle), bundle,
            label="x" * 257, created="2026-03-04", runs=(),
        )  # fmt: skip

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="expected a place to write, found"):
        written(tmp_path / "file" / "overlay", bundle)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "overlay"]


def test_a_signed_overlay_is_not_signed_again(bundle, tmp_path):
    folder = written(tmp_path / "overlay", bundle)
    sign_folder(folder, KEY)

    with pytest.raises(UsageError):
        sign_folder(folder, KEY)
