"""Predictions that are kept: of this bundle and this image, whole, or refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from runtime.errors import ArtifactError, BundleError, TensorMismatchError
from runtime.predictions import (
    PredictionFolder,
    Predictions,
    predict_all,
    prepare,
    prepared,
)
from tests.linear_model import LinearModel, gallery_latents

VOXELS = 7
BUNDLE, OTHER = "ab" * 32, "cd" * 32
LATENTS = gallery_latents(items=5)
NAMES = [f"image-{k}" for k in range(5)]


def folder_of(place, sha256=BUNDLE):
    return PredictionFolder(place, sha256, *LATENTS.shape[1:], VOXELS)


@pytest.fixture
def model():
    return LinearModel(VOXELS)


@pytest.fixture
def kept(tmp_path, model):
    folder = folder_of(tmp_path / "predictions")
    assert prepare(folder, model, list(LATENTS)) == len(LATENTS)
    return folder


def file_of(kept, z_v):
    alone = PredictionFolder(kept.folder / "x", BUNDLE, *LATENTS.shape[1:], VOXELS)
    return kept.folder / alone._file(z_v).name


def test_what_was_prepared_is_what_is_predicted(kept, model):
    found = prepared(kept, LATENTS[[3, 1]], ["three", "one"])
    wanted = predict_all(model, LATENTS[[3, 1]])

    np.testing.assert_array_equal(found.z_n, wanted.z_n)
    np.testing.assert_array_equal(found.voxels, wanted.voxels)
    np.testing.assert_array_equal(wanted.z_n[0], model.encode_latent(LATENTS[3]))


def test_what_was_interrupted_goes_on_where_it_stopped(tmp_path, model):
    folder, told = folder_of(tmp_path / "predictions"), []

    class StoppedError(Exception):
        pass

    def stop(done, _total):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare(folder, model, list(LATENTS), stop)
    first = {file: file.stat().st_mtime_ns for file in folder.folder.iterdir()}
    again = prepare(folder, model, list(LATENTS), lambda *said: told.append(said))

    assert len(first) == 2
    assert again == 3
    assert told == [(k, 5) for k in range(1, 6)]
    assert {file: file.stat().st_mtime_ns for file in first} == first
    assert prepare(folder, model, list(LATENTS)) == 0


def test_a_file_appears_complete_or_not_at_all(kept, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.predictions.os.fsync", full)
    other = gallery_latents(items=1, seed=9)[0]
    with pytest.raises(ArtifactError) as error:
        kept.keep(other, kept.read(LATENTS[0]))

    assert str(error.value) == (
        f"{kept.folder}: expected a place to write, found No space left on device"
    )
    assert not kept.holds(other)
    assert len(list(kept.folder.iterdir())) == len(LATENTS)


def test_an_image_that_is_missing_is_named(kept):
    others = np.concatenate([LATENTS[:2], gallery_latents(items=2, seed=9)])

    with pytest.raises(ArtifactError) as one:
        prepared(kept, others[:3], ["a", "b", "stim-7"])
    with pytest.raises(ArtifactError) as two:
        prepared(kept, others, ["a", "b", "stim-7", "stim-8"])

    assert str(one.value) == (
        f"{kept.folder}: expected predictions of 3 images, found none of stim-7. "
        "Prepare them with prepare-calibration"
    )
    assert str(two.value) == (
        f"{kept.folder}: expected predictions of 4 images, found none of stim-7 and "
        "1 others. Prepare them with prepare-calibration"
    )


def test_predictions_of_another_bundle_are_refused(kept, model):
    other = folder_of(kept.folder, OTHER)
    wanted = (
        ": expected a prediction of bundle cdcdcdcdcdcd, found one of abababababab. "
        "Prepare another folder with this bundle"
    )
    calls = [
        other.require_own,
        lambda: other.read(LATENTS[0]),
        lambda: prepared(other, LATENTS, NAMES),
        lambda: prepared(other, gallery_latents(items=2, seed=9), NAMES[:2]),
        lambda: prepare(other, model, list(LATENTS)),
    ]

    for call in calls:
        with pytest.raises(ArtifactError) as error:
            call()
        assert str(error.value).endswith(wanted)
    kept.require_own()
    folder_of(kept.folder / "nowhere").require_own()


def test_a_file_that_was_cut_short_is_refused(kept):
    file = file_of(kept, LATENTS[0])
    file.write_bytes(file.read_bytes()[:-3])

    with pytest.raises(ArtifactError) as error:
        prepared(kept, LATENTS, NAMES)

    assert str(error.value) == (
        f"{file.name}: expected safetensors, found Error while deserializing: "
        "incomplete metadata, file not fully covered. Remove it, and prepare it again"
    )


@pytest.mark.parametrize("where", [0, 9, -1])
def test_no_byte_can_be_another(kept, where):
    file = file_of(kept, LATENTS[0])
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(bytes(data))

    with pytest.raises(ArtifactError):
        kept.read(LATENTS[0])


def test_another_images_prediction_is_refused(kept):
    first, second = file_of(kept, LATENTS[0]), file_of(kept, LATENTS[1])
    first.write_bytes(second.read_bytes())

    with pytest.raises(ArtifactError) as error:
        kept.read(LATENTS[0])

    assert str(error.value).startswith(f"{first.name}: expected sha256 ")
    assert str(error.value).endswith(". Remove it, and prepare it again")


def test_another_shape_is_refused(kept):
    file = file_of(kept, LATENTS[0])
    arrays = load_file(file)
    save_file(arrays | {"voxels": arrays["voxels"][:, 1:]}, file,
              {"bundle_sha256": BUNDLE})  # fmt: skip

    with pytest.raises(ArtifactError) as error:
        kept.read(LATENTS[0])

    assert str(error.value) == (
        f"{file.name}: voxels: expected float32 [1, 7], found float32 [1, 6]. "
        "Remove it, and prepare it again"
    )


def test_a_link_and_what_is_too_long_are_refused(kept, tmp_path):
    file = file_of(kept, LATENTS[0])
    aside = file.rename(tmp_path / "aside")
    file.symlink_to(aside)
    with pytest.raises(BundleError) as link:
        kept.read(LATENTS[0])

    long = file_of(kept, LATENTS[1])
    long.write_bytes(long.read_bytes() + bytes(5000))
    with pytest.raises(BundleError) as error:
        kept.read(LATENTS[1])

    assert "found a symbolic link" in str(link.value)
    assert "expected at most" in str(error.value)


def test_a_header_that_says_a_key_twice_is_refused(kept):
    file = file_of(kept, LATENTS[0])
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = data[8 : 8 + length].rstrip()
    said = json.dumps(json.loads(head)["__metadata__"]).encode()
    twice = head[:-1] + b',"__metadata__":' + said + b"}"
    file.write_bytes(len(twice).to_bytes(8, "little") + twice + data[8 + length :])

    with pytest.raises(ArtifactError):
        kept.read(LATENTS[0])


def test_what_is_not_finite_is_never_kept(kept):
    whole = kept.read(LATENTS[0])
    broken = Predictions(whole.z_n * np.float32(np.nan), whole.voxels)

    with pytest.raises(TensorMismatchError) as error:
        kept.keep(LATENTS[0], broken)

    assert str(error.value) == (
        "prediction: expected finite numbers, found others among them"
    )


def test_a_file_that_says_nothing_of_its_bundle_is_refused(kept):
    file = file_of(kept, LATENTS[0])
    file.write_bytes(save(load_file(file)))

    with pytest.raises(ArtifactError) as error:
        kept.read(LATENTS[0])

    assert str(error.value) == (
        f"{file.name}: expected a prediction of bundle abababababab, found one of "
        "none. Prepare another folder with this bundle"
    )
