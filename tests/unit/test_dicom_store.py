"""Real peers push images over loopback; whoever may not push does not."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLosslessSV1
from pynetdicom import AE, evt

from bci_bridge.sources import dicom_store
from bci_bridge.sources.dicom_elements import ENHANCED_MR_IMAGE, MR_IMAGE
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.dicom_store import OUT_OF_RESOURCES, DicomStore, Node
from bci_bridge.sources.listening import Place
from bci_bridge.sources.series_choice import Choice
from bci_bridge.sources.source import Refused
from runtime.errors import ScanError, UsageError
from tests import dicom_files as files

DCMTK = shutil.which("storescu", path="/usr/bin:/usr/local/bin")
HERE = Place("127.0.0.1", 0)
PEERS = {
    "pynetdicom": [sys.executable, "-m", "pynetdicom", "storescu"],
    "dcmtk": [DCMTK],
}


@contextmanager
def serving(**node):
    # Threads that other tests or the runner keep are not waited for.
    others = set(threading.enumerate())
    receiver = DicomReceiver(Choice(), b"salt")
    store = DicomStore(Node(HERE, **node), receiver)
    try:
        yield store
    finally:
        store.close()
        deadline = time.monotonic() + 10
        while set(threading.enumerate()) - others and time.monotonic() < deadline:
            time.sleep(0.01)


def written(folder, count=3):
    """Enhanced files of one volume each."""
    for time_ in range(count):
        made = files.enhanced([files.volume(time_)], InstanceNumber=time_ + 1)
        (folder / f"{time_}.dcm").write_bytes(files.dumped(made))
    return sorted(folder.glob("*.dcm"))


@contextmanager
def associated(
    store, contexts=(MR_IMAGE, ENHANCED_MR_IMAGE), title="CONSOLE", called="NEUROFLOW"
):
    entity = AE(title)
    for context in contexts:
        entity.add_requested_context(
            *([context] if isinstance(context, str) else context)
        )
    sockets = []
    line = entity.associate(
        "127.0.0.1",
        store.place.port,
        ae_title=called,
        evt_handlers=[
            (evt.EVT_CONN_OPEN, lambda e: sockets.append(e.assoc.dul.socket.socket))
        ],
    )
    try:
        yield line
    finally:
        if line.is_established:
            line.release()
        if line.is_alive():
            line.join(10)
        for each in sockets:
            # pynetdicom leaves a socket open whose peer was the first to go.
            each.close()


@pytest.mark.parametrize("peer", PEERS)
def test_a_real_peer_pushes_a_run(peer, tmp_path):
    if PEERS[peer][0] is None:
        pytest.skip("Debian's dcmtk, whose storescu pushes images, is not installed")
    sent = written(tmp_path)
    with serving(callers=("CONSOLE",)) as store:
        subprocess.run(
            [*PEERS[peer], "-aet", "CONSOLE", "-aec", "NEUROFLOW", "127.0.0.1",
             str(store.place.port), *map(str, sent)],
            check=True, timeout=60, capture_output=True,
        )  # fmt: skip
        found = [store.poll(5.0) for _ in sent]

    for number, volume in enumerate(found):
        assert volume.number == number
        assert sorted(volume.voxels.flat) == sorted(files.volume(number).flat)


class Slow(DicomReceiver):
    """A receiver that leaves out all that comes, and takes its time."""

    def __init__(self):
        self.now_s, self.n_taken = 0.0, 0

    def take(self, data, what, now_s):
        self.now_s += 1.0
        self.n_taken += 1
        return []

    def overdue(self, now_s):
        return []


def test_images_that_are_left_out_hold_nobody_up(tmp_path):
    slow = Slow()
    store = DicomStore(Node(HERE), slow, clock_s=lambda: slow.now_s)
    with associated(store) as line:
        for file in written(tmp_path):
            assert line.send_c_store(str(file)).Status == 0
    found = []
    for n_polls in range(1, 4):
        found.append(store.poll(0.5))
        assert slow.n_taken == n_polls
    store.close()

    assert found == [None] * 3


def test_an_echo_is_answered():
    with serving() as store, associated(store, ["1.2.840.10008.1.1"]) as line:
        assert line.send_c_echo().Status == 0


def test_a_stranger_is_turned_away():
    with (
        serving(callers=("SCANNER",)) as store,
        associated(store, title="STRANGER") as line,
    ):
        assert line.is_rejected


def test_other_titles_and_classes_and_compressed_images_are_not_agreed_to():
    secondary = "1.2.840.10008.5.1.4.1.1.7"
    with serving() as store:
        with associated(store, [secondary, (MR_IMAGE, JPEGLosslessSV1)]) as line:
            assert not line.is_established
        with associated(store, called="ELSEWHERE") as line:
            assert line.is_rejected


def test_without_room_the_console_hears_it_and_sends_again(monkeypatch):
    monkeypatch.setattr(dicom_store, "ROOM_S", 0.0)
    made = [files.enhanced([files.volume(n)], InstanceNumber=n + 1) for n in range(2)]
    with serving(room_bytes=100) as store, associated(store) as line:
        assert line.send_c_store(made[0]).Status == 0
        assert line.send_c_store(made[1]).Status == OUT_OF_RESOURCES
        assert store.poll(5.0).number == 0
        assert line.send_c_store(made[1]).Status == 0
        assert store.poll(5.0).number == 1
        assert store.poll(0.0) is None


def test_a_console_may_release_its_association_after_the_last_image():
    with serving() as store, associated(store) as line:
        assert line.send_c_store(files.enhanced([files.volume()])).Status == 0
        closing = threading.Thread(target=store.close)
        closing.start()
        time.sleep(0.05)
        assert line.is_established

        line.release()
        closing.join(10)

        assert line.is_released


def test_what_cannot_be_read_is_refused_and_the_next_image_is_taken():
    with serving() as store, associated(store) as line:
        bad = files.enhanced([files.volume()], NumberOfFrames=9)
        assert line.send_c_store(bad).Status == 0
        assert line.send_c_store(files.enhanced([files.volume()])).Status == 0

        assert store.poll(5.0) == Refused(
            "image 1", "PixelData: expected 540 bytes, found 240"
        )
        assert store.poll(5.0).number == 0


def test_a_peer_that_announces_too_much_is_cut_off_and_others_are_served(monkeypatch):
    monkeypatch.setattr(dicom_store, "HANDSHAKE_S", 0.5)
    with serving() as store:
        with socket.create_connection(("127.0.0.1", store.place.port)) as hostile:
            hostile.settimeout(10)
            hostile.sendall(b"\x01\x00\xff\xff\xff\xff" + bytes(1000))
            # What it never read makes the system end the line with a reset.
            with suppress(ConnectionResetError):
                assert hostile.recv(1) == b""
        with associated(store) as line:
            assert line.send_c_store(files.enhanced([files.volume()])).Status == 0
        assert store.poll(5.0).number == 0


def test_an_image_beyond_the_limit_ends_its_connection(monkeypatch):
    monkeypatch.setattr(dicom_store, "MAX_FILE_BYTES", 20_000)
    with serving() as store:
        with associated(store) as line:
            big = files.enhanced([np.zeros((100, 100, 4), "<i2")])
            assert "Status" not in line.send_c_store(big)
        assert store.poll(0.2) is None


def test_a_taken_port_is_said_with_a_remedy():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ScanError) as error:
            DicomStore(Node(Place("127.0.0.1", port)), DicomReceiver(Choice(), b"salt"))

    assert str(error.value) == (
        f"127.0.0.1:{port}: expected a free port, found: address already in use."
        " Stop the other program or give another port with --listen"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"place": Place("192.0.2.1", 11112)},
            "--listen: expected loopback, found 192.0.2.1:11112. Other addresses need"
            " the console's own title: --callers TITLE",
        ),
        (
            {"title": "SEVENTEEN_LETTERS"},
            "AE title: expected 1 to 16 printable characters without backslash,"
            " found 'SEVENTEEN_LETTERS'",
        ),
        (
            {"callers": ("A\\B",)},
            "AE title: expected 1 to 16 printable characters without backslash,"
            " found 'A\\\\B'",
        ),
    ],
)
def test_a_node_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UsageError) as error:
        Node(**{"place": HERE, **changes})

    assert str(error.value) == message


def test_recorded_mosaics_arrive_as_they_are_in_files():
    folder = Path(__file__).parents[3] / "shared/data/siemens_mosaic_tr1000"
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}")
    recorded = sorted(folder.iterdir())[:2]
    with serving() as store, associated(store) as line:
        for file in recorded:
            assert line.send_c_store(pydicom.dcmread(file)).Status == 0
        found = [store.poll(5.0) for _ in recorded]

    receiver = DicomReceiver(Choice(), b"salt")
    for volume, file in zip(found, recorded, strict=True):
        (expected,) = receiver.take(file.read_bytes(), "a", 0.0)
        assert volume.series == expected.series
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
