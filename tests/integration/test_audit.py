"""While a server serves and a bundle is opened, nothing that came in is executed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import audited

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def session(planted=""):
    """Watch one session in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.audited", planted],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["answered"], found["is_open"]) == (audited.COUNT, True)
    return found["events"]


def test_nothing_is_executed_loaded_or_started_while_serving():
    # No exception is needed: what the interpreter loads late is imported before.
    assert session() == []


@pytest.mark.parametrize("event", ["exec", "pickle.find_class", "subprocess.Popen"])
def test_what_is_planted_is_seen(event):
    found = session(event)

    assert event in {name for name, _ in found}
