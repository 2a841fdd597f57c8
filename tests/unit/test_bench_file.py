"""The samples of a benchmark are kept whole, or what was there before still is."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

import runtime.private_file
import verbs.bench
from runtime.bench.result import decode_result
from runtime.errors import ArtifactError, UsageError
from runtime.sealed import FileSpec
from tests.bench_results import result
from verbs.bench_commands import bench
from verbs.bench_file import keep
from verbs.sealed_places import refuse_inside

SEALED = msgspec.json.encode(
    {
        "schema_version": 2,
        "files": [FileSpec(path="a.onnx", size=3, sha256="0" * 64)],
        "unknown": "to this version",
    }
)


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(verbs.bench, "_subject", lambda *_: None)
    monkeypatch.setattr(verbs.bench, "_measure", lambda *_: result())


def test_samples_are_kept_where_nobody_reads_the_tables(
    measured, monkeypatch, tmp_path
):
    def gone(_text, **_):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)

    with pytest.raises(BrokenPipeError):
        bench(preset="tiny", json=tmp_path / "a.json")

    assert decode_result((tmp_path / "a.json").read_bytes(), "a.json") == result()
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_an_older_file_outlives_a_disk_that_fills_while_the_next_is_written(
    measured, monkeypatch, tmp_path, capsys
):
    file = tmp_path / "a.json"
    file.write_text("of yesterday")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runtime.private_file.os, "fsync", full)
    with pytest.raises(ArtifactError) as caught:
        bench(preset="tiny", json=file)

    assert str(caught.value) == (
        f"{file}: expected a place to write, found: No space left on device"
    )
    assert file.read_text() == "of yesterday"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert "| step |" in capsys.readouterr().out


def test_a_link_stays_one_and_the_file_that_it_names_is_replaced(measured, tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("of yesterday")
    link.symlink_to(real)

    bench(preset="tiny", json=link)

    assert link.is_symlink()
    assert decode_result(real.read_bytes(), "real.json") == result()


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(measured, tmp_path, mode):
    file = tmp_path / "a.json"
    file.touch()
    file.chmod(mode)

    bench(preset="tiny", json=file)

    assert file.stat().st_mode & 0o777 == mode
    assert decode_result(file.read_bytes(), "a.json") == result()


@pytest.mark.parametrize(
    ("call", "number"),
    [
        # A folder that is not writable, one that is mounted to be read, and a file
        # that is mounted itself.
        ("os.open", errno.EACCES),
        ("os.open", errno.EROFS),
        ("Path.replace", errno.EBUSY),
    ],
)
def test_a_file_in_a_folder_that_takes_no_other_is_written_over(
    measured, monkeypatch, tmp_path, call, number
):
    file = tmp_path / "a.json"
    file.write_text("of yesterday")

    def refused(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(f"runtime.private_file.{call}", refused)
        keep(file, b"of today")

    assert file.read_text() == "of today"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_file_whose_name_leaves_no_room_for_another_beside_it_is_written_over(
    measured, tmp_path
):
    file = tmp_path / ("a" * 255)
    file.write_text("of yesterday")

    bench(preset="tiny", json=file)

    assert decode_result(file.read_bytes(), "a.json") == result()


def test_a_file_that_may_not_be_written_is_refused_before_the_work(
    monkeypatch, tmp_path
):
    file = tmp_path / "a.json"
    file.write_text("of yesterday")

    # The tests' own user may write whatever the mode.
    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        with pytest.raises(ArtifactError) as caught:
            bench(preset="tiny", json=file)

    assert str(caught.value) == (
        f"{file}: expected a file that can be written, found: Permission denied. Name "
        "another."
    )
    assert file.read_text() == "of yesterday"


def test_a_new_file_is_not_begun_where_no_file_beside_it_can_be(tmp_path):
    with pytest.raises(ArtifactError, match=r"found: File name too long. Name another"):
        bench(preset="tiny", json=tmp_path / ("a" * 255))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "gallery.json", "overlay.json"])
@pytest.mark.parametrize("inside", ["x.json", "graphs/x.json"])
def test_no_file_is_put_where_all_files_are_listed(tmp_path, name, inside):
    (tmp_path / "graphs").mkdir()
    (tmp_path / name).write_bytes(SEALED)

    with pytest.raises(ArtifactError) as caught:
        bench(preset="tiny", json=tmp_path / inside)

    assert str(caught.value) == (
        f"{tmp_path / inside}: expected a place outside of {tmp_path}, which holds "
        f"exactly the files that its {name} lists, found one inside. Name another."
    )
    assert not (tmp_path / inside).exists()


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\xff",
        b"[1]",
        b'{"name": "a page"}',
        b"[" * 100_000,
        b'{"files": []}',
        b'{"schema_version": 1, "files": []}',
        b'{"schema_version": 1, "files": ["a.nii"]}',
        # What was downloaded, as archives of recordings list it.
        b'{"files": [{"path": "a.nii", "name": "a", "size": 3, "md5sum": "00"}]}',
        SEALED.replace(b"schema_version", b"version"),
        SEALED.replace(b"sha256", b"md5sum"),
        SEALED.replace(b"0" * 64, b"0" * 32),
        b'{"schema": 1, "files": {"a.npy": {"bytes": 3, "md5": "00"}}}',
    ],
)
def test_another_programs_manifest_is_in_nobodys_way(tmp_path, other):
    (tmp_path / "manifest.json").write_bytes(other)

    refuse_inside(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("beside", "found"),
    [
        ({"json": Path("c.json")}, "--json"),
        ({"preset": "tiny", "json": Path("c.json")}, "--preset, --json"),
        (
            {
                "against": "ort",
                "rounds": 50,
                "backend": "ort",
                "precision": "int8",
                "threads": (1,),
                "gallery": 7,
            },
            "--backend, --precision, --threads, --against, --rounds, --gallery",
        ),
        (
            {
                "depth": 1,
                "seconds": 1.0,
                "evaluations": (2, 4),
                "tr": 2.0,
                "volumes": 0,
            },
            "--depth, --seconds, --evaluations, --tr, --volumes",
        ),
    ],
)
def test_a_comparison_takes_nothing_that_it_would_pass_over(beside, found):
    with pytest.raises(UsageError) as caught:
        bench(compare=(Path("a.json"), Path("b.json")), **beside)

    assert str(caught.value) == (
        f"bench: expected --compare alone, which measures nothing, found {found} "
        "beside it. Measure with one line and compare with another."
    )


def test_a_comparison_takes_no_bundle():
    with pytest.raises(UsageError, match="found BUNDLE beside it"):
        bench(Path("bundle"), compare=(Path("a.json"), Path("b.json")))


def test_where_files_have_no_modes_one_is_replaced_all_the_same(
    measured, tmp_path, monkeypatch
):
    file = tmp_path / "bench.json"
    file.write_bytes(b"older")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    keep(file, b"newer")

    assert file.read_bytes() == b"newer"
