"""What measures nothing, or cannot be measured, is one line before any work."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import msgspec
import pytest

import verbs.bench
from runtime.bench.result import Who, decode_result, encode_result
from runtime.errors import ArtifactError, BackendError, NeuroFlowError, UsageError
from runtime.held_folder import PREFIX, remove_left_behind
from tests.bench_results import result
from training.config import config_from_preset
from verbs.bench_commands import bench
from verbs.bench_draw import Draw, Drawn, answer, drawn
from verbs.bench_options import check_gallery

CORES = len(os.sched_getaffinity(0))
MESSAGES = [
    ({}, "bench: expected a BUNDLE or --preset, found neither"),
    (
        {"preset": "tiny", "against": "ort,tflite"},
        "against: expected some of openvino,ort,ort_cuda,tensorrt,reference,torch,"
        "torch-compile,torch-autocast, found tflite",
    ),
    (
        {"preset": "tiny", "against": "torch:int8"},
        "against: expected torch in one of f32, bf16, found torch:int8. Write "
        "torch:f32, or another of them.",
    ),
    (
        {"preset": "tiny", "against": "torch-autocast:f32"},
        "against: expected torch-autocast in one of bf16, found torch-autocast:f32. "
        "Write torch-autocast:bf16, or another of them.",
    ),
    (
        {"preset": "tiny", "against": "openvino:int4"},
        "against: expected openvino in one of f32, bf16, int8, found openvino:int4. "
        "Write openvino:f32, or another of them.",
    ),
    (
        {"preset": "tiny", "precision": "fp8"},
        "precision: expected one of f32, bf16, int8, which openvino computes, found "
        "fp8. Choose one of them, or another --backend.",
    ),
    (
        {"preset": "tiny", "backend": "ort", "precision": "bf16"},
        "precision: expected one of f32, f16, int8, fp8, which ort computes, found "
        "bf16. Choose one of them, or another --backend.",
    ),
    (
        {"preset": "tiny", "against": "ort:bf16"},
        "against: expected ort in one of f32, f16, int8, fp8, found ort:bf16. Write "
        "ort:f32, or another of them.",
    ),
    (
        {"preset": "tiny", "precision": "f16", "backend": "ort", "against": "openvino"},
        "against: expected openvino in one of f32, bf16, int8, found openvino in f16. "
        "Write openvino:f32, or another of them.",
    ),
    (
        {"preset": "tiny", "evaluations": (5, 1)},
        "evaluations: expected at least two increasing numbers from 1, found 5 1",
    ),
    ({"preset": "tiny", "rounds": 5}, "rounds: expected at least 6, found 5"),
    ({"preset": "tiny", "threads": (0,)}, "threads: expected at least 1, found 0"),
    ({"preset": "tiny", "volumes": -1}, "volumes: expected at least 0, found -1"),
    ({"preset": "tiny", "depth": 0}, "depth: expected at least 1, found 0"),
    ({"preset": "tiny", "gallery": 0}, "gallery: expected at least 1, found 0"),
    (
        {"preset": "tiny", "gallery": 100_000_000_000},
        "gallery: expected at most 1,000,000, found 100,000,000,000",
    ),
    (
        {"preset": "tiny", "threads": (1, 100_000_000)},
        f"threads: expected at most {CORES}, the cores that this process may use, "
        "found 100000000",
    ),
    (
        {"preset": "tiny", "threads": (CORES + 1,)},
        f"threads: expected at most {CORES}, the cores that this process may use, "
        f"found {CORES + 1}",
    ),
    (
        {"preset": "tiny", "rounds": 10**12},
        "rounds: expected at most 10,000, found 1,000,000,000,000",
    ),
    (
        {"preset": "tiny", "volumes": 10**9},
        "volumes: expected at most 100,000, found 1,000,000,000",
    ),
    (
        {"preset": "tiny", "depth": 10**9},
        "depth: expected at most 256, found 1,000,000,000",
    ),
    (
        {"preset": "tiny", "evaluations": (1, 10**12)},
        "evaluations: expected at most 1,000, found 1,000,000,000,000",
    ),
    ({"preset": "tiny", "tr": 0.0}, "tr: expected 0 to 3600 seconds, found 0"),
    (
        {"preset": "tiny", "seconds": float("nan")},
        "seconds: expected 0 to 3600 seconds, found nan",
    ),
]


@pytest.mark.parametrize(("options", "message"), MESSAGES)
def test_a_wrong_option_is_one_line(options, message):
    with pytest.raises(NeuroFlowError) as caught:
        bench(**options)

    assert str(caught.value) == message
    assert caught.value.exit_status == 2


def test_a_bundle_has_no_weights_for_torch(tmp_path):
    with pytest.raises(NeuroFlowError) as caught:
        bench(tmp_path, against="torch")

    assert str(caught.value) == (
        "against: expected --preset for torch, found a bundle, which holds graphs and "
        "not torch's weights"
    )


def test_a_bundle_has_its_own_depth(tmp_path):
    with pytest.raises(NeuroFlowError) as caught:
        bench(tmp_path, depth=2)

    assert str(caught.value) == (
        "depth: expected --preset, found a bundle, which has its own"
    )


def test_both_a_bundle_and_a_preset_are_refused(tmp_path):
    with pytest.raises(NeuroFlowError) as caught:
        bench(tmp_path, preset="tiny")

    assert str(caught.value) == "bench: expected a BUNDLE or --preset, found both"


def test_a_gallery_that_memory_cannot_hold_is_refused():
    check_gallery(100, 425_984, processes=1, memory=8 * 10**9)
    check_gallery(10**6, 425_984, processes=1, memory=0)
    with pytest.raises(NeuroFlowError) as caught:
        check_gallery(1000, 425_984, processes=2, memory=8 * 10**9)

    assert str(caught.value) == (
        "gallery: expected at most 586 items of 1,703,936 bytes, of which 2 processes "
        "keep 4 copies each in 8 GB of memory, found 1,000"
    )


def test_what_a_killed_benchmark_leaves_is_removed_by_the_next(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(verbs.bench, "_subject", mock.Mock())
    # As a process that was killed leaves it: nobody holds its lock.
    dead = tmp_path / f"{PREFIX}dead"
    (dead / "cache").mkdir(parents=True)
    seen = []

    def measure(_options, _subject, scratch, _say):
        remove_left_behind(tmp_path)
        seen.append((scratch, scratch.is_dir(), dead.exists()))
        return result()

    monkeypatch.setattr(verbs.bench, "_measure", measure)
    bench(preset="tiny")

    ((scratch, is_there, is_dead_there),) = seen
    assert scratch.parent == tmp_path
    assert scratch.name.startswith(PREFIX)
    assert is_there
    assert not is_dead_there
    assert list(tmp_path.iterdir()) == []


def test_a_result_needs_a_folder(tmp_path):
    file = tmp_path / "none" / "a.json"

    with pytest.raises(ArtifactError) as caught:
        bench(preset="tiny", json=file)

    assert str(caught.value) == (
        f"{file}: expected a folder to write it into, found none. Make it."
    )


def test_a_result_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path,
):
    with pytest.raises(ArtifactError) as caught:
        bench(preset="tiny", json=tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}: expected a file that can be written, found: Is a directory. Name "
        "another."
    )


def test_what_was_measured_is_printed_even_where_it_cannot_be_kept(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(verbs.bench, "_subject", mock.Mock())
    monkeypatch.setattr(verbs.bench, "_measure", lambda *_: result())

    with pytest.raises(ArtifactError, match=r"found: No space left on device$"):
        bench(preset="tiny", json=Path("/dev/full"))
    assert "| step |" in capsys.readouterr().out

    bench(preset="tiny", json=tmp_path / "a.json")
    assert decode_result((tmp_path / "a.json").read_bytes(), "a.json") == result()


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(
        NeuroFlowError, match=r"^preset: expected one of .*, found huge$"
    ):
        bench(preset="huge")


def asked(tmp_path):
    return Draw(
        config=config_from_preset("tiny"), out=str(tmp_path), created="2026-01-02",
        seed=0, precisions=("f32",),
    )  # fmt: skip


def test_a_rig_without_the_extra_is_told_which(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "verbs.bench_preset", None)

    assert answer(msgspec.json.encode(asked(tmp_path))) == Drawn(
        failure="preset tiny: expected the extra train, which draws and exports its "
        "weights, found no verbs.bench_preset. Install it, or measure a bundle.",
        is_misused=True,
    )


def test_a_folder_with_no_room_is_named(monkeypatch, tmp_path):
    (tmp_path / "bundle").write_bytes(b"")

    found = answer(msgspec.json.encode(asked(tmp_path)))

    assert found == Drawn(
        failure=f"preset tiny: expected room for its bundle in {tmp_path}, "
        "found: Not a directory"
    )


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Drawn(failure="why", is_misused=True), UsageError, "^why$"),
        (Drawn(failure="why"), BackendError, "^why$"),
        (None, BackendError, r"found the process that draws it dead \(status -9\)"),
    ],
)
def test_what_the_process_that_draws_says_is_raised(
    monkeypatch, tmp_path, reply, error, said
):
    out = b"" if reply is None else msgspec.json.encode(reply)
    monkeypatch.setattr(
        "verbs.bench_draw.subprocess.run",
        lambda command, **_: subprocess.CompletedProcess(command, -9, out),
    )

    with pytest.raises(error, match=said):
        drawn(asked(tmp_path))


def test_files_are_compared(tmp_path, capsys):
    files = tmp_path / "a.json", tmp_path / "b.json"
    for file, scale in zip(files, (1.0, 2.0), strict=True):
        file.write_bytes(encode_result(result(scale)))

    bench(compare=files)

    assert "slower" in capsys.readouterr().out


def test_a_comparison_shows_what_a_terminal_would_obey(tmp_path, capsys):
    files = tmp_path / "a.json", tmp_path / "b.json"
    odd = "\x1b[2J\nencoder"
    for file in files:
        found = result(subject="one\x07")
        series = (msgspec.structs.replace(found.series[0], stage=odd),)
        file.write_bytes(encode_result(msgspec.structs.replace(found, series=series)))
    data = msgspec.json.decode(files[1].read_bytes())
    data["bundle_sha256"] = "a" * 64
    data["series"][0]["who"]["peer"] = "ort\x1b[31m"
    files[1].write_bytes(msgspec.json.encode(data))

    bench(compare=files)

    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert r"\x1b[2J\nencoder, openvino f32, 2 threads." in shown
    assert r"\x1b[2J\nencoder, ort\x1b[31m f32, 2 threads." in shown
    assert r"one\x07 (sha256 aaaaaaaaaaaa)" in shown


def test_files_that_are_missing_or_of_another_schema_are_named(tmp_path):
    good, old = tmp_path / "good.json", tmp_path / "old.json"
    good.write_bytes(encode_result(result()))
    old.write_bytes(msgspec.json.encode({"schema": "neuroflow.bench/0"}))

    with pytest.raises(ArtifactError) as missing:
        bench(compare=(good, tmp_path / "none.json"))
    with pytest.raises(ArtifactError) as other:
        bench(compare=(good, old))

    assert str(missing.value) == (
        f"{tmp_path}/none.json: expected a file of neuroflow bench --json, "
        "found: No such file or directory"
    )
    assert str(other.value).startswith(f"{old}: expected schema neuroflow.bench/1")


@pytest.mark.parametrize(
    ("peers", "openvino", "precision", "line"),
    [
        (["openvino bf16", "ort f32"], True, "bf16", None),
        (["openvino int8"], True, "f32", None),
        (["tensorrt bf16", "ort f32"], True, "f32", None),
        (["tensorrt bf16", "torch-autocast bf16"], True, "bf16", None),
        (
            ["torch bf16"],
            False,
            "f32",
            "limits: of float32 by numpy; those of bf16 need openvino (extra cpu)",
        ),
        (
            ["tensorrt bf16", "ort_cuda bf16"],
            False,
            "",
            "limits: none, because those measured are the processor's; a GPU computes",
        ),
    ],
)
def test_limits_are_those_of_whoever_computes_here_and_of_what_is_installed(
    monkeypatch, peers, openvino, precision, line
):
    monkeypatch.setattr(
        verbs.bench, "find_spec", lambda name: name if openvino else None
    )
    said = []
    whos = [
        Who(peer=peer, precision=of, threads=1)
        for peer, of in (text.split() for text in peers)
    ]

    assert verbs.bench.rate_of(whos, said.append) == precision
    assert said == ([] if line is None else [line])
