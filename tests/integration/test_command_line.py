"""A mistake on the command line costs one clear line and the right exit status."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import in_process
from tests.sealed_folder import write_folder

# An interpreter for nearly every line.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def said(*arguments: object, stdout: object = subprocess.PIPE) -> tuple[int, str]:
    """Run the command line; return its exit status and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "neuroflow", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["play", "x", "--speed", "0"], "--speed: expected a number above 0, found 0"),
        (
            ["play", "x", "--speed", "inf"],
            "--speed: expected a number above 0, found inf",
        ),
        (
            ["watch", "--address", "nowhere"],
            "--address: expected tcp://HOST:PORT, found 'nowhere'",
        ),
        (
            ["serve", "--bundle", "x", "--gallery", "x", "--threads", "0"],
            "--threads: expected at least 1, found 0",
        ),
        (
            ["serve", "--bundle", "x", "--gallery", "x", "--abstain-below", "nan"],
            "--abstain-below: expected 0 to 1, found nan",
        ),
    ],
)
def test_an_impossible_value_is_wrong_usage(arguments, line):
    assert said(*arguments) == (2, f"neuroflow: {line}\n")


@pytest.mark.parametrize("arguments", [[], ["fly"]])
def test_no_verb_and_an_unknown_verb_are_wrong_usage(arguments):
    status, error = said(*arguments)

    assert status == 2
    assert "Traceback" not in error


def test_a_configuration_with_an_unknown_key_is_named_with_its_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"nope": 1}')
    flags = ["--recording", tmp_path, "--out", tmp_path / "out", "--config", file]

    status, output, error = in_process.said("train", "vae", *flags)

    assert (status, output) == (2, "")
    assert error == (
        f"neuroflow: {file}: configuration: Object contains unknown field `nope`\n"
    )


def test_a_recording_that_is_not_there_is_one_line(tmp_path):
    missing = tmp_path / "none"

    assert said("play", missing) == (
        1,
        f"neuroflow: {missing}: expected a folder, found none\n",
    )


def test_a_name_with_line_ends_and_escapes_is_still_one_line_that_only_shows(tmp_path):
    missing = tmp_path / "no\nsuch\x1b[31m"

    assert said("play", missing) == (
        1,
        f"neuroflow: {tmp_path}/no\\nsuch\\x1b[31m: expected a folder, found none\n",
    )


def test_a_file_in_a_bundle_that_is_missing_extra_or_a_link_is_named(tmp_path):
    bundle = tmp_path / "bundle"
    write_folder(bundle)
    (bundle / "notes.txt").write_text("hello")
    extra = said("inspect", bundle)
    (bundle / "notes.txt").unlink()
    tensors = bundle / "tensors.safetensors"
    tensors.rename(tmp_path / "real.safetensors")
    missing = said("inspect", bundle)
    tensors.symlink_to(tmp_path / "real.safetensors")
    link = said("inspect", bundle)

    assert [status for status, _ in (extra, missing, link)] == [1, 1, 1]
    assert extra[1].endswith("manifest.json lists, found extra notes.txt\n")
    assert missing[1].endswith("found missing tensors.safetensors\n")
    assert "tensors.safetensors: expected a plain file with one name" in link[1]


def test_a_full_disk_and_a_closed_pipe_end_without_a_traceback(tmp_path):
    write_folder(tmp_path / "bundle")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        closed = said("inspect", tmp_path / "bundle", stdout=writer)
    finally:
        os.close(writer)
    with Path("/dev/full").open("w") as full:
        disk = said("inspect", tmp_path / "bundle", stdout=full)

    assert closed == (1, "")
    assert disk == (
        1,
        "neuroflow: output: expected to read or write it, "
        "found: No space left on device\n",
    )


def test_a_demonstration_keeps_others_and_mistakes_out_of_its_folder(tmp_path):
    (tmp_path / "result").touch()
    mark = tmp_path / ".neuroflow-demo"
    with mark.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        busy = in_process.said("demo", "--out", tmp_path)
    wrong = in_process.said("demo", "--out", tmp_path, "--speed", "0")
    missing = tmp_path / "none"
    unread = in_process.said("demo", "--out", tmp_path, "--recording", missing)

    assert busy[0] == 1
    assert "found another that is writing into it" in busy[2]
    assert wrong == (2, "", "neuroflow: --speed: expected a number above 0, found 0\n")
    assert unread[0] == 1
    assert (tmp_path / "result").exists()
