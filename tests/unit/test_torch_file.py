"""Files by torch.save: nothing in them runs, and what is none is named."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from runtime.errors import CheckpointError
from tests.released_files import (
    CONFIG,
    FLAGS,
    SAVE,
    fetched,
    flow_content,
    refusal,
    vae_content,
)
from training import released
from training.checkpoint import load_flow
from training.released import import_released


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Subject 1 is of the small preset."""
    monkeypatch.setattr(released, "config_of_subject", lambda _subject: CONFIG)


@pytest.fixture
def files(tmp_path):
    return fetched(tmp_path)


class Planted:
    """Would make a file, if whoever opens it let it."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Evaluated:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.target)!r})",)


@pytest.mark.parametrize(
    ("kind", "named"), [(Planted, "posix.mkdir"), (Evaluated, "__builtin__.eval")]
)
@pytest.mark.parametrize("place", ["beside", "in args", "in model", "in a namespace"])
def test_what_would_run_is_refused_and_does_not_run(
    files, tmp_path, kind, named, place
):
    trap = kind(tmp_path / "trap")
    content = flow_content()
    if place == "beside":
        content["more"] = trap
    elif place == "in args":
        content["args"] = trap
    elif place == "in model":
        content["model"]["x"] = trap
    else:
        content["args"] = argparse.Namespace(subject=trap)
    torch.save(content, files[1])

    line = refusal(files)

    assert not (tmp_path / "trap").exists()
    assert line.startswith(f"{files[1]}: expected tensors and plain values, found ")
    assert named.rpartition(".")[2] in line
    assert line.endswith("which can run code. Nothing of the file was loaded")
    # The trap is a real one: an ordinary unpickler walks into it.
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "trap").exists()


def written_as_archive(path, program):
    """Write a zip like torch.save's around a pickle of our choice."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("last/data.pkl", program)
        archive.writestr("last/byteorder", b"little")
        archive.writestr("last/version", b"3\n")


def test_the_one_class_that_is_let_in_cannot_be_made_to_run_anything(files, tmp_path):
    """Every instruction that a pickle has for an instance, tried on Namespace."""
    target = str(tmp_path / "trap").encode()
    namespace = b"cargparse\nNamespace\n"
    called = b"cposix\nmkdir\n(X" + len(target).to_bytes(4, "little") + target + b"tR"
    programs = {
        # A class called with an argument, which would be its constructor's.
        "REDUCE": namespace + b"(I1\ntR.",
        "OBJ": b"(" + namespace + b"o.",
        "INST": b"(iargparse\nNamespace\n.",
        # A state that is a call, and one that replaces methods.
        "BUILD": namespace + b")\x81" + called + b"b.",
        "STACK_GLOBAL": b"X\x05\x00\x00\x00posixX\x05\x00\x00\x00mkdir\x93.",
        # An attribute of what is let in is not let in with it.
        "attribute": b"cargparse\nNamespace.__init__\n.",
        "its module": b"cargparse\n_sys.exit\n.",
    }
    for name, program in programs.items():
        written_as_archive(files[1], b"\x80\x02" + program)
        assert "found" in refusal(files), name
        assert not (tmp_path / "trap").exists()


def test_methods_that_a_file_gives_a_namespace_are_values_only(files, tmp_path):
    flags = argparse.Namespace(**FLAGS)
    for name in ("__setstate__", "__eq__", "__getattr__", "__class__", "__dict__"):
        flags.__dict__[name] = OrderedDict
    torch.save(flow_content(args=flags), files[1])

    import_released(*files, tmp_path / "out", 1)

    assert load_flow(tmp_path / "out" / "flow")[1].step == 50_000
    # With one, the reader would call it on what a file holds.
    assert not hasattr(argparse.Namespace, "__setstate__")


def test_what_others_let_in_stays_out_meanwhile_and_is_theirs_again_after(
    files, tmp_path
):
    """Libraries let their own classes in when they are imported, for everyone."""
    before = set(torch.serialization.get_safe_globals())
    torch.save(flow_content(more=Planted(tmp_path / "trap")), files[1])

    with torch.serialization.safe_globals([(os.mkdir, "posix.mkdir")]):
        line = refusal(files)
        torch.save(flow_content(), files[1])
        import_released(*files, tmp_path / "out", 1)
        during = set(torch.serialization.get_safe_globals())

    assert "posix.mkdir, which can run code" in line
    assert not (tmp_path / "trap").exists()
    assert during == before | {(os.mkdir, "posix.mkdir")}
    assert set(torch.serialization.get_safe_globals()) == before


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def folder(path):
    path.unlink()
    path.mkdir()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"a")


def scripted(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/constants.pkl", b"")


UNLIKE = {
    "missing": (lambda path: path.unlink(), f"{SAVE} none"),
    "folder": (folder, f"{SAVE} a folder"),
    "fifo": (lambda path: (path.unlink(), os.mkfifo(path)), f"{SAVE} another"),
    "empty": (lambda path: path.write_bytes(b""), f"{SAVE} an empty file"),
    "html": (
        lambda path: path.write_text("\n<!DOCTYPE html><title>404</title>"),
        f"{SAVE} a web page or XML. Download the file itself, not its page",
    ),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        f"{SAVE} a Git LFS pointer. Fetch the file itself",
    ),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"model": {}})),
        f"{SAVE} a bare pickle, which can run code. Save it anew with torch.save",
    ),
    "old torch": (
        lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
        f"{SAVE} a bare pickle, which can run code. Save it anew with torch.save",
    ),
    "numbers": (lambda path: path.write_bytes(bytes(99)), f"{SAVE} another format"),
    "other zip": (other_zip, f"{SAVE} a zip archive of other files"),
    "torchscript": (scripted, f"{SAVE} TorchScript, which is a program"),
    "compressed": (compressed, f"{SAVE} compressed entries"),
    "truncated": (
        half,
        f"{SAVE} a truncated or damaged zip archive (File is not a zip file). "
        "Fetch it again",
    ),
}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("case", UNLIKE)
def test_what_is_no_file_of_torch_save_is_named(files, case, which):
    spoil, message = UNLIKE[case]
    spoil(files[which])

    assert refusal(files) == f"{files[which]}: {message}"


@pytest.mark.parametrize(
    "program",
    [b"", b".", b"\x80\x02", b"\x80\x02(((((", b"\x80\x02]r\xff\xff\xff\xff."],
)
def test_a_damaged_pickle_in_a_whole_archive_is_one_line(files, program):
    written_as_archive(files[0], program)

    assert refusal(files).startswith(f"{files[0]}: expected ")


@pytest.mark.slow
def test_every_cut_and_many_changed_bytes_end_in_one_line_or_in_the_same_weights(
    files, tmp_path
):
    """No damage to a file ends in another error, or in weights that are not finite."""
    # Two thirds of a file are the optimiser's, which is read and not looked at.
    torch.save(vae_content(optimizer={"state": {}, "param_groups": []}), files[0])
    whole = files[0].read_bytes()
    picked = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(whole), (150,), generator=picked).tolist()
    with zipfile.ZipFile(files[0]) as archive:
        start = archive.getinfo("last/data.pkl").header_offset
    places += list(range(start, start + 1500, 11))
    lines = []
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 0x15
        files[0].write_bytes(changed)
        try:
            found = released.read_neurovae(files[0], CONFIG)
        except CheckpointError as error:
            lines.append(str(error))
        else:
            assert all(bool(torch.isfinite(v).all()) for v in found.weights.values())
    for place in range(0, len(whole), len(whole) // 40):
        files[0].write_bytes(whole[:place])
        with pytest.raises(CheckpointError):
            released.read_neurovae(files[0], CONFIG)
    assert len(lines) > 20
    assert not any("\n" in line for line in lines)
