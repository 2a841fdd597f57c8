"""A folder that holds files when `send` starts: whose they are is never guessed."""

import nibabel
import numpy as np
import pytest

from bci_bridge.messages import Volume
from bci_bridge.recording_reader import read_recording
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.driver import send_runs
from bci_bridge.sources.journal import Journal
from bci_bridge.sources.nifti import nifti_folder
from bci_bridge.sources.plan import Past
from bci_bridge.sources.series_choice import Choice
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import BackendError, UsageError
from tests import dicom_files
from tests.integration.test_send import command
from tests.integration.tiny import SHAPE
from tests.scanned import plan, polled
from verbs import send
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


class Doomed:
    """A folder whose process dies after some volumes."""

    def __init__(self, source, left):
        self.source, self.left = source, left

    def poll(self, wait_s):
        if not self.left:
            raise BackendError("killed")
        found = self.source.poll(wait_s)
        self.left -= isinstance(found, ScannedVolume)
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


@pytest.mark.parametrize("flags", [[], ["--new-only"]])
def test_who_goes_on_gets_the_gaps_files_and_no_older_series(running, tmp_path, flags):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "a", range(COUNT), 100)
    source = Doomed(nifti_folder(folder, is_new_only=True), 3)
    put(folder, "b", range(3), 200)
    plans = plan(volumes=COUNT, tr_s=1.0, budget_s=60.0)
    spool = tmp_path / "spool"
    with pytest.raises(BackendError, match="killed"):
        send_runs(source, plans, server.address, tell=str, spool=spool)
    put(folder, "b", range(3, COUNT), 200)
    words = ["nifti", folder, "--run", "rest", "--volumes", COUNT, "--tr-s", 1]
    words += ["--budget-s", 60, "--spool", spool, "--to", server.address]
    process = command(*words, *flags)
    lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert process.returncode == 0
    assert lines == [
        "run rest: goes on after 3 volumes",
        "series a_ was in the folder already; it and others that were are left out, "
        "because older ones may be among them. What is to be decoded of these, send "
        "from a folder of its own, with another --run and --from-start",
        "run rest: complete, 8 of 8 volumes (8 of a series that was there)",
    ]
    assert sent(tmp_path) == [("rest", 200 + number) for number in range(COUNT)]


@pytest.mark.parametrize("flags", [[], ["--new-only"], ["--from-start"]])
def test_killed_between_two_runs_the_same_command_takes_the_next(
    running, tmp_path, flags
):
    server, folder = running(recording=str(tmp_path / "log")), tmp_path / "export"
    put(folder, "a", range(COUNT), 100)
    source = Doomed(nifti_folder(folder, is_new_only=True), COUNT)
    put(folder, "b", range(COUNT), 200)
    plans = plan(volumes=COUNT, tr_s=1.0, budget_s=60.0, runs=2)
    spool = tmp_path / "spool"
    with pytest.raises(BackendError, match="killed"):
        send_runs(source, plans, server.address, tell=str, spool=spool)
    put(folder, "c", range(COUNT), 300)
    words = ["nifti", folder, "--run", "rest", "--runs", 2, "--volumes", COUNT]
    words += ["--tr-s", 1, "--budget-s", 60, "--spool", spool, "--to", server.address]
    process = command(*words, *flags)
    lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert process.returncode == 0
    assert lines[-1].startswith("run rest-2: complete, 8 of 8 volumes")
    assert sent(tmp_path) == [
        *(("rest", 200 + number) for number in range(COUNT)),
        *(("rest-2", 300 + number) for number in range(COUNT)),
    ]


def test_a_successor_knows_whose_images_are_its_own(tmp_path, monkeypatch):
    folder, spool, sources = tmp_path / "day", tmp_path / "spool", []
    folder.mkdir()
    for series in (3, 7):
        image = dicom_files.enhanced(
            [dicom_files.volume(series)],
            SeriesNumber=series,
            SeriesInstanceUID=f"1.2.{series}",
            PatientID=f"P{series}",
            InstanceNumber=1,
        )
        (folder / f"{series}.dcm").write_bytes(dicom_files.dumped(image))
    (own,) = DicomReceiver(Choice(), b"").take((folder / "7.dcm").read_bytes(), "", 0.0)
    Journal(spool).write(Past(run="rest", begun=1, over=(own.series,)))
    monkeypatch.setattr(send, "send", lambda source, sending: sources.append(source))
    sending = Sending(run="rest", volumes=3, spool=spool)
    flags = {"is_new_only": False, "is_from_start": False}
    send_dicom_folder(folder, sending, Images(), pattern="*", **flags)
    found = polled(sources[0], 8)

    assert [one.series[:6] for one in found] == ["000003", "000007"]


def test_after_the_operators_stop_it_is_asked_again_whose_the_files_are(
    running, tmp_path
):
    server, folder, spool = running(), tmp_path / "export", tmp_path / "spool"
    folder.mkdir()
    source = Doomed(nifti_folder(folder), 3)
    put(folder, "b", range(3), 200)
    plans = plan(volumes=COUNT, tr_s=1.0, budget_s=60.0)
    send_runs(
        source,
        plans,
        server.address,
        tell=str,
        spool=spool,
        is_stopped=lambda: not source.left,
    )
    server.stop()
    put(folder, "c", range(COUNT), 300)

    found = {"pattern": None, "first_number": None, "speed": None, "is_fast": False}
    line = refusal(
        send_nifti, folder, spool, **found, is_new_only=False, is_from_start=False
    )
    assert "found 11 files in it" in line


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
