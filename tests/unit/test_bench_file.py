"""The samples of a benchmark are kept whole, or what was there before still is."""

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
        ({"preset": "tiny", "json": Path("c.json")}, "--preset and --json"),
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
