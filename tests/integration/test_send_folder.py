"""A folder that holds files when `send` starts: whose they are is never guessed."""

import nibabel
import numpy as np
import pytest

from bci_bridge.messages import Volume
from bci_bridge.recording_reader import read_recording
from bci_bridge.sources.driver import send_runs
from bci_bridge.sources.nifti import nifti_folder
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import BackendError, UsageError
from tests.integration.test_send import command
from tests.integration.tiny import SHAPE
from tests.scanned import plan
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
        "another series was in the folder already; what was there of it is left out "
        "until a run is complete",
        "run rest: complete, 8 of 8 volumes (8 of a series that was there)",
    ]
    sent = [
        (one.envelope.record.run, np.frombuffer(one.envelope.payload, "<i2")[-1])
        for one in read_recording(tmp_path / "log" / "inputs")
        if isinstance(one.envelope.record, Volume)
    ]
    assert sent == [("rest", 200 + number) for number in range(COUNT)]


def refusal(verb, folder, **options):
    with pytest.raises(UsageError) as error:
        verb(folder, Sending(run="rest", volumes=3), **options)
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
