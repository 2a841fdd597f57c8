"""PAR/REC pairs; nibabel is the oracle."""

import contextlib
import io
import re
import shutil

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.fileholders import FileHolder
from nibabel.parrec import PARRECImage

from bci_bridge.sources.folder_source import TORN_S
from bci_bridge.sources.par_header import read_par
from bci_bridge.sources.philips import philips_folder, recorded_philips
from bci_bridge.sources.source import Exhausted, Refused
from runtime.errors import ScanError
from tests.scanned import Clock, polled, recorded_data

GENERAL = (
    ".    Angulation midslice(ap,fh,rl)[degr]:   {}  {}  {}\n"
    ".    Off Centre midslice(ap,fh,rl) [mm] :   {}  {}  {}\n"
)


@pytest.fixture(scope="module")
def recorded():
    return recorded_data("philips_parrec")


def with_general_lines(text):
    """Say in the general lines what the lines of the images say, for nibabel."""
    rows = [line.split() for line in text.splitlines() if re.match(r"\d", line.strip())]
    rows = [row for row in rows if row[4] == min(other[4] for other in rows)]
    values = np.array([[float(word) for word in row] for row in rows])
    middle = (*values[0, 16:19], *values[:, 19:22].mean(axis=0))
    return re.sub(
        r"\.    Angulation midslice.*\n\.    Off Centre.*\n",
        GENERAL.format(*middle),
        text,
    )


def oracle(path, scaling="dv"):
    """The pair by nibabel, told the geometry in general lines."""
    text = with_general_lines(path.read_text("latin-1"))
    files = {
        "header": FileHolder(fileobj=io.StringIO(text)),
        "image": FileHolder(fileobj=io.BytesIO(path.with_suffix(".rec").read_bytes())),
    }
    return PARRECImage.from_file_map(files, strict_sort=True, scaling=scaling)


def canonical(path, scaling="dv"):
    """The same in RAS+."""
    return nibabel.as_closest_canonical(oracle(path, scaling))


@pytest.mark.recording
@pytest.mark.parametrize("number", range(4))
def test_recorded_volumes_are_as_nibabel_reads_them(recorded, tmp_path, number):
    path = recorded / f"Dump-{number:04d}.par"
    source = recorded_philips(path, None)
    volume = source.poll(0.0)
    wanted = canonical(path)

    assert isinstance(source.poll(0.0), Exhausted)
    assert (volume.number, volume.geometry.tr_s) == (number, 1.0)
    np.testing.assert_array_equal(
        volume.voxels, wanted.get_fdata()[..., 0].astype(np.float32)
    )
    np.testing.assert_allclose(volume.geometry.affine, wanted.affine, atol=1e-4)


@pytest.mark.recording
def test_other_scalings_are_those_of_nibabel(recorded):
    path = recorded / "Dump-0000.par"
    floating = recorded_philips(path, None, scaling="fp").poll(0.0).voxels
    stored = recorded_philips(path, None, scaling="pv").poll(0.0).voxels
    wanted = canonical(path, "fp")

    np.testing.assert_array_equal(
        floating, wanted.get_fdata()[..., 0].astype(np.float32)
    )
    assert stored.dtype == np.uint16
    unscaled = oracle(path).dataobj
    # Its axes run to the left, to the back and upwards.
    np.testing.assert_array_equal(stored, unscaled.get_unscaled()[::-1, ::-1, :, 0])


@pytest.mark.recording
def test_a_longer_line_and_an_echo_of_another_kind_are_no_damage(recorded):
    lines = (recorded / "Dump-0000.par").read_text("latin-1").splitlines()
    rows = [n for n, line in enumerate(lines) if re.match(r"\d", line.strip())]
    wanted = read_par("\n".join(lines))
    lines[rows[0]] += " 1.5"
    phase = max(rows, key=lambda n: float(lines[n].split()[4]))
    words = lines[phase].split()
    words[1] = "0"
    lines[phase] = " ".join(words)
    found = read_par("\n".join(lines))

    assert found.images == wanted.images
    np.testing.assert_array_equal(found.affine, wanted.affine)


@pytest.mark.recording
@settings(max_examples=25)
@given(
    st.sampled_from([1, 2, 3]),
    st.tuples(*[st.floats(-40, 40)] * 3),
    st.tuples(*[st.floats(-60, 60)] * 3),
)
def test_any_orientation_is_that_of_nibabel(recorded, tmp_path_factory, way, angle, mm):
    lines = []
    for line in (recorded / "Dump-0000.par").read_text("latin-1").splitlines():
        words = line.split()
        if words and words[0].isdigit():
            words[16:19] = map(repr, angle)
            words[19:22] = map(repr, mm)
            words[25] = str(way)
            line = " ".join(words)
        lines.append(line)
    folder = tmp_path_factory.mktemp("turned")
    path = folder / "v.par"
    path.write_text("\n".join(lines) + "\n", "latin-1")
    shutil.copyfile(recorded / "Dump-0000.rec", folder / "v.rec")
    wanted = canonical(path)
    volume = recorded_philips(path, None).poll(0.0)

    np.testing.assert_allclose(volume.geometry.affine, wanted.affine, atol=1e-4)
    np.testing.assert_array_equal(
        volume.voxels, wanted.get_fdata()[..., 0].astype(np.float32)
    )


def watching(folder, **options):
    clock = Clock()
    return philips_folder(folder, clock_s=clock, sleep=clock.sleep, **options), clock


@pytest.mark.recording
def test_pairs_come_in_order_each_series_in_its_folder(recorded, tmp_path):
    source, _ = watching(tmp_path)
    for series in ("0000", "0001"):
        (tmp_path / series).mkdir()
        for number in (1, 0, 2):
            for suffix in (".par", ".rec"):
                name = f"Dump-{number:04d}{suffix}"
                shutil.copyfile(recorded / name, tmp_path / series / name)
    found = polled(source, 12)

    assert [(one.series, one.number) for one in found] == [
        (f"{series}/Dump-", number)
        for series in ("0000", "0001")
        for number in range(3)
    ]


@pytest.mark.recording
def test_a_pair_is_waited_for_until_both_files_are_whole(recorded, tmp_path):
    source, _ = watching(tmp_path)
    par = (recorded / "Dump-0000.par").read_bytes()
    rec = (recorded / "Dump-0000.rec").read_bytes()
    for end in (300, 5000, len(par) - 200):
        (tmp_path / "v0.par").write_bytes(par[:end])
        assert polled(source) == []
    (tmp_path / "v0.par").write_bytes(par)
    assert polled(source) == []
    for end in (0, 1000, len(rec) - 1):
        (tmp_path / "v0.rec").write_bytes(rec[:end])
        assert polled(source) == []
    (tmp_path / "v0.rec").write_bytes(rec)

    assert [one.number for one in polled(source, 5)] == [0]


@pytest.mark.recording
def test_a_pair_that_never_becomes_whole_is_refused(recorded, tmp_path):
    source, clock = watching(tmp_path)
    shutil.copyfile(recorded / "Dump-0000.par", tmp_path / "v0.par")
    assert polled(source) == []
    clock.now_s += TORN_S
    (refused,) = polled(source)

    assert isinstance(refused, Refused)
    assert refused.why == "expected a whole file, found no REC file beside it"


@pytest.mark.recording
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("V4.2", "V3", "expected a PAR file of export tool V4 to V4.2, found V3"),
        (" 16 0 80 80 ", " 12 0 80 80 ", "expected 8 or 16 bits, found 12"),
        (" 16 0 80 80 ", " 16 0 8000 80 ", "expected sides of 1 to 1024"),
        (" 4 0 0 1 0 ", " 4 0 0 7 0 ", "expected slices of orientation 1 to 3"),
        (" 79 ", " nan ", "expected finite numbers"),
        ("locations    :   15", "locations    :   x", "expected a whole number"),
        ("3 3 0.025", "3 x 0.025", "expected numbers in the line of an image"),
    ],
)
def test_a_bad_header_is_one_clear_line(recorded, before, after, words):
    text = (recorded / "Dump-0000.par").read_text("latin-1")
    assert before in text
    with pytest.raises(ScanError) as refused:
        read_par(text.replace(before, after))

    assert words in str(refused.value)


@pytest.mark.recording
@pytest.mark.parametrize(
    ("said", "tr_s"), [("1", 1.0), ("2", 2.0), ("2000", 2.0), ("720.5", 0.7205)]
)
def test_a_tr_beyond_twenty_is_in_milliseconds(recorded, said, tr_s):
    text = (recorded / "Dump-0000.par").read_text("latin-1")
    changed = re.sub(r"(Repetition time \[ms\]\s+:\s+)1", rf"\g<1>{said}", text)

    assert read_par(changed).tr_s == tr_s


@pytest.mark.recording
@settings(max_examples=25)
@given(st.data())
def test_any_damage_is_an_error_of_ours_or_harmless(recorded, data):
    text = (recorded / "Dump-0000.par").read_text("latin-1")
    begin = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.text(max_size=30))
    length = data.draw(st.integers(0, 200))
    with contextlib.suppress(ScanError, EOFError):
        read_par(text[:begin] + junk + text[begin + length :])


@pytest.mark.recording
def test_names_in_a_header_go_nowhere(recorded):
    text = (recorded / "Dump-0000.par").read_text("latin-1")
    named = text.replace("Patient name                       :", "Patient name : Doe^J")

    assert "Doe" not in repr(read_par(named))


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(ScanError, match="found No such file"):
        recorded_philips(tmp_path / "none.par", None)
