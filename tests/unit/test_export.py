"""What an export holds, as nibabel, h5py, csv and pandas read it."""

import csv
import gzip
import json
import re
import sys
import tracemalloc

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bci_bridge.exports import nifti
from bci_bridge.exports.export import export
from bci_bridge.messages import Volume
from bci_bridge.wire import encode
from runtime.errors import BackendError, RecordingError, UsageError
from tests.integration.tiny import SHAPE, MeanDecoder
from tests.recorded import AFFINE, SECOND, Rig, noise, simple_recording

KINDS = ("i2", "u2", "i4", "f4")
MISSING = {2: "SKIPPED", 5: "SOURCE"}
FUNC = "sub-01/ses-ab/func/sub-01_ses-ab_task-watch_run-1"
UNKNOWN = "sub-unknown/func/sub-unknown_task-unknown_run-1"


def written(recording, kind, **options):
    out = recording / "out"
    return export(recording, out, kind, version="1.2.3", **options), out


def json_of(file):
    return json.loads(file.read_text("utf-8"))


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def require_volumes(image, kind, filling):
    """Hold a 4-D array against what was sent, acquisition by acquisition."""
    voxels = np.asanyarray(image)
    assert voxels.shape == (*SHAPE, 7)
    assert voxels.dtype == np.dtype(f"<{kind}")
    for index in range(7):
        wanted = noise(index, kind) if index not in MISSING else filling
        np.testing.assert_array_equal(voxels[..., index], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_nifti_holds_exactly_what_was_sent(tmp_path, kind):
    exported, out = written(simple_recording(tmp_path, kind), "nifti")

    image = nib.load(out / "run-1.nii")
    require_volumes(image.dataobj, kind, np.nan if kind == "f4" else 0)
    affine = np.array(AFFINE, np.float32).reshape(4, 4)
    np.testing.assert_array_equal(image.affine, affine)
    assert image.header["pixdim"][4] == 1.5
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    said = json_of(out / "run-1.json")
    assert said["MissingVolumes"] == [
        {"Index": index, "Reason": why} for index, why in MISSING.items()
    ]
    assert said["MissingVolumesFilledWith"] == ("NaN" if kind == "f4" else 0)
    assert (said["RepetitionTime"], said["Affine"]) == (1.5, list(AFFINE))
    assert exported.losses == []
    assert {file.name for file in out.iterdir()} == {
        name for files in exported.files.values() for name in files
    }


def test_a_run_without_affine_says_so_in_its_header(tmp_path):
    _, out = written(simple_recording(tmp_path), "nifti", run="other.run+2")

    header = nib.load(out / "other.run+2.nii").header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)
    assert [file.name for file in sorted(out.iterdir())] == [
        "other.run+2.json", "other.run+2.nii"
    ]  # fmt: skip
    assert json_of(out / "other.run+2.json")["IsAborted"] is True


@pytest.mark.parametrize(
    ("affine", "codes"),
    [
        ((1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1), (1, 0)),
        ((0,) * 15 + (1,), (0, 0)),
        ((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1), (0, 0)),
        ((1e300, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1), (0, 0)),
    ],
    ids=["sheared", "singular", "no affine", "too large"],
)
def test_an_affine_that_a_header_cannot_hold_is_in_the_sidecar(tmp_path, affine, codes):
    affine = tuple(map(float, affine))
    with Rig(tmp_path) as rig:
        rig.start(affine=affine)
        rig.volume(0, noise(0))
        rig.end(1)

    _, out = written(tmp_path, "nifti")

    image = nib.load(out / "run-1.nii")
    found = (image.header["sform_code"], image.header["qform_code"])
    assert found == codes
    if codes[0]:
        np.testing.assert_array_equal(image.affine, np.reshape(affine, (4, 4)))
    assert json_of(out / "run-1.json")["Affine"] == list(affine)


def test_more_volumes_than_nifti_1_counts_make_a_nifti_2(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "LONGEST", 6)

    _, out = written(simple_recording(tmp_path, "f4"), "nifti")

    image = nib.load(out / "run-1.nii")
    assert isinstance(image, nib.Nifti2Image)
    require_volumes(image.dataobj, "f4", np.nan)
    assert isinstance(nib.load(out / "other.run+2.nii"), nib.Nifti1Image)


def test_volumes_of_several_types_are_kept_in_one_that_holds_them_all(tmp_path):
    with Rig(tmp_path) as rig:
        rig.start()
        for index, kind in enumerate(KINDS):
            rig.volume(index, noise(index, kind), kind)
        rig.end(4)

    _, out = written(tmp_path, "nifti")

    voxels = np.asanyarray(nib.load(out / "run-1.nii").dataobj)
    assert voxels.dtype == np.float64
    for index, kind in enumerate(KINDS):
        np.testing.assert_array_equal(voxels[..., index], noise(index, kind))
    assert json_of(out / "run-1.json")["SentVoxelTypes"] == sorted(KINDS)


def test_late_refused_and_misshapen_volumes_are_told_apart(tmp_path):
    with Rig(tmp_path) as rig:
        rig.start()
        rig.volume(0, noise(0))
        rig.given_up(1)
        # Acquired after the first, as an instant has to be that is believed.
        rig.now += 6 * SECOND
        rig.volume(2, noise(2), late_ns=3 * SECOND)
        rig.volume(1, noise(1))
        rig.volume(1, noise(9))
        rig.volume(3, np.zeros((1, 1, 1)))
        rig.volume(2, noise(9))
        rig.event("t-1", 1.0)
        rig.event("t-1", 2.0)
        rig.end(5)

    exported, out = written(tmp_path, "bids")

    stem = UNKNOWN
    voxels = np.asanyarray(nib.load(out / f"{stem}_bold.nii.gz").dataobj)
    for index in range(3):
        np.testing.assert_array_equal(voxels[..., index], noise(index))
    assert not voxels[..., 3:].any()
    said = json_of(out / f"{stem}_bold.json")
    assert said["MissingVolumes"] == [
        {"Index": 3, "Reason": "SHAPE_MISMATCH"}, {"Index": 4, "Reason": "SKIPPED"}
    ]  # fmt: skip
    assert said["UnusedVolumes"] == [1]
    assert said["LateVolumes"] == [2]
    rows = rows_of(out / f"{stem}_volumes.tsv")
    assert [row["input"] for row in rows] == [
        "OK", "MISSING", "OK", "INVALID", "MISSING"
    ]  # fmt: skip
    assert [row["is_recorded"] for row in rows] == ["1", "1", "1", "0", "0"]
    assert [row["onset"] for row in rows_of(out / f"{stem}_events.tsv")] == ["1.0"]
    assert len(exported.runs["run-1"].trials) == 1


def test_bids_holds_images_tables_and_their_dictionaries(tmp_path):
    exported, out = written(simple_recording(tmp_path, "f4"), "bids")

    require_volumes(nib.load(out / f"{FUNC}_bold.nii.gz").dataobj, "f4", np.nan)
    events = pd.read_csv(out / f"{FUNC}_events.tsv", sep="\t", na_values="n/a")
    assert list(events.columns[:4]) == ["onset", "duration", "trial_id", "stim_id"]
    assert events.onset.tolist() == [0.25, 8.0]
    assert events.shown_ns[0] == 77
    assert events.reported_shown_ns[0] == 78
    decoding = rows_of(out / f"{FUNC}_decoding.tsv")
    assert [row["trial_id"] for row in decoding] == ["t-1", "t-2"]
    assert [row["decision"] for row in decoding] == ["ANSWER", "ABSTAIN"]
    # The volume had ended 10 ms before it came, and the answer took 20 ms.
    assert decoding[0]["compute_latency_ms"] == "30.0"
    assert decoding[0]["delay_s"] == "2.0"
    volumes = rows_of(out / f"{FUNC}_volumes.tsv")
    assert [int(row["volume_index"]) for row in volumes] == list(range(7))
    assert volumes[0]["candidate_1"] == "stimulus"
    assert volumes[0]["candidate_1_cosine"] == "0.25"
    assert volumes[5]["reason"] == "SOURCE"
    assert [row["what"] for row in rows_of(out / f"{FUNC}_shown.tsv")] == [
        "cat.png", "fixation"
    ]  # fmt: skip
    for file in out.rglob("*.tsv"):
        header = file.read_text("utf-8").splitlines()[0].split("\t")
        described = json_of(file.with_suffix(".json"))
        assert list(described) == header
        assert all(one["Description"] for one in described.values())
    said = json_of(out / f"{FUNC}_bold.json")
    assert said["BundleSHA256"] == ["b" * 64]
    assert said["GallerySHA256"] == ["a" * 64]
    assert said["PreprocessingSHA256"] == ["c" * 64]
    assert said["Rigs"][0]["Versions"] == {
        "onnxruntime": "1.24.0", "python": "3.11.0"
    }  # fmt: skip
    assert exported.losses == said["RecordingLosses"] == []


def test_bids_names_are_those_of_the_standard(tmp_path):
    exported, out = written(simple_recording(tmp_path), "bids")

    described = json_of(out / "dataset_description.json")
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"] == [{"Name": "neuroflow-rt", "Version": "1.2.3"}]
    assert described["BIDSVersion"]
    standard = re.compile(
        r"sub-(?P<s>[a-zA-Z0-9]+)/(ses-(?P<e>[a-zA-Z0-9]+)/)?func/"
        r"sub-(?P=s)(?(e)_ses-(?P=e))_task-[a-zA-Z0-9]+_run-[0-9]+"
        r"_(bold\.(json|nii\.gz)|events\.(json|tsv))"
    )
    ignored = (out / ".bidsignore").read_text("utf-8").split()
    top = {"dataset_description.json", "README", ".bidsignore"}
    for file in out.rglob("*"):
        name = file.relative_to(out).as_posix()
        if file.is_file() and name not in top:
            is_ignored = any(file.match(pattern) for pattern in ignored)
            assert is_ignored != bool(standard.fullmatch(name)), name
    for stem in (FUNC, UNKNOWN):
        said = json_of(out / f"{stem}_bold.json")
        assert said["RepetitionTime"] == 1.5
        assert said["TaskName"]
        assert said["SkullStripped"] is False
    mapping = json_of(out / "recording.json")["Runs"]
    assert [(one["RunName"], one["File"]) for one in mapping] == [
        ("run-1", FUNC), ("other.run+2", UNKNOWN)
    ]  # fmt: skip
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("sub-*/**/*_*")}
    assert {name for files in exported.files.values() for name in files} == on_disk


def test_a_run_has_the_same_name_whether_others_are_exported_or_not(tmp_path):
    with Rig(tmp_path) as rig:
        for run in ("a", "b", "c"):
            rig.start(run, subject="p.1")
            rig.volume(0, noise(0))
            rig.end(1)

    everything, _ = written(tmp_path, "bids")
    alone = export(tmp_path, tmp_path / "one", "bids", version="1", run="b")

    assert alone.files == {"b": everything.files["b"]}
    assert "sub-p1/func/sub-p1_task-unknown_run-2_bold.nii.gz" in alone.files["b"]


@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_hdf5_holds_volumes_tables_and_arrays(tmp_path, kind):
    exported, out = written(simple_recording(tmp_path, kind), "hdf5")

    assert exported.files == {
        "run-1": ["recording.h5"],
        "other.run+2": ["recording.h5"],
    }
    with h5py.File(out / "recording.h5") as file:
        run = file["runs/run-1"]
        filling = np.nan if kind == "f4" else 0
        require_volumes(np.moveaxis(run["volumes"][()], 0, -1), kind, filling)
        assert run["volumes"].chunks == (1, *SHAPE)
        assert run.attrs["RepetitionTime"] == 1.5
        assert run["BundleSHA256"].asstr()[()].tolist() == ["b" * 64]
        np.testing.assert_array_equal(run["Affine"][()], AFFINE)
        missing = json.loads(run["MissingVolumes"].asstr()[()])
        assert {one["Index"]: one["Reason"] for one in missing} == MISSING
        assert run["events/stim_id"].asstr()[()].tolist() == ["cat.png", ""]
        lacking = run["events/shown_ns"].attrs["missing"]
        assert run["events/shown_ns"][()].tolist() == [77, lacking]
        assert run["trial_outcomes/confidence"][0] == 0.75
        assert np.isnan(run["trial_outcomes/confidence"][1])
        assert run["trial_outcomes/compute_latency_ms"].attrs["units"] == "ms"
        assert run["volume_outcomes/volume_index"][()].tolist() == list(range(7))
        mean = np.float32(noise(1, kind).mean())
        np.testing.assert_array_equal(
            run["arrays/t-1/z_v"][()], np.full((2, 3), mean, np.float32)
        )
        assert file["runs/other.run+2/events/onset"].shape == (0,)
        kinds = []
        file.visititems(lambda name, one: kinds.append(getattr(one, "dtype", None)))
        assert {one.kind for one in kinds if one is not None} <= set("iufO")


def test_a_run_without_volumes_has_tables_and_no_image(tmp_path):
    with Rig(tmp_path) as rig:
        rig.start()
        rig.event("t-1", 0.0)
        rig.end(0, aborted=True)

    for kind in ("nifti", "bids", "hdf5"):
        exported = export(tmp_path, tmp_path / kind, kind, version="1")
        assert len(exported.runs["run-1"].events) == 1
        assert not [f for f in exported.files["run-1"] if ".nii" in f]
        assert len(exported.notes) == (kind == "bids")
    stem = tmp_path / "bids" / UNKNOWN
    assert sorted(path.name for path in stem.parent.iterdir()) == [
        f"{stem.name}_{table}.{suffix}"
        for table in ("decoding", "volumes")
        for suffix in ("json", "tsv")
    ]
    line = "expected a volume, found none: BIDS has neither image nor events"
    assert json_of(tmp_path / "bids/recording.json")["RecordingNotes"] == {
        "run-1": [line]
    }
    with h5py.File(tmp_path / "hdf5" / "recording.h5") as file:
        assert "volumes" not in file["runs/run-1"]
        assert file["runs/run-1/events/trial_id"].asstr()[0] == "t-1"


def test_a_link_to_an_empty_folder_is_a_place_for_an_export(tmp_path):
    recording = simple_recording(tmp_path / "recording")
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(tmp_path / "disk" / "empty")
    dangling.symlink_to(tmp_path / "disk" / "new")

    for out in (link, dangling):
        export(recording, out, "nifti", version="1", run="run-1")

    for name in ("empty", "new"):
        assert (tmp_path / "disk" / name / "run-1.nii").exists()
    assert link.is_symlink()
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        export(recording, link, "nifti", version="1")


def test_a_server_that_was_killed_leaves_a_run_that_says_so(tmp_path):
    with Rig(tmp_path) as rig:
        rig.start()
        rig.volume(0, noise(0))
        rig.volume(2, noise(2))

    _, out = written(tmp_path, "nifti")

    said = json_of(out / "run-1.json")
    assert (said["HasEnded"], said["VolumeCount"]) == (False, 3)
    assert nib.load(out / "run-1.nii").shape == (*SHAPE, 3)


def test_equal_recordings_give_equal_bytes(tmp_path):
    images = []
    for name in ("one", "two"):
        folder = simple_recording(tmp_path / name)
        _, out = written(folder, "bids")
        images.append((out / f"{FUNC}_bold.nii.gz").read_bytes())

    assert images[0] == images[1]
    assert gzip.decompress(images[0])[344:347] == b"n+1"


def peak_bytes(folder, kind, count):
    """Most memory that an export of so many volumes of 64 KiB takes."""
    shape = (32, 32, 32)
    decoder = MeanDecoder(shape)
    with Rig(folder, decoder, segment_bytes=1 << 18) as rig:
        rig.start(shape=shape, expected_volumes=count)
        for index in range(count):
            rig.volume(index, np.zeros(shape))
        rig.end(count)
    tracemalloc.start()
    try:
        export(folder, folder / "out", kind, version="1")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nifti", "bids", "hdf5"])
def test_memory_does_not_grow_with_the_length_of_a_run(tmp_path, kind):
    peak_bytes(tmp_path / "first", kind, 2)  # what imports and caches take
    short = peak_bytes(tmp_path / "short", kind, 20)

    long = peak_bytes(tmp_path / "long", kind, 100)

    # Voxels would be 80 more volumes of 64 KiB; headers and outcomes are kept.
    assert long - short < 8 * (1 << 16)


@pytest.mark.parametrize(
    ("kind", "module"), [("nifti", "nibabel"), ("bids", "nibabel"), ("hdf5", "h5py")]
)
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, kind, module):
    simple_recording(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(BackendError, match=rf"{module}: .*neuroflow-rt\[scanner\]"):
        written(tmp_path, kind)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["inputs", "outcomes"]


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path):
    recording = simple_recording(tmp_path / "recording")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()

    with pytest.raises(UsageError, match=r"--run: expected one of run-1, other.run"):
        written(recording, "nifti", run="run-9")
    with pytest.raises(
        UsageError, match="expected a folder outside the recording's logs"
    ):
        export(recording, recording / "inputs" / "new", "nifti", version="1")
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        export(recording, taken, "nifti", version="1")
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        export(recording, taken / "file", "hdf5", version="1")
    with pytest.raises(RecordingError, match=r"expected \*.mcap segments, found none"):
        export(tmp_path / "none", tmp_path / "out", "nifti", version="1")
    with Rig(tmp_path / "nothing"):
        pass
    with pytest.raises(RecordingError, match="expected runs, found none"):
        export(tmp_path / "nothing", tmp_path / "out", "bids", version="1")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_found_before_a_voxel_is_written(tmp_path, monkeypatch):
    recording = simple_recording(tmp_path / "recording")
    usage = type("Usage", (), {"free": 500})
    monkeypatch.setattr(nifti.shutil, "disk_usage", lambda folder: usage)

    with pytest.raises(RecordingError, match=r"expected 688 free bytes .*, found 500"):
        export(recording, tmp_path / "out", "nifti", version="1")

    assert [p.name for p in tmp_path.iterdir()] == ["recording"]


def test_a_run_that_was_left_for_another_does_not_go_on(tmp_path):
    """No server logs that; a log that was written by hand may hold it."""
    with Rig(tmp_path) as rig:
        rig.start("a")
        rig.volume(0, noise(0))
        rig.start("b")
        rig.volume(0, noise(1))
        stray = Volume(
            run="a", stream="scanner", sequence=9, volume_index=1, acquired_ns=0,
            dtype="i2", shape=SHAPE,
        )  # fmt: skip
        rig.inputs.append("in/scanner", encode(stray, noise(2).tobytes()), rig.now)
        rig.end(1)

    with pytest.raises(RecordingError, match="lost 1 messages without the beginning"):
        written(tmp_path, "nifti")
    _, out = written(tmp_path, "nifti", skip_damaged=True)

    for name, index in (("a", 0), ("b", 1)):
        voxels = np.asanyarray(nib.load(out / f"{name}.nii").dataobj)
        np.testing.assert_array_equal(voxels[..., 0], noise(index))
        assert voxels.shape[3] == 1


def test_two_runs_of_one_name_are_refused_and_the_others_are_not(tmp_path):
    with Rig(tmp_path) as rig:
        for run in ("a", "b", "a"):
            rig.start(run)
            rig.volume(0, noise(0))
            rig.end(1)

    with pytest.raises(RecordingError, match=r"run a: expected one run .* found 2"):
        written(tmp_path, "nifti")

    exported, _ = written(tmp_path, "nifti", run="b")
    assert list(exported.runs) == ["b"]
