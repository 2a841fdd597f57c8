"""A folder in which DICOM files come: whole or not, in any order, of any series."""

import itertools
import os
import shutil

import msgspec
import numpy as np
import pytest

from bci_bridge.sources import dicom_folder
from bci_bridge.sources import folder as folder_module
from bci_bridge.sources.dicom_folder import DicomFolder
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.feed import Feed
from bci_bridge.sources.folder_source import TORN_S
from bci_bridge.sources.series_choice import Choice
from bci_bridge.sources.source import Reading, Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError
from tests import dicom_files as files
from tests.scanned import Clock, Told, plan, polled, recorded_data


def opened(folder, clock=None, choice=None, receiver=None, **options):
    clock = clock or Clock()
    receiver = receiver or DicomReceiver(choice or Choice(), b"salt")
    return DicomFolder(folder, receiver, clock_s=clock, sleep=clock.sleep, **options)


def numbers(arrivals):
    return [one.number for one in arrivals if isinstance(one, ScannedVolume)]


def whole(number, **changes):
    voxels = files.volume(number)
    return files.dumped(files.enhanced([voxels], InstanceNumber=number + 1, **changes))


def test_names_mean_nothing_and_numbers_order(tmp_path):
    for name, number in (("zeta", 0), ("alpha.IMA", 2), ("7", 1)):
        (tmp_path / name).write_bytes(whole(number))

    assert numbers(polled(opened(tmp_path), 5)) == [0, 1, 2]


def test_folders_below_are_looked_into_and_links_are_not_followed(tmp_path):
    below = tmp_path / "patient" / "examination" / "series"
    below.mkdir(parents=True)
    (below / "a").write_bytes(whole(0))
    outside = tmp_path.parent / "outside.dcm"
    outside.write_bytes(whole(1))
    (tmp_path / "link").symlink_to(outside)

    assert numbers(polled(opened(tmp_path), 5)) == [0]


def test_a_file_counts_once_it_is_whole(tmp_path):
    clock = Clock()
    source = opened(tmp_path, clock)
    data, file = whole(0), tmp_path / "a.dcm"

    for end in (0, 100, 500, len(data) - 10):
        file.write_bytes(data[:end])
        assert polled(source, 4) == []
        clock.sleep(1)
    file.write_bytes(data)

    assert numbers(polled(source, 4)) == [0]


def test_a_file_of_zeros_is_waited_for(tmp_path):
    source, file = opened(tmp_path), tmp_path / "a.dcm"
    data = whole(0)

    file.write_bytes(bytes(len(data)))
    assert polled(source, 4) == []
    file.write_bytes(data)
    # As long as before, in the same instant perhaps: a look needs to see a change.
    os.utime(file, ns=(1, 1))

    assert numbers(polled(source, 4)) == [0]


def test_a_torn_file_is_refused_and_the_next_one_is_taken(tmp_path):
    clock = Clock()
    source = opened(tmp_path, clock)
    (tmp_path / "1.dcm").write_bytes(whole(0)[:-10])
    (tmp_path / "2.dcm").write_bytes(whole(1))

    assert numbers(polled(source, 4)) == [1]
    clock.sleep(TORN_S)
    assert polled(source) == [
        Refused(
            "1.dcm",
            "expected a whole file, found PixelData: expected 240 bytes, found 230",
        )
    ]


def test_unfinished_names_wait_for_their_own(tmp_path):
    source = opened(tmp_path)
    (tmp_path / "1.dcm.tmp").write_bytes(whole(0))
    assert polled(source, 4) == []

    (tmp_path / "1.dcm.tmp").rename(tmp_path / "1.dcm")
    assert numbers(polled(source, 4)) == [0]


def test_what_is_there_at_the_start_can_be_left_out(tmp_path):
    (tmp_path / "old").write_bytes(whole(0))
    source = opened(tmp_path, is_new_only=True)

    (tmp_path / "new").write_bytes(whole(1))

    assert numbers(polled(source, 5)) == [1]


def test_what_is_there_at_the_start_is_counted(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "old").write_bytes(whole(0))
    # A desktop leaves these in every folder that somebody looked into.
    (tmp_path / "series" / "Thumbs.db").write_bytes(b"no image" * 100)
    (tmp_path / "Desktop.ini").write_bytes(b"no image" * 100)
    source = opened(tmp_path)

    assert source.n_there == 1
    assert numbers(polled(source, 5)) == [0]


def test_other_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"no image" * 100)
    (tmp_path / "1.dcm").write_bytes(whole(0))

    refused, volume = sorted(
        polled(opened(tmp_path), 5), key=lambda x: type(x).__name__
    )

    assert refused == Refused("notes.txt", "file: expected a DICOM file, found another")
    assert volume.number == 0


def test_a_folder_below_that_is_closed_costs_the_others_nothing(tmp_path, monkeypatch):
    for name in ("closed", "gone", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.dcm").write_bytes(whole(0))
    errors = {"closed": PermissionError, "gone": FileNotFoundError}
    listed = os.scandir

    def scandir(folder):
        if error := errors.get(os.path.basename(folder)):
            raise error(13, "no")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    refused, volume = polled(opened(tmp_path), 6)

    assert (volume.number, refused.what) == (0, "closed")
    assert refused.why == (
        "expected a folder that may be listed, found permission denied."
        " Let this user read it"
    )


class Slow(DicomReceiver):
    """A receiver that leaves out all that comes, and takes its time."""

    def __init__(self, clock):
        self.clock, self.n_taken = clock, 0

    def take(self, data, what, now_s):
        self.clock.now_s += 1.0
        self.n_taken += 1
        return []

    def overdue(self, now_s):
        return []


def test_files_that_are_left_out_hold_nobody_up(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(whole(number))
    clock = Clock()
    slow = Slow(clock)
    source = DicomFolder(tmp_path, slow, clock_s=clock, sleep=clock.sleep)
    taken = []
    for _ in range(30):
        found = source.poll(0.5)
        assert found == (Reading() if slow.n_taken < 20 else None)
        taken.append(slow.n_taken)

    assert max(b - a for a, b in itertools.pairwise(taken)) == 1
    assert taken[-1] == 20


def test_files_that_take_long_to_put_in_order_hold_nobody_up(tmp_path, monkeypatch):
    for number in range(8):
        (tmp_path / f"{number}").write_bytes(whole(7 - number))
    clock, read_order = Clock(), dicom_folder.read_order

    def slowly(head):
        clock.now_s += 1.0
        return read_order(head)

    monkeypatch.setattr(dicom_folder, "read_order", slowly)
    source, took_s, found = opened(tmp_path, clock), [], []
    for _ in range(40):
        begin_s = clock.now_s
        found.append(source.poll(0.5))
        took_s.append(clock.now_s - begin_s)

    assert max(took_s) < 1.6
    assert numbers(found) == list(range(8))


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ScanError, match="expected a folder, found No such file"):
        opened(tmp_path / "nowhere")


def test_a_folder_that_vanishes_is_waited_for_and_then_given_up(tmp_path):
    clock, folder = Clock(), tmp_path / "share"
    folder.mkdir()
    source = opened(folder, clock)

    shutil.rmtree(folder)
    assert polled(source) == []
    folder.mkdir()
    (folder / "1.dcm").write_bytes(whole(0))
    clock.sleep(1)
    assert numbers(polled(source, 5)) == [0]

    shutil.rmtree(folder)
    assert polled(source) == []
    clock.sleep(folder_module.PATIENCE_S + 1)
    with pytest.raises(ScanError) as error:
        polled(source)
    assert str(error.value) == (
        f"{folder}: expected the folder that was there, found No such file or directory"
        " for 10 s. Is the share still connected?"
    )


@pytest.mark.recording
def test_a_recorded_run_comes_whole_and_in_order(tmp_path):
    recorded = sorted(recorded_data("siemens_mosaic_tr1000").iterdir())
    for index, file in enumerate(recorded):
        # Names in an order of their own.
        shutil.copy(file, tmp_path / f"{index * 7 % 24:02d}.IMA")

    assert numbers(polled(opened(tmp_path), 40)) == list(range(24))


@pytest.mark.recording
def test_ge_slices_become_volumes_and_a_missing_slice_costs_one(tmp_path):
    for file in recorded_data("ge_slices").iterdir():
        if not file.name.endswith(".MRDC.5"):
            shutil.copy(file, tmp_path / file.name)

    *volumes, refused = polled(opened(tmp_path), 80)

    assert numbers(volumes) == [1, 2]
    assert refused == Refused(
        "volume 0",
        "expected 18 slices, found 17. The volume is missing; the next ones go on",
    )


def fed(folder, count=3, **changes):
    """What a feed makes of a folder: what is said, and the lines."""
    told = Told(Feed(plan(volumes=count, **changes)))
    source = opened(folder)
    for arrival in polled(source, 12):
        told.take(arrival)
    told.wait(10.0)
    return told.said, told.lines


def test_other_series_between_do_not_disturb_a_run(tmp_path):
    for number in range(3):
        (tmp_path / f"bold{number}").write_bytes(whole(number))
        moco = whole(
            number,
            SeriesNumber=8,
            SeriesInstanceUID="1.9",
            ImageType=["ORIGINAL", "PRIMARY", "M", "MOCO"],
        )
        (tmp_path / f"moco{number}").write_bytes(moco)

    said, lines = fed(tmp_path)

    assert said == [
        ("begin", "rest"), ("volume", 0), ("volume", 1), ("volume", 2), ("end", 3)
    ]  # fmt: skip
    assert sum("motion-corrected copy" in line for line in lines) <= 1


def test_a_restarted_series_is_another_run(tmp_path):
    (tmp_path / "a").write_bytes(whole(0))
    for number in range(3):
        data = whole(number, SeriesNumber=9, SeriesInstanceUID="1.10")
        (tmp_path / f"b{number}").write_bytes(data)

    said, _ = fed(tmp_path)

    assert said == [
        ("begin", "rest"), ("volume", 0), ("aborted", 1),
        ("begin", "rest-2"), ("volume", 0), ("volume", 1), ("volume", 2), ("end", 3),
    ]  # fmt: skip


CHANGED = [
    (
        {"tr_ms": 2000.0},
        "volume 1, TR: expected 1.5 s, found 2 s",
    ),
    (
        {"volumes": [files.volume(1, (6, 5, 3))]},
        "volume 1, shape: expected [6, 5, 4], found [6, 5, 3]",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CHANGED)
def test_a_changed_protocol_ends_the_run_in_words(tmp_path, changes, message):
    options = {"volumes": [files.volume(1)], **changes}
    (tmp_path / "0").write_bytes(whole(0))
    made = files.enhanced(**options, InstanceNumber=2)
    (tmp_path / "1").write_bytes(files.dumped(made))

    said, lines = fed(tmp_path)

    assert said == [("begin", "rest"), ("volume", 0), ("aborted", 1)]
    assert lines[-1].endswith(message)


def test_a_volume_that_is_there_twice_counts_once(tmp_path):
    for name, number in (("0", 0), ("0 copy", 0), ("1", 1), ("2", 2)):
        (tmp_path / name).write_bytes(whole(number))

    said, lines = fed(tmp_path)

    assert said[-1] == ("end", 3)
    assert "volume 0 came again; the first one counts" in lines


def of(person, series, number):
    return whole(
        number,
        SeriesNumber=series,
        SeriesInstanceUID=f"1.2.{series}",
        PatientID=person,
        PatientName=person,
    )


@pytest.mark.parametrize(("before", "after"), [(3, 9), (9, 3)])
def test_who_goes_on_in_the_days_folder_gets_its_participants_files(
    tmp_path, before, after
):
    for number in range(4):
        (tmp_path / f"a{number}").write_bytes(of("A", before, number))
    first = Told(Feed(plan()))
    source = opened(tmp_path, is_new_only=True)
    for number in range(2):
        (tmp_path / f"b{number}").write_bytes(of("B", 7, number))
    arrivals = polled(source, 5)
    for arrival in arrivals:
        first.take(arrival)
    assert first.said == [("begin", "rest"), ("volume", 0), ("volume", 1)]
    for number in range(2, 4):
        (tmp_path / f"b{number}").write_bytes(of("B", 7, number))

    past = first.feed.past
    second = Told(Feed(plan(), past))
    start = plan().start("rest", arrivals[0].geometry)
    second.feed.resume(start, past.series, 2, 0)
    # Another process has another salt.
    receiver = DicomReceiver(Choice(), b"other")
    past = msgspec.structs.replace(past, left=source.left)
    source = opened(tmp_path, receiver=receiver, past=past)
    for arrival in polled(source, 20):
        second.take(arrival)
    (tmp_path / "c").write_bytes(of("C", after, 0))
    (tmp_path / "b4").write_bytes(of("B", 7, 4))
    for arrival in polled(source, 8):
        second.take(arrival)

    assert second.said == [("volume", 2), ("volume", 3), ("volume", 4), ("end", 5)]
    assert any("patient: expected that" in line for line in second.lines)


def test_voxels_are_those_of_the_file(tmp_path):
    (tmp_path / "0").write_bytes(whole(0))

    (volume,) = polled(opened(tmp_path), 3)

    assert sorted(volume.voxels.flat) == sorted(files.volume(0).flat)
    assert volume.voxels.dtype == np.int16
