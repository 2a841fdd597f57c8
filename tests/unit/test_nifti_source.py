"""Recorded 4-D files and growing folders of 3-D ones; nibabel is the oracle."""

import contextlib
import gzip
import os
import shutil
import struct
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.folder import place
from bci_bridge.sources.folder_source import TORN_S
from bci_bridge.sources.nifti import first_volume, nifti_folder, recorded_nifti
from bci_bridge.sources.past import Past
from bci_bridge.sources.source import Exhausted, Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import BackendError, ScanError, UsageError
from tests.scanned import Clock, polled, recorded_data

SHAPE = (5, 4, 3)
AGAIN = (
    "start `send` again with it, another --run, and --from-start, which sends what is "
    "there (of several series, those that a --pattern names)"
)


def image(count=None, code="<i2", *, affine=None, seed=0, slope=None, version=1):
    rng = np.random.default_rng(seed)
    shape = SHAPE if count is None else (*SHAPE, count)
    voxels = rng.integers(0, 100, shape).astype(code)
    affine = np.diag([-2.0, 2.5, 3.0, 1.0]) if affine is None else affine
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    made = kind(voxels, affine)
    made.set_data_dtype(np.dtype(code))
    if slope is not None:
        made.header.set_slope_inter(*slope)
    if count is not None:
        made.header.set_zooms((2.0, 2.5, 3.0, 0.72))
    made.header.set_xyzt_units("mm", "sec")
    return made


def all_of(source):
    found = []
    while not isinstance(arrival := source.poll(0.0), Exhausted):
        found.append(arrival)
    source.close()
    return found


def oracle(path):
    """The image in RAS+, by nibabel."""
    return nibabel.as_closest_canonical(nibabel.load(path))


def check_same(volumes, path):
    wanted = oracle(path)
    data = np.asarray(wanted.dataobj)
    assert len(volumes) == data.shape[3]
    for index, volume in enumerate(volumes):
        assert volume.number == index
        if data.dtype.kind == "f":
            np.testing.assert_array_equal(
                volume.voxels, data[..., index].astype(np.float32)
            )
        else:
            np.testing.assert_array_equal(volume.voxels, data[..., index])
        np.testing.assert_allclose(volume.geometry.affine, wanted.affine, atol=1e-4)
        assert volume.geometry.shape == data.shape[:3]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("code", ["<i2", ">i2", "u1", "<u2", "<i4", "<f4", "<f8"])
def test_voxels_and_affine_are_those_of_nibabel(tmp_path, code, version, suffix):
    path = tmp_path / f"bold{suffix}"
    nibabel.save(image(3, code, version=version), path)

    check_same(all_of(recorded_nifti(path, None)), path)


@given(
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.floats(-0.3, 0.3),
)
def test_any_orientation_is_turned_as_nibabel_turns_it(
    tmp_path_factory, axes, signs, a
):
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.eye(3)[:, axes]) * np.array(signs) * [2.0, 2.5, 3.0]
    affine[:3, 3] = 10.0, -20.0, 30.0
    path = tmp_path_factory.mktemp("turned") / "bold.nii"
    nibabel.save(image(2, affine=affine), path)

    check_same(all_of(recorded_nifti(path, None)), path)


def test_scaled_voxels_become_float32(tmp_path):
    path = tmp_path / "bold.nii"
    nibabel.save(image(2, slope=(0.5, 3.0)), path)
    volumes = all_of(recorded_nifti(path, None))

    assert volumes[0].voxels.dtype == np.float32
    check_same(volumes, path)


@pytest.mark.recording
def test_the_recorded_haxby_run_is_as_nibabel_reads_it():
    path = recorded_data("haxby2001") / "bold.nii.gz"
    source = recorded_nifti(path, None)
    assert source.volumes == 1452
    volumes = [source.poll(0.0) for _ in range(20)]
    source.close()
    wanted = oracle(path)

    assert volumes[0].geometry.tr_s == 2.5
    np.testing.assert_allclose(volumes[0].geometry.affine, wanted.affine, atol=1e-4)
    np.testing.assert_array_equal(
        np.stack([volume.voxels for volume in volumes], axis=3),
        wanted.dataobj[..., :20],
    )


@pytest.mark.parametrize(
    ("value", "unit", "tr_s"),
    [
        (0.72, "sec", 0.72),
        (720.0, "msec", 0.72),
        (720000.0, "usec", 0.72),
        (2.5, "unknown", 2.5),
        (2500.0, "unknown", 2.5),
        (0.0, "sec", np.nan),
        (5.0, "hz", np.nan),
    ],
)
def test_the_tr_is_read_in_its_unit(tmp_path, value, unit, tr_s):
    made = image(1)
    made.header["pixdim"][4] = value
    made.header.set_xyzt_units("mm", unit)
    nibabel.save(made, tmp_path / "bold.nii")
    found = recorded_nifti(tmp_path / "bold.nii", None).poll(0.0).geometry.tr_s

    np.testing.assert_allclose(found, tr_s, rtol=1e-6)


@pytest.mark.parametrize(("unit", "tr_s"), [("sec", 1.0), ("unknown", np.nan)])
def test_a_volumes_own_header_tells_a_tr_only_with_its_unit(tmp_path, unit, tr_s):
    made = image()
    made.header.set_xyzt_units("mm", unit)
    nibabel.save(made, tmp_path / "v0.nii")
    (volume,) = polled(watching(tmp_path)[0])

    np.testing.assert_equal(volume.geometry.tr_s, tr_s)


def test_slice_times_follow_the_slices_when_they_are_flipped(tmp_path):
    made = image(1, affine=np.diag([2.0, 2.5, -3.0, 1.0]))
    made.header.set_dim_info(slice=2)
    made.header.set_slice_duration(0.2)
    made.header["slice_code"] = 1
    made.header["slice_end"] = SHAPE[2] - 1
    nibabel.save(made, tmp_path / "bold.nii")
    geometry = recorded_nifti(tmp_path / "bold.nii", None).poll(0.0).geometry

    assert geometry.slice_axis == 2
    np.testing.assert_allclose(geometry.slice_times_s, (0.4, 0.2, 0.0), atol=1e-6)


def test_a_recording_keeps_the_scanners_pace(tmp_path):
    nibabel.save(image(3), tmp_path / "bold.nii")
    clock = Clock()
    source = recorded_nifti(
        tmp_path / "bold.nii", 2.0, clock_s=clock, sleep=clock.sleep
    )
    begin_s, came_s = clock.now_s, []
    while not isinstance(arrival := source.poll(0.05), Exhausted):
        if arrival is not None:
            came_s.append(clock.now_s - begin_s)
    source.close()

    np.testing.assert_allclose(came_s, [0.36, 0.72, 1.08], atol=0.01)


def test_a_recording_keeps_the_pace_that_the_operator_says(tmp_path):
    nibabel.save(image(2), tmp_path / "bold.nii")
    clock = Clock()
    source = recorded_nifti(
        tmp_path / "bold.nii", tr_s=2.0, clock_s=clock, sleep=clock.sleep
    )
    begin_s = clock.now_s
    while source.poll(0.05) is None:
        pass

    assert clock.now_s - begin_s == pytest.approx(2.0, abs=0.01)
    source.close()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_torn_recording_gives_what_it_has_and_says_so(tmp_path, suffix):
    path = tmp_path / f"bold{suffix}"
    nibabel.save(image(8, "<f8"), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    found = all_of(recorded_nifti(path, None))

    assert 1 <= len(found) - 1 < 8
    assert all(isinstance(one, ScannedVolume) for one in found[:-1])
    assert isinstance(found[-1], Refused)
    assert found[-1].why.startswith(
        f"expected 8 whole volumes, found {len(found) - 1} ("
    )


@pytest.mark.parametrize(
    ("offset", "kind", "value", "words"),
    [
        (0, "<i", 12345, "expected a NIfTI file, found none"),
        (344, "4s", b"ni1\0", "expected NIfTI in a single file"),
        (40, "<h", 2, "expected 3 or 4 dimensions, found 2"),
        (42, "<h", -5, "expected sides of 1 to 1024"),
        (42, "<h", 30000, "expected sides of 1 to 1024"),
        (48, "<h", 0, "expected 1 to 100000 volumes, found 0"),
        (70, "<h", 32, "expected real voxels"),
        (70, "<h", 128, "expected real voxels"),
        (70, "<h", 7777, "expected a NIfTI header"),
        (108, "<f", 8.0, "vox offset 8 too low"),
        (108, "<f", 2e9, "expected voxels from byte 352 on"),
        (108, "<f", float("nan"), "expected where voxels begin"),
        (108, "<f", float("-inf"), "expected a NIfTI header"),
        (116, "<f", float("inf"), "expected a slope and intercept"),
    ],
)
def test_a_bad_header_is_one_clear_line(tmp_path, offset, kind, value, words):
    path = tmp_path / "bold.nii"
    nibabel.save(image(1), path)
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, offset, value)
    path.write_bytes(data)

    with pytest.raises(ScanError) as refused:
        recorded_nifti(path, None)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_volume_or_an_error_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "bold.nii"
    whole = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)).to_bytes()
    path.write_bytes(
        bytes(a ^ b for a, b in zip(whole, data, strict=False)) + whole[600:]
    )
    with contextlib.suppress(ScanError):
        all_of(recorded_nifti(path, None))


def test_a_missing_file_and_a_bad_speed_are_one_clear_line(tmp_path):
    with pytest.raises(ScanError, match="found No such file"):
        recorded_nifti(tmp_path / "none.nii", None)
    with pytest.raises(UsageError, match="--speed: expected a number above 0, found 0"):
        recorded_nifti(tmp_path / "none.nii", 0.0)


def watching(folder, **options):
    clock = Clock()
    return nifti_folder(folder, clock_s=clock, sleep=clock.sleep, **options), clock


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_growing_folder_gives_volumes_in_the_order_of_names(tmp_path, suffix):
    source, _ = watching(tmp_path)
    assert polled(source) == []
    for number in (2, 10, 1):
        nibabel.save(image(seed=number), tmp_path / f"rest_{number}{suffix}")
    found = polled(source, 8)

    assert [(one.series, one.number) for one in found] == [
        ("rest_", 0),
        ("rest_", 1),
        ("rest_", 9),
    ]
    for one, number in zip(found, (1, 2, 10), strict=True):
        path = tmp_path / f"rest_{number}{suffix}"
        np.testing.assert_array_equal(one.voxels, oracle(path).dataobj)
    assert polled(source) == []


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_is_waited_for_until_it_is_whole(tmp_path, suffix):
    source, _ = watching(tmp_path)
    whole = tmp_path.parent / f"{tmp_path.name}{suffix}"
    nibabel.save(image(code="<f8"), whole)
    data = whole.read_bytes()
    path = tmp_path / f"v0{suffix}"
    for end in (len(data) // 9, len(data) // 2, len(data) - 9, len(data) - 1):
        path.write_bytes(data[:end])
        assert polled(source) == []
    path.write_bytes(data)
    (volume,) = polled(source, 4)

    np.testing.assert_array_equal(
        volume.voxels, oracle(whole).get_fdata().astype(np.float32)
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_that_never_becomes_whole_is_refused(tmp_path, suffix):
    source, clock = watching(tmp_path)
    path = tmp_path / f"v0{suffix}"
    nibabel.save(image(), path)
    os.truncate(path, path.stat().st_size - 5)
    assert polled(source) == []
    clock.now_s += TORN_S
    (refused,) = polled(source)

    assert isinstance(refused, Refused)
    assert refused.what == path.name
    assert refused.why.startswith("expected a whole file, found")
    assert polled(source) == []


def test_a_plain_file_counts_once_it_has_stopped_changing(tmp_path):
    source, _ = watching(tmp_path)
    path = tmp_path / "v0.nii"
    nibabel.save(image(seed=1), path)
    whole = path.read_bytes()
    # Some shares make a file as long as it will be before they fill it.
    path.write_bytes(whole[:400] + bytes(len(whole) - 400))
    os.utime(path, ns=(1, 1))
    assert source.poll(0.0) is None
    path.write_bytes(whole)
    (volume,) = polled(source, 5)

    np.testing.assert_array_equal(volume.voxels, oracle(path).dataobj)


def test_a_compressed_bomb_is_refused_before_it_inflates(tmp_path):
    source, _ = watching(tmp_path)
    small = image().to_bytes()
    with gzip.open(tmp_path / "v0.nii.gz", "wb", compresslevel=9) as bomb:
        bomb.write(small)
        for _ in range(64):
            bomb.write(bytes(1 << 20))
    (refused,) = polled(source)

    assert refused.why == "expected as many bytes as announced, found more"


@pytest.mark.parametrize(
    ("name", "made", "words"),
    [
        ("mean.nii", {}, "expected a number in its name, found none"),
        ("v7.nii", {}, f"Say with --first-number where it began: {AGAIN}"),
        ("v0.nii", {"count": 2}, "expected one volume in a file, found several"),
    ],
)
def test_files_that_are_no_volumes_are_refused(tmp_path, name, made, words):
    nibabel.save(image(**made), tmp_path / name)
    source, _ = watching(tmp_path)
    (refused,) = polled(source)

    assert words in refused.why


def test_a_torn_first_file_does_not_shift_those_after_it(tmp_path):
    for number in range(3):
        nibabel.save(image(seed=number), tmp_path / f"rest_{number}.nii.gz")
    whole = (tmp_path / "rest_0.nii.gz").read_bytes()
    (tmp_path / "rest_0.nii.gz").write_bytes(whole[:-30])
    source, clock = watching(tmp_path)

    found = polled(source)
    clock.sleep(TORN_S + 1)
    found += polled(source)

    volumes = [one.number for one in found if isinstance(one, ScannedVolume)]
    assert volumes == [1, 2]
    assert [one.what for one in found if isinstance(one, Refused)] == ["rest_0.nii.gz"]


def test_counting_can_begin_anywhere_where_the_operator_says_so(tmp_path):
    nibabel.save(image(), tmp_path / "v107.nii")
    nibabel.save(image(), tmp_path / "v99.nii")
    source, _ = watching(tmp_path, first_number=100)
    found = polled(source, 5)

    assert isinstance(found[0], Refused)
    assert found[1].number == 7


def test_the_remedy_of_a_number_below_the_first_helps(tmp_path):
    for name in ("a1.nii", "v1.nii", "v0.nii"):
        nibabel.save(image(), tmp_path / name)
    # As `send` opens it with --first-number 0 --from-start --pattern "v*".
    source, _ = watching(tmp_path, first_number=0, pattern="v*")

    assert [one.number for one in polled(source, 5)] == [0, 1]


def test_what_was_there_can_be_left_out(tmp_path):
    nibabel.save(image(), tmp_path / "v0.nii")
    source, _ = watching(tmp_path, is_new_only=True)
    nibabel.save(image(), tmp_path / "v1.nii")

    assert [one.number for one in polled(source, 5)] == [0]


def test_what_was_there_is_counted(tmp_path):
    for name in ("v0.nii", "v1.nii", ".v2.nii", "notes.txt"):
        nibabel.save(image(), tmp_path / "made.nii")
        (tmp_path / "made.nii").rename(tmp_path / name)
    (tmp_path / "v9.nii").mkdir()
    source, _ = watching(tmp_path)

    assert source.n_there == 2


def put(folder, series, numbers):
    for number in numbers:
        nibabel.save(image(seed=number), folder / f"{series}{number}.nii.gz")


def told(source, n=30):
    found = [one for one in polled(source, n) if isinstance(one, ScannedVolume)]
    return [(one.series, one.number) for one in found]


def test_who_goes_on_leaves_out_what_was_left_out_and_nothing_else(tmp_path):
    put(tmp_path, "old_", range(3))
    put(tmp_path, "run_", [0])
    first, _ = watching(tmp_path, is_new_only=True)
    put(tmp_path, "run_", [1, 2])
    assert told(first) == [("run_", 0), ("run_", 1)]
    put(tmp_path, "run_", [3])
    past = Past(run="rest", begun=1, series="run_", first=1, left=first.left)
    second, _ = watching(tmp_path, past=past)

    assert second.left == first.left
    assert told(second) == [("run_", 0), ("run_", 1), ("run_", 2)]


@pytest.mark.parametrize("first_there", [(), (0, 1)])
def test_who_goes_on_counts_from_where_the_one_before_it_did(tmp_path, first_there):
    put(tmp_path, "run_", [*first_there, 3, 4])
    left = watching(tmp_path)[0].left
    past = Past(run="rest", begun=1, series="run_", first=1, left=left)
    found = polled(watching(tmp_path, past=past)[0], 30)
    volumes = [one for one in found if isinstance(one, ScannedVolume)]

    assert [(one.number, one.first) for one in volumes] == [
        *((number - 1, 1) for number in first_there if number),
        (2, 1),
        (3, 1),
    ]


def test_who_goes_on_reads_its_own_series_first_and_never_one_that_is_over(tmp_path):
    for series in ("run8_", "run9_", "run10_", "run11_"):
        put(tmp_path, series, range(2))
    past = Past(run="rest", begun=1, series="run10_", over=("run8_",))
    found = told(watching(tmp_path, past=past)[0], 40)

    assert found == [
        (series, number)
        for series in ("run10_", "run9_", "run11_")
        for number in range(2)
    ]


def test_of_a_series_that_is_over_one_line_is_said(tmp_path):
    put(tmp_path, "over_", range(3))
    source, _ = watching(tmp_path, past=Past(run="rest", over=("over_",)))
    found = polled(source, 10)
    put(tmp_path, "over_", range(3, 6))

    assert [(one.what[:5], one.why) for one in found] == [
        ("over_", "of a series that is over: it and others like it are ignored")
    ]
    assert polled(source, 10) == []


def test_a_place_is_a_folder_and_a_pattern(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other")
    here = place(tmp_path / "other")

    assert place(tmp_path / "link") == here == place(tmp_path / "link" / ".")
    assert watching(tmp_path / "other")[0].left.folder == here
    assert len({here, place(tmp_path), place(tmp_path / "other", "run*")}) == 3


def test_names_of_files_are_kept_as_digests(tmp_path):
    put(tmp_path, "MUELLER_HANS_", range(2))
    left = watching(tmp_path, is_new_only=True)[0].left

    assert len(left.names) == 2
    assert "MUELLER" not in str(left)
    assert tmp_path.name not in str(left)


@pytest.mark.parametrize(
    ("first_number", "names", "why"),
    [
        (
            None,
            ("v1.nii", "v0.nii"),
            "expected numbers from 1 on, because that one came first, found 0. The "
            "volumes of this series are numbered 1 too low. Say --first-number 0: "
            f"{AGAIN}",
        ),
        (
            5,
            ("v5.nii", "v4.nii"),
            "expected numbers from 5 on, as --first-number says, found 4. If the run "
            f"begins below 5, say with --first-number where: {AGAIN}",
        ),
    ],
)
def test_a_number_below_the_first_says_what_to_do(tmp_path, first_number, names, why):
    source, _ = watching(tmp_path, first_number=first_number)
    found = []
    for name in names:
        nibabel.save(image(), tmp_path / name)
        found += polled(source, 5)

    assert [one.number for one in found if isinstance(one, ScannedVolume)] == [0]
    assert found[-1] == Refused(names[-1], why)


def test_links_folders_and_other_files_are_left_alone(tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside.nii"
    nibabel.save(image(), outside)
    (tmp_path / "v0.nii").symlink_to(outside)
    (tmp_path / "v1.nii").mkdir()
    os.mkfifo(tmp_path / "v2.nii")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "v3.nii.gz.part").write_bytes(b"nothing")
    source, _ = watching(tmp_path)

    assert polled(source) == []


def test_a_share_that_hiccups_is_waited_for_and_one_that_vanished_is_an_error(tmp_path):
    folder = tmp_path / "share"
    folder.mkdir()
    source, clock = watching(folder)
    shutil.rmtree(folder)
    assert polled(source) == []
    folder.mkdir()
    nibabel.save(image(), folder / "v0.nii")
    assert len(polled(source, 4)) == 1
    shutil.rmtree(folder)
    assert polled(source) == []
    clock.now_s += 11.0
    with pytest.raises(ScanError, match="Is the share still connected"):
        polled(source)


def test_no_folder_is_one_clear_line(tmp_path):
    with pytest.raises(ScanError, match="expected a folder, found No such file"):
        nifti_folder(tmp_path / "none")


def test_a_first_volume_is_read_as_it_is_stored(tmp_path):
    path = tmp_path / "bold.nii.gz"
    nibabel.save(image(3, slope=(0.5, 3.0)), path)
    stored, affine = first_volume(path)
    wanted = nibabel.load(path)

    np.testing.assert_array_equal(stored, wanted.dataobj[..., 0])
    np.testing.assert_allclose(affine, wanted.affine)
    with pytest.raises(ScanError, match=r"none\.nii: expected a NIfTI file"):
        first_volume(tmp_path / "none.nii")


def test_a_name_of_any_bytes_is_one_printable_line(tmp_path):
    nibabel.save(image(), tmp_path / "v.nii.gz")
    data = (tmp_path / "v.nii.gz").read_bytes()
    (tmp_path / "v.nii.gz").unlink()
    odd = os.fsencode(tmp_path) + b"/\xff\x1b[31m\n0.nii.gz"
    with open(odd, "wb") as file:
        file.write(data)
    source, _ = watching(tmp_path)
    (volume,) = polled(source, 4)

    assert volume.series == "\\udcff\\x1b[31m\\n"
    assert volume.series.encode()


def test_a_pattern_chooses_among_names(tmp_path):
    for name in ("rest_0.nii", "Task_0.nii"):
        nibabel.save(image(), tmp_path / name)
    source, _ = watching(tmp_path, pattern="task_*")

    assert [one.series for one in polled(source, 5)] == ["Task_"]


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    nibabel.save(image(1), tmp_path / "bold.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(BackendError, match="Install the extra `scanner`"):
        recorded_nifti(tmp_path / "bold.nii", None)
