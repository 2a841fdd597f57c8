"""Lines that nobody can read any more end nothing, and change no exit status."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bci_bridge.parts import forked
from bci_bridge.settings import Endpoints, ServeConfig, ServeReport
from bci_bridge.setup import Setup
from bci_bridge.telling import let_go, tell
from runtime.estimator import BetaEstimator
from verbs.apart import apart
from verbs.ending import exit_status


@contextlib.contextmanager
def full_disk():
    """Standard error on a disk that is full; pytest sets its own before each test."""
    with Path("/dev/full").open("w") as full:
        before, sys.stderr = sys.stderr, full
        try:
            yield
        finally:
            let_go()
            sys.stderr = before


def test_a_line_is_said_as_one_whatever_name_it_holds(capsys):
    tell("no\nsuch\x1b[31m file")

    assert capsys.readouterr().err == "no\\nsuch\\x1b[31m file\n"


def test_a_line_goes_nowhere_rather_than_among_the_results(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)

    tell("a warning")

    assert capsys.readouterr().out == ""


def test_what_cannot_be_said_ends_neither_who_says_it_nor_who_is_copied():
    with full_disk():
        sys.stderr.write("it is full")
        with pytest.raises(OSError, match="No space left"):
            sys.stderr.flush()

        setup = Setup(
            config=ServeConfig(address="tcp://127.0.0.1:*"),
            recording=None,
            moment="",
            supervisor=0,
        )
        tell("a death")
        pid = forked(lambda _: None, setup)
        _, status = os.waitpid(pid, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert apart("a look", lambda: "done") == "done"


def test_a_failure_that_cannot_be_said_keeps_its_status():
    def fail():
        raise OSError(28, "No space left on device", "weights")

    with full_disk():
        assert exit_status(fail) == 1


def test_a_server_whose_lines_nobody_reads_serves_on(monkeypatch):
    from verbs import serve

    turns = []

    def served(config, worker, stop, on_ready, *, on_trouble):
        on_ready(Endpoints(address="tcp://127.0.0.1:1", publish="", replay=""))
        for _ in range(3):
            on_trouble("worker-b died (SIGKILL) and was replaced")
            turns.append(stop())
        return ServeReport(runs=0, outcomes={}, rejected={}, recording="ON")

    monkeypatch.setattr(serve, "serve_supervised", served)
    monkeypatch.setattr(serve, "require_live", lambda _: BetaEstimator())
    monkeypatch.setattr(serve, "folder_signer", lambda *_: "signed by nobody")
    monkeypatch.setattr(serve, "rig_here", lambda *_, **__: None)
    options = {"health": None, "ready_file": None, "log": None, "keys": None}
    numbers = {"threads": 1, "abstain_below": 0.0, "free_mb": 1, "trust": ()}

    with full_disk():
        serve.serve_bundle(
            Path("bundle"),
            Path("gallery"),
            address="tcp://127.0.0.1:*",
            backend="ort",
            **options,
            **numbers,
        )

    assert turns == [False] * 3


@pytest.mark.parametrize("kind", ["a full disk", "a reader that is gone"])
def test_lines_that_are_lost_change_no_exit_status(kind):
    script = (
        "import sys\n"
        "from bci_bridge.telling import tell\n"
        "from verbs.ending import exit_status\n"
        "sys.exit(exit_status(lambda: tell('serving')))\n"
    )
    if kind == "a full disk":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, end = os.pipe()
        os.close(reader)
    try:
        # Unbuffered, there is nothing left for the interpreter to write.
        done = subprocess.run(
            [sys.executable, "-c", script],
            stderr=end,
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    finally:
        os.close(end)

    assert done.returncode == 0
