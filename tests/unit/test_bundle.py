"""A bundle or gallery is exactly what its manifest lists, or it is refused."""

import os
import pickle
import resource
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bci_bridge.header import Text
from runtime.bundle import (
    MANIFEST,
    TENSORS,
    Manifest,
    TensorSpec,
    decode_manifest,
    encode_manifest,
    open_bundle,
    require_live,
    write_manifest,
)
from runtime.errors import ArtifactError, BundleError, TensorMismatchError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.gallery import (
    MOST_CHARACTERS,
    Confidence,
    _mapped,
    open_gallery,
    write_gallery,
)
from runtime.manifest import LatentSpec
from runtime.preprocess import Hrf
from runtime.sealed import FileSpec, check_listing, seal
from tests.sealed_folder import SHA, write_folder

GRAPH = "graphs/encoder.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "bundle")
    return tmp_path / "bundle"


def refusal(folder: Path, cache: Path | None = None) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, cache)
    return str(caught.value)


def relisted(folder: Path, **changes: object) -> None:
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).unlink()
    changes = {"files": seal(folder)} | changes
    write_manifest(folder, msgspec.structs.replace(manifest, **changes))


def test_an_untouched_bundle_opens_from_a_private_copy(folder):
    with open_bundle(folder) as bundle:
        copied = {p.name: p.stat().st_mode & 0o777 for p in bundle.folder.rglob("*.*")}
        private = bundle.folder.stat().st_mode & 0o777
        place = bundle.folder

    assert private == 0o700
    assert set(copied.values()) == {0o600}
    assert not place.is_relative_to(folder)
    assert not place.exists()
    assert bundle.mask.sum() == bundle.manifest.voxels.count


def test_what_was_checked_is_what_is_read_later(folder):
    with open_bundle(folder) as bundle:
        original = bundle.graph_file("encoder").read_bytes()
        (folder / GRAPH).write_bytes(b"\x08 swapped after the check")

        assert bundle.graph_file("encoder").read_bytes() == original


def test_the_hash_of_a_bundle_is_the_hash_of_its_manifest(folder):
    with open_bundle(folder) as before:
        pass
    relisted(folder, subject="02")
    with open_bundle(folder) as after:
        pass

    assert before.sha256 != after.sha256


def test_a_cache_keeps_one_copy_by_content_and_repairs_it(folder, tmp_path):
    cache = tmp_path / "cache"
    first = open_bundle(folder, cache)
    first.close()
    (first.folder / GRAPH).write_bytes(b"\x08 damaged in the cache")

    second = open_bundle(folder, cache)

    assert first.folder == second.folder == cache / first.sha256
    assert (second.folder / GRAPH).read_bytes() == (folder / GRAPH).read_bytes()
    assert os.listdir(cache) == [first.sha256]


def test_a_cache_that_others_can_write_to_is_refused(folder, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)

    assert refusal(folder, cache) == (
        f"cache {cache}: expected your own folder with mode 0700, found mode 0777 of "
        f"user {os.getuid()}. Run chmod 700 on it."
    )


def test_a_cache_that_cannot_be_reached_or_is_a_link_is_one_line(folder, tmp_path):
    far, link = tmp_path / ("x" * 300), tmp_path / "link"
    link.symlink_to(tmp_path)

    with pytest.raises(ArtifactError) as unreachable:
        open_bundle(folder, far)
    with pytest.raises(ArtifactError) as linked:
        open_bundle(folder, link)

    assert str(unreachable.value) == (
        f"cache {far}: expected your own folder, or a place to make it, found file "
        "name too long. Name another folder."
    )
    assert str(linked.value) == (
        f"cache {link}: expected your own folder with mode 0700, found a link. Name "
        "the folder that it leads to."
    )


def test_missing_and_extra_files_are_named(folder):
    (folder / GRAPH).rename(folder / "graphs/other.onnx")

    assert refusal(folder) == (
        "bundle: expected exactly the 4 files that manifest.json lists, "
        "found missing graphs/encoder.onnx; extra graphs/other.onnx"
    )


def test_another_size_is_named(folder):
    with (folder / GRAPH).open("ab") as file:
        file.write(b"x")

    assert refusal(folder) == (
        "graphs/encoder.onnx: expected 52 bytes, found 53. Copy the folder again."
    )


def test_one_flipped_bit_is_named_with_both_hashes(folder):
    data = bytearray((folder / GRAPH).read_bytes())
    data[-1] ^= 1
    (folder / GRAPH).write_bytes(data)

    message = refusal(folder)

    assert message.startswith("graphs/encoder.onnx: expected sha256 ")
    assert message.endswith(". Copy the folder again.")


def _symlink(path: Path, spare: Path) -> None:
    path.rename(spare)
    path.symlink_to(spare)


def _hard_link(path: Path, spare: Path) -> None:
    os.link(path, spare)


def _pipe(path: Path, spare: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("swap", "found"),
    [
        (_symlink, "a symbolic link"),
        (_hard_link, "a file with 2 hard links"),
        (_pipe, "a folder, pipe, socket or device"),
    ],
)
@pytest.mark.parametrize("name", [GRAPH, MANIFEST])
def test_what_is_not_a_plain_file_is_refused(folder, tmp_path, swap, found, name):
    swap(folder / name, tmp_path / "spare")

    assert refusal(folder) == (
        f"{name}: expected a plain file with one name, found {found}. "
        "Copy the folder without links."
    )


def test_a_link_to_a_bundle_is_said_to_be_one(folder, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(folder)

    with pytest.raises(BundleError) as caught:
        open_bundle(link)

    assert str(caught.value) == (
        f"{link}: expected a folder with manifest.json, found a link. Name the folder "
        "that it leads to."
    )


def test_a_linked_folder_inside_is_refused(folder, tmp_path):
    (folder / "graphs").rename(tmp_path / "graphs")
    (folder / "graphs").symlink_to(tmp_path / "graphs")

    assert "missing graphs/encoder.onnx" in refusal(folder)


def test_a_pickle_under_a_harmless_name_is_refused(folder):
    (folder / GRAPH).write_bytes(pickle.dumps({"weights": 1}))

    with pytest.raises(BundleError) as caught:
        relisted(folder)

    assert str(caught.value) == (
        "graphs/encoder.onnx: expected an ONNX graph, "
        "found a pickle, which is never opened"
    )


def test_a_listed_zip_is_refused_although_its_hash_is_right(folder):
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    with zipfile.ZipFile(folder / GRAPH, "w") as archive:
        archive.writestr("data.pkl", b"")
    import hashlib

    data = (folder / GRAPH).read_bytes()
    files = tuple(
        FileSpec(path=GRAPH, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        if spec.path == GRAPH
        else spec
        for spec in manifest.files
    )
    write_manifest(folder, msgspec.structs.replace(manifest, files=files))

    assert refusal(folder) == (
        "graphs/encoder.onnx: expected an ONNX graph, found a zip archive "
        "(.pt, .npz or another), which is never opened"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd.onnx",
        "../x.onnx",
        "a/../x.onnx",
        "a//x.onnx",
        "./x.onnx",
        "",
        "a\\x.onnx",
        "x.pt",
        "x.pkl",
        "manifest.json",
        "a/",
        "x\0.onnx",
        ".x.onnx",
        "-x.onnx",
        "C:/x.onnx",
        "enc\u200boder.onnx",
        "\u0435ncoder.onnx",
        "x\n.onnx",
    ],
)
def test_an_unsafe_path_is_never_listed(path):
    with pytest.raises(BundleError):
        check_listing([FileSpec(path=path, size=1, sha256=SHA)])


def test_two_names_that_differ_in_capitals_only_are_one():
    listing = [FileSpec(path=path, size=1, sha256=SHA) for path in ("a.onnx", "A.onnx")]

    with pytest.raises(BundleError, match="listed once, found twice"):
        check_listing(listing)


def test_a_key_that_is_said_twice_is_refused(folder):
    text = (
        (folder / MANIFEST).read_text().replace('"subject"', '"subject":"02","subject"')
    )
    (folder / MANIFEST).write_text(text)

    assert refusal(folder) == (
        f"{folder}/manifest.json: expected every key once, found 'subject' twice"
    )


def test_a_count_that_no_machine_holds_is_refused(folder):
    text = (folder / MANIFEST).read_text().replace('"count": 2', f'"count": {10**30}')
    (folder / MANIFEST).write_text(text)

    assert "`int` <= 2147483647" in refusal(folder)


def test_a_listing_beyond_the_size_cap_is_refused_before_any_file_is_read():
    listing = [FileSpec(path="a.onnx", size=10**12, sha256=SHA)]

    with pytest.raises(BundleError, match="at most 17179869184 bytes in all"):
        check_listing(listing)


def test_an_unknown_field_of_the_manifest_is_refused(folder):
    text = (folder / MANIFEST).read_text().replace('"subject"', '"latnet": 1,"subject"')
    (folder / MANIFEST).write_text(text)

    assert refusal(folder) == (
        f"{folder}/manifest.json: expected fields that this version knows, found "
        "unknown field `latnet`. Perhaps it is of another version of neuroflow-rt: use "
        "that one, or make it again with this one."
    )


def test_a_manifest_of_another_version_is_told_with_what_to_do(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(
        text.replace('"schema_version": 1', '"schema_version": 2')
    )

    assert refusal(folder) == (
        f"{folder}/manifest.json: schema_version: expected 1, found 2. It is of "
        "another version of neuroflow-rt: use that one, or make it again with this one."
    )
    with pytest.raises(BundleError, match=f"^{folder}/manifest.json: schema_version"):
        require_live(folder)


def test_a_manifest_is_the_same_bytes_after_a_round_trip(folder):
    data = (folder / MANIFEST).read_bytes()

    assert encode_manifest(decode_manifest(data)) == data


def test_an_estimator_of_the_other_input_kind_is_refused(folder):
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    other = msgspec.structs.replace(manifest, estimator=VolumeEstimator())
    write_manifest(folder, other)

    assert refusal(folder) == (
        f"{folder}/manifest.json: expected an estimator of kind beta, found volume"
    )


def test_a_mask_that_is_not_the_stated_one_is_refused(folder):
    manifest: Manifest = decode_manifest((folder / MANIFEST).read_bytes())
    voxels = msgspec.structs.replace(manifest.voxels, mask_sha256=SHA)
    write_manifest(folder, msgspec.structs.replace(manifest, voxels=voxels))

    assert refusal(folder).startswith(
        f"tensors.safetensors: mask: expected sha256 {SHA}, found "
    )


def test_another_voxel_order_than_stated_is_refused(folder):
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    voxels = msgspec.structs.replace(manifest.voxels, voxel_order_sha256=SHA)
    write_manifest(folder, msgspec.structs.replace(manifest, voxels=voxels))

    assert refusal(folder).startswith(
        f"tensors.safetensors: mask: expected voxel order {SHA}, found "
    )


@pytest.mark.parametrize(
    ("index", "found"),
    [
        (None, "hrf_index: expected shape [2], found none"),
        ([0, 2], "hrf_index: expected 0 to 1, found 0 to 2"),
    ],
)
def test_a_library_of_responses_without_each_voxels_choice_is_refused(
    folder, index, found
):
    estimator = BetaEstimator(hrf_library=(Hrf(), Hrf(peak_s=5.0)))
    changes = {"estimator": estimator}
    if index is not None:
        manifest = decode_manifest((folder / MANIFEST).read_bytes())
        chosen = np.array(index, dtype=np.int64)
        save_file(load_file(folder / TENSORS) | {"hrf_index": chosen}, folder / TENSORS)
        spec = TensorSpec(name="hrf_index", shape=(2,), dtype="int64")
        changes["tensors"] = (*manifest.tensors, spec)
    relisted(folder, **changes)

    assert refusal(folder) == f"tensors.safetensors: {found}"


def test_a_refused_bundle_leaves_nothing_in_the_cache(folder, tmp_path):
    (folder / GRAPH).write_bytes(b"\x08" * 52)

    refusal(folder, tmp_path / "cache")

    assert os.listdir(tmp_path / "cache") == []


def sizes_of(folder: Path) -> int:
    files = decode_manifest((folder / MANIFEST).read_bytes()).files
    return sum(spec.size for spec in files)


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_disk_without_room_is_one_line_that_names_folder_and_bytes(
    folder, tmp_path, monkeypatch, is_kept
):
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _path: SimpleNamespace(free=sizes_of(folder) - 1)
    )

    with pytest.raises(ArtifactError) as caught:
        open_bundle(folder, place if is_kept else None)

    end = "." if is_kept else ", or set TMPDIR to another folder."
    assert str(caught.value) == (
        f"{place}: expected room for a private copy of bundle, {sizes_of(folder)} "
        f"bytes, found {sizes_of(folder) - 1} bytes free. Make room{end}"
    )
    assert os.listdir(place) == []


def test_a_disk_that_fills_up_while_it_is_copied_to_is_the_same_line(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        with pytest.raises(ArtifactError) as caught:
            open_bundle(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert str(caught.value) == (
        f"{tmp_path}: expected room for a private copy of bundle, {sizes_of(folder)} "
        "bytes, found file too large. Make room, or set TMPDIR to another folder."
    )
    assert set(tmp_path.iterdir()) == before


def test_a_kept_copy_that_is_sound_is_not_made_from_the_folder_again(folder, tmp_path):
    cache = tmp_path / "cache"
    first = open_bundle(folder, cache)
    places = {path: path.stat().st_ino for path in first.folder.rglob("*")}
    # Of the same size; whoever read it would refuse it.
    (folder / GRAPH).write_bytes(b"\x08" * (folder / GRAPH).stat().st_size)

    second = open_bundle(folder, cache)

    assert {path: path.stat().st_ino for path in second.folder.rglob("*")} == places


def test_a_kept_copy_with_a_file_too_many_is_made_anew(folder, tmp_path):
    cache = tmp_path / "cache"
    kept = open_bundle(folder, cache).folder
    (kept / "graphs/other.onnx").write_bytes(b"\x08")

    open_bundle(folder, cache)

    assert sorted(p.name for p in (kept / "graphs").iterdir()) == [
        "encoder.onnx",
        "flow.weights",
    ]


def test_a_folder_without_manifest_is_one_clear_line(tmp_path):
    assert refusal(tmp_path) == (
        f"manifest.json: expected a file in {tmp_path.name}, found none "
        "(No such file or directory)"
    )


LATENTS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def gallery(out: Path, **changes: object) -> str:
    given: dict[str, object] = {
        "latents": LATENTS,
        "ids": ["a", "b"],
        "labels": ["cat", "dog"],
        "images": np.zeros((2, 5, 6, 3), np.uint8),
    }
    return write_gallery(out, **(given | changes))


def test_a_gallery_comes_back_as_it_was_written(tmp_path):
    sha256 = gallery(tmp_path / "gallery")

    opened = open_gallery(tmp_path / "gallery", LatentSpec(tokens=3, width=4))

    np.testing.assert_array_equal(opened.latents, LATENTS)
    assert (opened.ids, opened.labels) == (("a", "b"), ("cat", "dog"))
    assert opened.sha256 == sha256
    assert opened.confidence_for(SHA) is None


def test_a_calibration_serves_its_own_bundle_only(tmp_path):
    confidence = Confidence(bundle_sha256=SHA, temperature=0.1)
    gallery(tmp_path / "gallery", confidence=confidence)

    opened = open_gallery(tmp_path / "gallery")

    assert opened.confidence_for(SHA) == confidence
    with pytest.raises(BundleError) as error:
        opened.confidence_for("1" * 64)
    assert str(error.value) == (
        "gallery.json: confidence: expected a calibration for bundle 111111111111, "
        f"found one for {SHA[:12]}. Give the gallery that neuroflow export wrote "
        "beside this bundle"
    )


def test_what_a_gallery_let_go_can_be_read_again(tmp_path):
    gallery(tmp_path / "gallery")
    opened = open_gallery(tmp_path / "gallery")

    opened.let_go()

    np.testing.assert_array_equal(opened.latents, LATENTS)
    assert not opened.latents.flags.writeable


def test_tensors_are_found_beside_a_files_own_metadata(tmp_path):
    file = tmp_path / "with.safetensors"
    arrays = {"latents": LATENTS, "images": np.ones((2, 3), np.uint8)}
    save_file(arrays, file, metadata={"written": "by another"})

    _, found = _mapped(file, arrays)

    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_gallery_of_another_latent_shape_is_refused(tmp_path):
    gallery(tmp_path / "gallery")

    with pytest.raises(BundleError) as caught:
        open_gallery(tmp_path / "gallery", LatentSpec(tokens=9, width=4))

    assert str(caught.value) == (
        f"{tmp_path}/gallery/gallery.json: latent: expected 9 x 4 as in the bundle, "
        "found 3 x 4"
    )


def test_a_gallery_of_another_version_is_named_with_its_folder(tmp_path):
    gallery(tmp_path / "gallery")
    file = tmp_path / "gallery/gallery.json"
    file.write_bytes(
        file.read_bytes().replace(b'"schema_version":1', b'"schema_version":2')
    )

    with pytest.raises(BundleError) as caught:
        open_gallery(tmp_path / "gallery")

    assert str(caught.value) == (
        f"{file}: schema_version: expected 1, found 2. It is of another version of "
        "neuroflow-rt: use that one, or make it again with this one."
    )


@pytest.mark.parametrize(
    "changes",
    [{"ids": ["a", "a"]}, {"labels": ["cat"]}, {"latents": LATENTS * np.nan}],
)
def test_an_inconsistent_gallery_is_never_written(tmp_path, changes):
    with pytest.raises(TensorMismatchError):
        gallery(tmp_path / "gallery", **changes)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["ids", "labels"])
def test_a_text_that_no_outcome_could_carry_is_refused(tmp_path, monkeypatch, name):
    texts = ["a", "b" * 513]
    with pytest.raises(TensorMismatchError, match="512 characters each, found one of"):
        gallery(tmp_path / "gallery", **{name: texts})
    monkeypatch.setattr("runtime.gallery.MOST_CHARACTERS", 600)
    gallery(tmp_path / "gallery", **{name: texts})
    monkeypatch.undo()

    with pytest.raises(BundleError) as raised:
        open_gallery(tmp_path / "gallery")

    assert str(raised.value) == (
        f"{tmp_path}/gallery/gallery.json: {name}: expected at most 512 characters "
        "each, found one of 513"
    )
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(texts[1], Text)
    assert msgspec.convert(texts[1][:MOST_CHARACTERS], Text)


def test_a_gallery_is_never_overwritten(tmp_path):
    gallery(tmp_path / "gallery")

    with pytest.raises(ArtifactError, match="expected no such folder yet"):
        gallery(tmp_path / "gallery")
