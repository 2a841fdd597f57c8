"""Recorded Siemens files drive a server, from a folder and pushed by a real peer."""

import re
import shutil
import subprocess
import sys
import warnings

import nibabel as nib
import numpy as np
import pytest
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.messages import Volume
from bci_bridge.recording_reader import read_recording
from runtime.errors import BackendError
from tests.integration.test_send import command
from tests.integration.tiny import MeanDecoder
from tests.scanned import recorded_data
from verbs.send import send_dicom_store
from verbs.send_commands import Images, Sending

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.nicom import dicomwrappers

pytestmark = pytest.mark.recording
SHAPE = (64, 64, 18)
STORESCU = shutil.which("storescu", path="/usr/bin:/usr/local/bin")
"""Debian's, of dcmtk; pynetdicom's where that is not installed."""


def nibabels(file):
    wrapper = dicomwrappers.wrapper_from_file(file)
    image = nib.Nifti1Image(
        wrapper.get_data(), np.diag([-1, -1, 1, 1]) @ wrapper.affine
    )
    return np.asarray(nib.as_closest_canonical(image).dataobj)


def require_all_answered(server, folder, recorded):
    """Every volume has its outcome, and the log holds nibabel's voxels."""
    every = Client(server.address, run="rest")
    outcomes = [one for one in every if isinstance(one, VolumeOutcome)]
    server.stop()
    logged = [
        entry.envelope
        for entry in read_recording(folder / "inputs")
        if isinstance(entry.envelope.record, Volume)
    ]

    assert [(one.volume_index, one.input) for one in outcomes] == [
        (index, "OK") for index in range(len(recorded))
    ]
    for index, (envelope, file) in enumerate(zip(logged, recorded, strict=True)):
        assert envelope.record.volume_index == index
        voxels = np.frombuffer(envelope.payload, f"<{envelope.record.dtype}")
        np.testing.assert_array_equal(voxels.reshape(SHAPE), nibabels(file))


def test_a_folder_of_mosaics_drives_a_server(running, tmp_path):
    recorded = sorted(recorded_data("siemens_mosaic_tr1000").iterdir())
    server = running(MeanDecoder(SHAPE), recording=str(tmp_path / "log"))
    words = ["dicom-folder", recorded[0].parent, "--run", "rest", "--volumes", 24]

    process = command(*words, "--to", server.address, "--from-start")
    lines = process.communicate(timeout=120)[1].splitlines()

    assert process.returncode == 0
    assert lines[0] == "run rest: begins, 64 x 64 x 18 voxels, TR 1 s, 24 volumes"
    assert lines[-1] == "run rest: complete, 24 of 24 volumes"
    require_all_answered(server, tmp_path / "log", recorded)


@pytest.mark.slow
def test_a_folder_is_gone_on_with_by_the_successor_of_a_killed_process(
    running, tmp_path
):
    recorded = sorted(recorded_data("siemens_mosaic_tr1000").iterdir())
    server = running(MeanDecoder(SHAPE), recording=str(tmp_path / "log"))
    (tmp_path / "export").mkdir()
    words = [
        "dicom-folder", tmp_path / "export", "--run", "rest", "--volumes", 24,
        "--spool", tmp_path / "spool", "--to", server.address, "--budget-s", 60,
    ]  # fmt: skip
    for file in recorded[:10]:
        shutil.copy(file, tmp_path / "export")

    with command(*words, "--from-start") as first:
        while "8 of 24" not in first.stderr.readline():
            pass
        first.kill()
    for file in recorded[10:]:
        shutil.copy(file, tmp_path / "export")
    second = command(*words)
    lines = second.communicate(timeout=120)[1].splitlines()

    assert second.returncode == 0
    assert lines[1].startswith("run rest: goes on after ")
    assert lines[-1] == "run rest: complete, 24 of 24 volumes"
    require_all_answered(server, tmp_path / "log", recorded)


def test_a_peer_that_pushes_mosaics_drives_a_server(running, tmp_path):
    recorded = sorted(recorded_data("siemens_mosaic_tr1000").iterdir())[:8]
    server = running(MeanDecoder(SHAPE), recording=str(tmp_path / "log"))
    words = [
        "dicom-store",
        "--listen",
        "127.0.0.1:0",
        "--callers",
        "PRISMA",
        "--run",
        "rest",
    ]
    peer = [STORESCU] if STORESCU else [sys.executable, "-m", "pynetdicom", "storescu"]

    process = command(*words, "--volumes", 8, "--to", server.address)
    said = process.stderr.readline()
    port = re.fullmatch(r"DICOM node NEUROFLOW listens on 127\.0\.0\.1:(\d+)\n", said)[
        1
    ]
    subprocess.run(
        [*peer, "-aet", "PRISMA", "-aec", "NEUROFLOW", "127.0.0.1", port, *recorded],
        check=True,
        timeout=60,
        capture_output=True,
    )
    lines = process.communicate(timeout=120)[1].splitlines()

    assert process.returncode == 0
    assert lines[-1] == "run rest: complete, 8 of 8 volumes"
    require_all_answered(server, tmp_path / "log", recorded)


def test_a_node_that_anybody_could_push_to_is_refused_in_one_line():
    process = command("dicom-store", "--listen", "192.0.2.1:11112", "--run", "rest")
    lines = process.communicate(timeout=60)[1]

    assert process.returncode == 2
    assert lines.splitlines()[-1] == (
        "neuroflow: --listen: expected loopback, found 192.0.2.1:11112. Other"
        " addresses need the console's own title: --callers TITLE"
    )


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sending = Sending(run="rest", volumes=3)

    with pytest.raises(BackendError) as error:
        send_dicom_store(
            "127.0.0.1:0", sending, Images(), title="NEUROFLOW", callers=()
        )

    assert str(error.value) == (
        "pynetdicom: expected it for DICOM, found none. Install neuroflow-rt[scanner]"
    )
