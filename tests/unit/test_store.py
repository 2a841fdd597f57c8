"""A folder of prepared trials: what goes in comes out, and nothing else is opened."""

import shutil

import msgspec
import numpy as np
import pytest

from runtime.errors import ArtifactError, TensorMismatchError
from training.data import files as data_files
from training.data.manifest import Split, TrialsManifest, VisualSource
from training.data.store import open_trials
from training.data.writer import TrialsWriter
from training.trials import TrialSet
from training.visual.backbone import compute_latents

VOXELS, TRIALS, IMAGES, LATENT = 37, 24, 8, (8, 12)
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((TRIALS, VOXELS)).astype(np.float32)
Z_V = RNG.standard_normal((IMAGES, *LATENT)).astype(np.float16)
MEAN, STD = RNG.random((2, 2, VOXELS)).astype(np.float32)
INDICES = {
    "image": np.arange(TRIALS) % IMAGES,
    "group": np.arange(TRIALS) // 12,
    "run": np.arange(TRIALS) // 6,
    "position": np.arange(TRIALS)[::-1].copy(),
}


def manifest(**changes):
    fields = {
        "source": "nsd", "subject": "subj01", "voxels": VOXELS,
        "mask_sha256": "0" * 64, "betas": "nsd", "betas_detail": "",
        "normalisation": "session-train",
        "groups": ("a", "b"), "runs": ("1", "2", "3", "4"),
        "splits": {
            "train": Split(first=0, trials=20), "test": Split(first=20, trials=4)
        },
        "image_ids": tuple(f"image-{i}" for i in range(IMAGES)),
        "visual": VisualSource(name="file", detail=""), "files": {},
    }  # fmt: skip
    return TrialsManifest(**{**fields, **changes})


def write(folder, indices=INDICES):
    writer = TrialsWriter(folder, manifest(), TRIALS, (IMAGES, *LATENT), "float16")
    for group in range(2):
        rows = np.flatnonzero(indices["group"] == group)
        writer.write_statistics(group, MEAN[group], STD[group])
        writer.write_voxels(rows, ROWS[rows], group)
    for first in range(0, IMAGES, 3):
        writer.write_latents(first, Z_V[first : first + 3])
    return writer.finish(indices, np.arange(IMAGES))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "trials"
    write(folder)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "trials")


def test_what_was_written_is_opened_bit_for_bit(written):
    opened = open_trials(written, whole=True)

    np.testing.assert_array_equal(opened.arrays["voxels"], ROWS)
    np.testing.assert_array_equal(opened.arrays["latents"], Z_V)
    np.testing.assert_array_equal(opened.arrays["mean"], MEAN)
    np.testing.assert_array_equal(opened.arrays["std"], STD)
    for name, values in INDICES.items():
        np.testing.assert_array_equal(opened.arrays[name], values)


def test_splits_are_views_of_read_only_maps(written):
    opened = open_trials(written)
    train, test = opened.split("train"), opened.split("test")

    assert (len(train), len(test)) == (20, 4)
    for array in (train.voxels, train.latents, test.voxels):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert train.latents is test.latents
    assert train.latents.dtype == np.float16
    with pytest.raises(ArtifactError, match="splits: expected other, found train, te"):
        opened.split("other")


def test_batches_are_those_of_arrays_in_memory_bit_for_bit(written):
    mapped = open_trials(written).split("train").centred()
    plain = TrialSet(ROWS[:20], INDICES["image"][:20], Z_V.astype(np.float32))
    plain = plain.centred()
    chosen = np.array([3, 19, 0, 3])

    np.testing.assert_array_equal(mapped.voxel_rows(chosen), plain.voxel_rows(chosen))
    np.testing.assert_array_equal(mapped.z_v(chosen), plain.z_v(chosen))
    assert mapped.z_v(chosen).dtype == np.float32
    np.testing.assert_array_equal(mapped.latent_mean(), plain.latent_mean())


def test_statistics_undo_the_scaling_of_each_trials_session(written):
    opened = open_trials(written)
    chosen = np.array([0, 13])

    units = opened.in_units(ROWS[chosen], chosen)

    wanted = ROWS[chosen].astype(float) * STD + MEAN
    np.testing.assert_allclose(units, wanted, rtol=1e-6, atol=1e-6)


def edit(folder, change):
    file = folder / "manifest.json"
    found = msgspec.json.decode(file.read_bytes(), type=TrialsManifest)
    file.write_bytes(msgspec.json.encode(change(found)))


def cut(folder):
    file = folder / "latents.npy"
    file.write_bytes(file.read_bytes()[:-2])


def missing(folder):
    (folder / "run.npy").unlink()


def extra(folder):
    (folder / "notes.txt").write_text("hello")


def linked(folder):
    file = folder / "voxels.npy"
    file.rename(folder.parent / "real.npy")
    file.symlink_to(folder.parent / "real.npy")


def doubles(folder):
    # Of the same length, so that only the type can show it.
    np.save(folder / "voxels.npy", ROWS.view(np.int32))


def reshaped(folder):
    np.save(folder / "voxels.npy", ROWS.reshape(VOXELS, TRIALS))


def not_a_number(folder):
    rows = ROWS.copy()
    rows[3, 5] = np.nan
    np.save(folder / "voxels.npy", rows)


def flipped(folder):
    rows = ROWS.copy()
    rows[3, 5] = -rows[3, 5]
    np.save(folder / "voxels.npy", rows)


def pickled(folder):
    file = folder / "voxels.npy"
    size = file.stat().st_size
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    file.write_bytes(file.read_bytes().ljust(size, b"\0"))


def unknown_key(folder):
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b"{", b'{"more": 1,', 1))


def twice(folder):
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b"{", b'{"voxels": 37,', 1))


def fewer_images(folder):
    edit(folder, lambda m: msgspec.structs.replace(m, image_ids=m.image_ids[:-1]))


def other_voxels(folder):
    edit(folder, lambda m: msgspec.structs.replace(m, voxels=VOXELS + 1))


def gap(folder):
    splits = {"train": Split(first=0, trials=20), "test": Split(first=21, trials=3)}
    edit(folder, lambda m: msgspec.structs.replace(m, splits=splits))


def no_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "where", "line"),
    [
        (cut, "latents.npy", "bytes: expected 1,664, found 1,662"),
        (missing, "trials", "expected the files .* found missing run.npy"),
        (extra, "trials", "expected the files .* found extra notes.txt"),
        (linked, "voxels.npy", "expected a plain file, found none"),
        (doubles, "voxels.npy", "dtype: expected float32, found int32"),
        (reshaped, "voxels.npy", r"shape: expected \(24, 37\) .* found \(37, 24\)"),
        (not_a_number, "voxels.npy", r"values: expected finite .* at \[3, 5\]"),
        (flipped, "voxels.npy", r"sha256: expected \w+\.\.\., found"),
        (
            pickled,
            "voxels.npy",
            "expected an .npy file of plain numbers, found another file "
            r"\(an .npy file, cut or of objects\)",
        ),
        (unknown_key, "manifest.json", "unknown field `more`"),
        (twice, "manifest.json", "found 'voxels' twice"),
        (fewer_images, "manifest.json", r"files.latents.npy.shape: expected \(7, 8, 1"),
        (other_voxels, "manifest.json", "files.voxels.npy.shape: expected"),
        (gap, "manifest.json", "splits.test.first: expected 20, found 21"),
        (no_manifest, "manifest.json", "expected the manifest of prepared trials"),
    ],
)
def test_a_harmed_folder_is_refused_with_file_field_expected_and_found(
    copy, harm, where, line
):
    harm(copy)

    with pytest.raises(ArtifactError, match=line) as caught:
        open_trials(copy)

    assert where in str(caught.value)


def test_an_image_index_without_a_row_of_latents_is_refused(tmp_path):
    image = INDICES["image"].copy()
    image[2] = IMAGES
    write(tmp_path / "trials", {**INDICES, "image": image})

    with pytest.raises(ArtifactError, match=r"image.npy: values: .* found 8 at tri"):
        open_trials(tmp_path / "trials")


def test_large_files_are_sampled_unless_all_is_asked_for(copy, monkeypatch):
    monkeypatch.setattr(data_files, "WHOLE_LIMIT_BYTES", 100)
    monkeypatch.setattr(data_files, "WINDOWS", 3)
    monkeypatch.setattr(data_files, "WINDOW_BYTES", 16)
    voxels = data_files.describe(
        copy / "voxels.npy", np.load(copy / "voxels.npy", mmap_mode="r")
    )
    for name in ("latents", "mean", "std", "latent_mean", *INDICES):
        entry = data_files.describe(
            copy / f"{name}.npy", np.load(copy / f"{name}.npy", mmap_mode="r")
        )
        edit(
            copy,
            lambda m, name=name, entry=entry: msgspec.structs.replace(
                m, files={**m.files, f"{name}.npy": entry, "voxels.npy": voxels}
            ),
        )
    flipped(copy)

    open_trials(copy)
    with pytest.raises(ArtifactError, match=r"voxels.npy: sha256: expected"):
        open_trials(copy, whole=True)


def test_a_note_that_outlived_its_manifest_does_not_matter(copy):
    (copy / "progress.json").write_text("{}")

    assert len(open_trials(copy).split("train")) == 20


@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_folder_that_holds_something_is_not_written_into(
    written, tmp_path, is_prepared
):
    (tmp_path / "letter.txt").write_text("dear")
    folder = written if is_prepared else tmp_path

    with pytest.raises(ArtifactError, match="Choose another --out"):
        write(folder)


def test_latents_come_in_order(tmp_path):
    writer = TrialsWriter(
        tmp_path / "t", manifest(), TRIALS, (IMAGES, *LATENT), "float16"
    )
    writer.write_latents(0, Z_V[:3])

    with pytest.raises(ArtifactError, match="expected image 3 next, found 4"):
        writer.write_latents(4, Z_V[4:])


class Pictures:
    """Numbers the pictures that it is shown."""

    source = VisualSource(name="file", detail="")
    shape = LATENT

    def __init__(self):
        self.seen = []

    def latents(self, pictures):
        rows = pictures[:, 0, 0, 0].tolist()
        self.seen += rows
        return Z_V[rows].astype(np.float32)


def test_each_picture_is_computed_once_however_often_one_is_interrupted(tmp_path):
    bricks = np.zeros((IMAGES, 2, 2, 3), dtype=np.uint8)
    bricks += np.arange(IMAGES, dtype=np.uint8)[:, None, None, None]
    backbone = Pictures()

    def begin():
        return TrialsWriter(
            tmp_path / "t", manifest(), TRIALS, (IMAGES, *LATENT), "float16"
        )

    def stop(_done, _all):
        raise KeyboardInterrupt

    while begin().latents_done < IMAGES:
        with pytest.raises(KeyboardInterrupt):
            compute_latents(
                begin(), backbone, bricks.__getitem__, IMAGES, batch=3, on_image=stop
            )

    assert backbone.seen == list(range(IMAGES))
    np.testing.assert_array_equal(np.load(tmp_path / "t" / "latents.npy"), Z_V)


def test_a_disk_that_is_too_small_says_so_at_once(tmp_path):
    with pytest.raises(ArtifactError, match=r"a.npy: expected room for .* bytes"):
        data_files.create_array(tmp_path / "a.npy", "float32", (2**30, 2**12))

    assert not (tmp_path / "a.npy").exists()


def test_no_value_that_is_not_finite_is_ever_written(tmp_path):
    writer = TrialsWriter(
        tmp_path / "t", manifest(), TRIALS, (IMAGES, *LATENT), "float16"
    )
    rows = ROWS.copy()
    rows[1, 2] = np.inf

    with pytest.raises(TensorMismatchError, match=r"block 0: .* at \[1, 2\]"):
        writer.write_voxels(np.arange(TRIALS), rows, 0)
    assert writer.blocks_done == 0
