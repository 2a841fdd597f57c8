"""The doctor reads this very machine, says each thing in a line, leaves no trace."""

import json
import socket

import pytest

from bci_bridge.keyfolder import make_device
from runtime.errors import BackendError, UsageError
from tests import dicom_files as files
from verbs import doctor, doctor_images

LINES = [
    "engines", "instructions", "processors", "scheduling", "gpu", "clock",
    "clock source", "governor", "port", "descriptors", "/dev/shm",
]  # fmt: skip


@pytest.fixture(autouse=True)
def without_engines(monkeypatch):
    """Loading the libraries takes seconds, and is what the engines' own tests do."""
    monkeypatch.setattr(doctor, "_engines", lambda: ({"onnxruntime": "1"}, {}))
    monkeypatch.setattr(doctor, "_descriptors", lambda: 4096)
    monkeypatch.setattr(doctor, "_size", lambda folder: 1 << 40)


def said(capsys, **arguments):
    """Examine this machine; return its findings by name."""
    given = {"address": "tcp://127.0.0.1:*", "log": None, "keys": None}
    try:
        doctor.examine_rig(**{**given, **arguments}, as_json=True)
    except BackendError:
        status = 1
    else:
        status = 0
    found = json.loads(capsys.readouterr().out)
    return status, {one["what"]: one for one in found}


def test_every_fact_of_this_machine_is_one_line(capsys):
    status, found = said(capsys)
    doctor.examine_rig(address="tcp://127.0.0.1:*", log=None, keys=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()

    assert list(found) == LINES
    assert status == 0
    assert len(lines) == len(LINES)
    assert all(line.split()[0] in ("ok", "warning") for line in lines)


def test_a_log_is_measured_where_it_will_be_and_nothing_is_left(capsys, tmp_path):
    log = tmp_path / "not" / "there"

    _, found = said(capsys, log=log)

    assert "free" in found["log room"]["found"]
    assert found["log sync"]["found"].endswith("ms for a volume")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_is_a_problem(capsys, tmp_path):
    file = tmp_path / "file"
    file.touch()

    status, found = said(capsys, log=file)

    assert status == 1
    assert found["log"]["status"] == "problem"


@pytest.mark.parametrize("log", ["inputs", "outcomes"])
def test_a_log_that_the_server_would_refuse_is_a_problem(capsys, tmp_path, log):
    (tmp_path / log).mkdir()
    (tmp_path / log / "000000 (copy).mcap").touch()

    status, found = said(capsys, log=tmp_path)

    assert status == 1
    assert found["log"] == {
        "what": "log",
        "status": "problem",
        "found": f"recording {tmp_path}: {log}: 000000 (copy).mcap: expected segments "
        "alone, named like 000000.mcap, found another file",
        "remedy": "Move it out of the recording",
    }


def test_an_address_that_the_server_would_refuse_is_a_problem(capsys, tmp_path):
    address = "tcp://192.0.2.7:5760"
    make_device(tmp_path, "scanner", ("scanner",))

    status, found = said(capsys, address=address)
    with_keys = said(capsys, address=address, keys=tmp_path)[1]

    assert status == 1
    assert found["port"] == {
        "what": "port",
        "status": "problem",
        "found": f"address '{address}': expected a loopback address, found 192.0.2.7. "
        "Other interfaces need keys, which this server does not have",
        "remedy": "Make them with: neuroflow keys make, and give --keys",
    }
    assert with_keys["port"]["status"] == "warning"


def test_a_port_in_use_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        _, found = said(capsys, address=address)

    assert found["port"]["status"] == "warning"
    assert found["port"]["found"] == f"{address}: address already in use"


def test_keys_that_others_can_read_are_a_problem(capsys, tmp_path):
    make_device(tmp_path, "scanner", ("scanner",))
    good = said(capsys, keys=tmp_path)
    (tmp_path / "server.key").chmod(0o644)
    bad = said(capsys, keys=tmp_path)

    assert good[1]["keys"]["found"] == f"{tmp_path}: 1 devices in force"
    assert bad[0] == 1
    assert "expected a file readable by its owner alone" in bad[1]["keys"]["found"]


def test_a_malformed_address_is_wrong_usage():
    with pytest.raises(UsageError):
        doctor.examine_rig(address="here", log=None, keys=None, as_json=False)


def test_libraries_that_do_not_load_are_told_apart(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1")

    def load(name):
        if name == "openvino":
            raise ImportError("libtbb.so: no such file\nmore")

    monkeypatch.setattr(doctor.importlib, "import_module", load)

    found, broken = doctor._engines()

    assert list(found) == list(doctor.MODULES)
    assert broken == {"openvino": "libtbb.so: no such file"}


def test_a_folder_of_images_is_read_and_nothing_in_it_changes(capsys, tmp_path):
    made = files.enhanced([files.volume()])
    (tmp_path / "a").write_bytes(files.dumped(made))
    (tmp_path / "b.txt").write_text("no image")

    _, found = said(capsys, images=tmp_path)

    assert found["dicom folder"]["found"] == (
        f"{tmp_path}: series 7: 6 x 5 x 4 voxels, TR 1.5 s, slice times"
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b.txt"]


def test_a_folder_without_a_functional_volume_is_a_warning(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(doctor_images, "PATIENCE_S", 0.3)
    made = files.enhanced([files.volume()], SeriesDescription="localizer")
    (tmp_path / "a").write_bytes(files.dumped(made))

    _, found = said(capsys, images=tmp_path)

    assert found["dicom folder"]["status"] == "warning"
    assert found["dicom folder"]["found"] == (
        f"{tmp_path}: no functional volume; series 7: left out: a localiser."
        " Take it with --series 7"
    )


def test_a_folder_of_images_that_is_not_there_is_a_problem(capsys, tmp_path):
    status, found = said(capsys, images=tmp_path / "nowhere")

    assert status == 1
    assert found["dicom folder"]["status"] == "problem"


def test_a_port_for_images_is_free_or_is_not(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        _, taken = said(capsys, listen=place)
    _, free = said(capsys, listen=place)

    assert taken["dicom port"]["status"] == "warning"
    assert free["dicom port"]["found"] == f"tcp://{place} is free"


def test_what_reads_images_must_be_installed(capsys, monkeypatch):
    monkeypatch.setattr(doctor_images, "MODULES", ("pydicom", "absent_module"))

    status, found = said(capsys, listen="127.0.0.1:0")

    assert status == 1
    assert found["dicom"]["found"] == "absent_module not installed"
    assert found["dicom"]["remedy"] == "Install neuroflow-rt[scanner]"
