"""A folder that holds files when `send` starts: whose they are is never guessed."""

import os
import time
from functools import partial

import nibabel
import numpy as np
import pytest
from msgspec import structs

from bci_bridge.messages import Volume
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from bci_bridge.sources import driver
from bci_bridge.sources.dicom_folder import DicomFolder
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.driver import send_runs
from bci_bridge.sources.folder import place
from bci_bridge.sources.journal import Journal
from bci_bridge.sources.nifti import nifti_folder
from bci_bridge.sources.past import STALE_S, Past
from bci_bridge.sources.series_choice import Choice
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from bci_bridge.spool import Spool
from bci_bridge.wire import encode
from runtime.errors import BackendError, UsageError
from tests import dicom_files
from tests.integration.test_send import command
from tests.integration.tiny import SHAPE
from tests.scanned import plan, polled, scanned
from verbs import send_source
from verbs.send import send_dicom_folder, send_nifti, send_philips
from verbs.send_commands import Images, Sending

COUNT = 8


def put(folder, series, numbers, first):
    """Write volumes; each holds its number, and what comes first in its series."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        voxels = np.full(SHAPE, first + number, np.int16)
        voxels.flat[0] = -1
        image = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
        nibabel.save(image, folder / f"{series}_{number:04d}.nii.gz")


class KilledError(Exception):
    """No error of ours: a process that is killed says nothing."""


class Doomed:
    """A folder whose process dies after some volumes."""

    def __init__(self, source, n_left):
        self.source, self.n_left = source, n_left
        # A sender of which a run is under way leaves it as a kill does.
        self.error = (BackendError if n_left else KilledError)("killed")
        self.left = source.left

    def poll(self, wait_s):
        if not self.n_left:
            raise self.error
        found = self.source.poll(wait_s)
        self.n_left -= isinstance(found, ScannedVolume)
        return found

    def close(self):
        self.source.close()


def sent(folder):
    """The run of each volume that the server logged, and the volume's last voxel."""
    return [
        (one.envelope.record.run, np.frombuffer(one.envelope.payload, "<i2")[-1])
        for one in read_recording(folder / "log" / "inputs")
        if isinstance(one.envelope.record, Volume)
    ]


PLAN = plan(volumes=COUNT, tr_s=1.0, budget_s=60.0, quiet_s=3.0)
CAME = "an earlier process was killed: what came since it began is sent"


def die(source, server, spool, plans=PLAN):
    """Send until the source's process dies."""
    with pytest.raises(type(source.error), match="killed"):
        send_runs(
            source, plans, server.address, tell=str, spool=spool, left=source.left
        )


def started(folder, server, spool, *flags):
    words = ["nifti", folder, "--run", "rest", "--volumes", COUNT, "--tr-s", 1]
    words += ["--budget-s", 60, "--spool", spool, "--to", server.address]
    return command(*words, "--quiet-s", 3, *flags)


def go_on(folder, server, spool, *flags):
    """Start the command, as after a kill; return its status and lines."""
    process = started(folder, server, spool, *flags)
    lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()
    return process.returncode, lines


def of(run, first):
    return [(run, first + number) for number in range(COUNT)]


@pytest.mark.parametrize("flags", [[], ["--new-only"], ["--from-start"]])
def test_who_goes_on_gets_the_gaps_files_and_no_older_series(running, tmp_path, flags):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "a", range(COUNT), 100)
    put(folder, "c", range(COUNT), 300)
    spool = tmp_path / "spool"
    source = Doomed(nifti_folder(folder, is_new_only=True), 3)
    put(folder, "b", range(3), 200)
    die(source, server, spool)
    put(folder, "b", range(3, COUNT), 200)
    status, lines = go_on(folder, server, spool, *flags)

    assert status == 0
    assert lines == [
        CAME,
        "run rest: goes on after 3 volumes",
        "run rest: complete, 8 of 8 volumes",
    ]
    assert sent(tmp_path) == of("rest", 200)


@pytest.mark.parametrize("what", ["there", "late", "moved", "deleted"])
def test_a_series_is_counted_as_it_was_before_the_kill(running, tmp_path, what):
    # Its file 0 was there already, comes late, or is gone: nothing is shifted by it.
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    spool = tmp_path / "spool"
    begin = 1 if what in ("there", "late") else 0
    if what == "there":
        put(folder, "b", [0], 200)
    folder.mkdir(exist_ok=True)
    source = Doomed(nifti_folder(folder, is_new_only=what == "there"), 3)
    put(folder, "b", range(begin, begin + 3), 200 - begin)
    die(source, server, spool)
    if what == "late":
        put(folder, "b", [0], 200)
    gone = {"moved": "b_*", "deleted": "b_0000*"}.get(what, "none")
    for file in folder.glob(gone):
        file.unlink()
    put(folder, "b", range(begin + 3, begin + COUNT), 200 - begin)
    status, lines = go_on(folder, server, spool)

    assert status == 0
    assert sent(tmp_path) == of("rest", 200)
    assert lines[-1].startswith("run rest: complete, 8 of 8 volumes")
    assert any("numbered 1 too low" in line for line in lines) == (what == "late")


@pytest.mark.parametrize("flags", [[], ["--new-only"]])
@pytest.mark.parametrize("own", [None, "run9"])
def test_killed_between_two_runs_the_same_command_takes_the_next(
    running, tmp_path, flags, own
):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "run8", range(COUNT), 100)
    put(folder, "run99", range(COUNT), 400)
    spool = tmp_path / "spool"
    source = Doomed(nifti_folder(folder, is_new_only=True), COUNT)
    put(folder, "run9", range(COUNT), 200)
    die(source, server, spool, plan(volumes=COUNT, tr_s=1.0, budget_s=60.0, runs=2))
    # A rig may have moved away what was read.
    for file in folder.glob(f"{own}_*"):
        file.unlink()
    put(folder, "run10", range(COUNT), 300)
    status, lines = go_on(folder, server, spool, "--runs", 2, *flags)

    assert status == 0
    assert lines[-1].startswith("run rest-2: complete, 8 of 8 volumes")
    assert sent(tmp_path) == [*of("rest", 200), *of("rest-2", 300)]


@pytest.mark.parametrize("flags", [[], ["--new-only"]])
def test_killed_before_the_first_volume_the_same_command_has_all(
    running, tmp_path, flags
):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "a", range(COUNT), 100)
    spool = tmp_path / "spool"
    die(Doomed(nifti_folder(folder, is_new_only=True), 0), server, spool)
    put(folder, "b", range(COUNT), 200)
    status, lines = go_on(folder, server, spool, *flags)

    assert (status, lines[0]) == (0, CAME)
    assert sent(tmp_path) == of("rest", 200)


def test_a_run_that_began_meanwhile_is_whole(running, tmp_path):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    folder.mkdir()
    spool = tmp_path / "spool"
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "run9", range(3), 200)
    die(source, server, spool)
    put(folder, "run10", range(COUNT), 300)
    status, lines = go_on(folder, server, spool)

    assert status == 0
    assert lines[2].startswith("run rest: aborted, 3 of 8 volumes: another series")
    assert sent(tmp_path) == [*of("rest", 200)[:3], *of("rest-2", 300)]


def test_a_successor_knows_whose_images_are_its_own(tmp_path, monkeypatch):
    folder, spool, sources = tmp_path / "day", tmp_path / "spool", []
    folder.mkdir()
    for series in (3, 7, 9):
        image = dicom_files.enhanced(
            [dicom_files.volume(series)],
            SeriesNumber=series,
            SeriesInstanceUID=f"1.2.{series}",
            PatientID="other" if series == 3 else "own",
            InstanceNumber=1,
        )
        (folder / f"{series}.dcm").write_bytes(dicom_files.dumped(image))
    (own,) = DicomReceiver(Choice(), b"").take((folder / "7.dcm").read_bytes(), "", 0.0)
    left = DicomFolder(folder, DicomReceiver(Choice(), b"")).left
    Journal(spool, PLAN).begin(Past(run="rest", begun=1, series=own.series), left)
    held = Spool(spool)
    start = plan().start("rest", own.geometry)
    held.begin(start, "scanner", "scanner", lambda: "secret")
    held.append(encode(structs.replace(start, stream="scanner"), b""))
    held.close()
    monkeypatch.setattr(
        send_source, "send", lambda source, sending, **more: sources.append(source)
    )
    sending = Sending(run="rest", volumes=3, spool=spool)
    flags = {"is_new_only": False, "is_from_start": False}
    send_dicom_folder(folder, sending, Images(), pattern="*", **flags)
    found = polled(sources[0], 8)

    assert [one.series[:6] for one in found if isinstance(one, ScannedVolume)] == [
        "000007",
        "000009",
    ]
    assert [one.what for one in found if isinstance(one, Refused)] == ["3.dcm"]


def stop(source, server, spool):
    """Send until the operator stops it, after some volumes."""
    send_runs(
        source,
        PLAN,
        server.address,
        tell=str,
        spool=spool,
        left=source.left,
        is_stopped=lambda: not source.n_left,
    )


def test_after_the_operators_stop_it_is_asked_again_whose_the_files_are(
    running, tmp_path
):
    server, folder, spool = running(), tmp_path / "export", tmp_path / "spool"
    folder.mkdir()
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)
    stop(source, server, spool)
    put(folder, "c", range(COUNT), 300)
    status, lines = go_on(folder, server, spool)

    assert status == 2
    assert "found 11 files in it" in lines[0]


def test_a_series_that_was_stopped_by_mistake_is_sent_from_its_start(running, tmp_path):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    folder.mkdir()
    spool = tmp_path / "spool"
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)
    stop(source, server, spool)
    put(folder, "b", range(3, COUNT), 200)
    status, lines = go_on(folder, server, spool, "--from-start")

    assert status == 0
    assert lines[-1] == "run rest-2: complete, 8 of 8 volumes"
    assert sent(tmp_path) == [*of("rest", 200)[:3], *of("rest-2", 200)]


def test_without_a_flag_an_emptied_folder_may_have_the_same_names(running, tmp_path):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    folder.mkdir()
    spool = tmp_path / "spool"
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)
    stop(source, server, spool)
    for file in folder.iterdir():
        file.unlink()
    process = started(folder, server, spool)
    while Journal(spool, PLAN).past.is_stopped:
        time.sleep(0.05)  # until it has looked at the folder
    put(folder, "b", range(COUNT), 300)
    process.communicate(timeout=60)
    server.stop()

    assert process.returncode == 0
    assert sent(tmp_path) == [*of("rest", 200)[:3], *of("rest-2", 300)]


def test_a_first_flag_that_was_wrong_is_mended_after_a_stop(running, tmp_path):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "b", range(3), 200)
    spool = tmp_path / "spool"
    stop(Doomed(nifti_folder(folder, is_new_only=True), 0), server, spool)
    put(folder, "b", range(3, COUNT), 200)
    status, lines = go_on(folder, server, spool, "--from-start")

    assert (status, CAME in lines) == (0, False)
    assert sent(tmp_path) == of("rest", 200)


def test_a_start_that_was_refused_overrules_no_later_flag(running, tmp_path):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "old", range(COUNT), 100)
    spool = tmp_path / "spool"
    start = PLAN.start("x", scanned(0, shape=SHAPE).geometry)
    # Its run is under way at the server: no other may begin.
    with Sender(server.address, start, stream="other"):
        process = started(folder, server, spool, "--from-start")
        lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert process.returncode == 1
    assert "BUSY" in lines[-1]
    assert not Journal(spool, PLAN).goes_on(place(folder), "")


@pytest.mark.parametrize("why", ["elsewhere", "long ago"])
def test_another_folder_or_day_is_another_run(running, tmp_path, why):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    folder.mkdir()
    spool = tmp_path / "spool"
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)
    die(source, server, spool)
    if why == "long ago":
        then_s = (spool / "series.json").stat().st_mtime - STALE_S - 60
        os.utime(spool / "series.json", (then_s, then_s))
        for file in folder.iterdir():
            file.unlink()
    else:
        folder = tmp_path / "next"
    put(folder, "b", range(COUNT), 300)
    status, lines = go_on(folder, server, spool, "--from-start")

    assert status == 0
    assert lines[0] == "run rest: aborted, nobody goes on with it"
    assert sent(tmp_path) == [*of("rest", 200)[:3], *of("rest-2", 300)]


def test_a_stop_is_one_although_the_server_is_away(running, tmp_path, monkeypatch):
    finish = partial(driver.finish_spool, timeout_s=0.5)
    monkeypatch.setattr(driver, "finish_spool", finish)
    folder, spool = tmp_path / "export", tmp_path / "spool"
    folder.mkdir()
    server = running(recording=str(tmp_path / "log"))
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)

    def is_stopped():
        if not source.n_left:
            server.stop()
        return not source.n_left

    with pytest.raises(BackendError):
        send_runs(
            source,
            PLAN,
            server.address,
            tell=str,
            spool=spool,
            left=source.left,
            is_stopped=is_stopped,
            outage_s=0.5,
        )
    journal = Journal(spool, PLAN)
    assert journal.past.is_stopped

    # Nor is it forgotten by one that does not reach the server either.
    assert not journal.goes_on(place(folder), "--from-start")
    with pytest.raises(BackendError):
        send_runs(
            nifti_folder(folder),
            PLAN,
            server.address,
            tell=str,
            spool=spool,
            journal=journal,
            left=source.left,
            outage_s=0.5,
        )
    assert Journal(spool, PLAN).past.is_stopped


def test_a_spool_whose_run_the_server_has_ended_says_what_to_do(running, tmp_path):
    folder, spool = tmp_path / "export", tmp_path / "spool"
    folder.mkdir()
    server = running()
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)
    die(source, server, spool)
    server.stop()
    status, lines = go_on(folder, running(), spool)

    assert status == 1
    assert lines[-1].endswith(
        f"The server takes no more of run rest: delete {spool} to give up what it does "
        "not have, or name another --spool"
    )


def refusal(verb, folder, spool=None, **options):
    with pytest.raises(UsageError) as error:
        verb(folder, Sending(run="rest", volumes=3, spool=spool), **options)
    return str(error.value)


@pytest.mark.parametrize(("count", "found"), [(1, "1 file"), (12, "12 files")])
def test_files_of_which_nobody_said_whose_they_are_are_refused(tmp_path, count, found):
    put(tmp_path, "a", range(count), 0)
    for number in range(count):
        (tmp_path / f"p{number}.par").write_bytes(b"")
    flags = {"is_new_only": False, "is_from_start": False}
    of_files = {"speed": None, "is_fast": False}
    line = (
        f"{tmp_path}: expected a folder that fills from now on, found {found} in it. "
        "If these are of earlier runs, say --new-only; if they belong to this one, "
        "--from-start"
    )

    nifti = {**of_files, "pattern": None, "first_number": None}
    assert refusal(send_nifti, tmp_path, **nifti, **flags) == line
    philips = {**of_files, "scaling": "dv"}
    assert refusal(send_philips, tmp_path, **philips, **flags) == line
    every = {"images": Images(), "pattern": "*.par"}
    assert refusal(send_dicom_folder, tmp_path, **every, **flags) == line


def test_a_second_run_from_one_folder_is_refused_at_its_start(tmp_path):
    put(tmp_path / "export", "a", range(3), 0)
    words = ["nifti", tmp_path / "export", "--run", "two", "--volumes", 3]
    process = command(*words, "--tr-s", 1, "--to", "tcp://127.0.0.1:9")
    lines = process.communicate(timeout=60)[1]

    assert process.returncode == 2
    assert lines.startswith(f"neuroflow: {tmp_path / 'export'}: expected a folder that")
