"""Signals that come before `neuroflow serve` has imported what it needs."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys

class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "tyro":
            sys.meta_path.remove(self)
            if {number}:
                os.kill(os.getpid(), {number})

# A suite that runs in the background, as of a shell or nohup, was told to ignore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.meta_path.insert(0, Told())
sys.argv = ["neuroflow", *{args!r}]
import neuroflow
try:
    status = neuroflow.main()
except SystemExit as ended:
    status = ended.code
print(status, [*signal.pthread_sigmask(signal.SIG_BLOCK, [])])
"""


def run(*args, number=0):
    """Let the command line get a signal in the middle of its imports, or none."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number), args=args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


SERVE = ("serve", "--bundle", "nowhere", "--gallery", "nowhere")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_that_is_stopped_while_it_imports_ends_as_one_that_serves(number):
    done = run(*SERVE, number=number)

    assert done.stderr == "neuroflow: stopped before it was ready\n"
    assert (done.returncode, done.stdout) == (0, "0 []\n")


@pytest.mark.parametrize(
    ("args", "status"), [(("serve", "--help"), 0), (("serve",), 2), (SERVE, 1)]
)
def test_signals_are_heard_again_however_it_ends(args, status):
    done = run(*args)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{status} []"


def test_help_that_is_stopped_is_interrupted_in_one_line():
    done = run("serve", "--help", number=signal.SIGTERM)

    assert done.stderr == "neuroflow: interrupted\n"
    assert done.stdout.splitlines()[-1] == "1 []"


def test_other_verbs_hear_at_once():
    assert run("keys", "list", number=signal.SIGTERM).returncode == -signal.SIGTERM
