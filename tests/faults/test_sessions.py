"""A seed is a history: the same again, whoever lives through it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import sessions
from tests.faults.result import Settings
from tests.faults.sessions import lived

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from tests.faults.test_sessions import history
print(history(int(sys.argv[1])))
"""


def history(seed):
    """What happened, and every byte that is on record of it."""
    found = lived(seed, runs=1)
    digest = hashlib.sha256()
    for log in (found.server.inputs, found.server.outcomes):
        for one in log:
            header, payload = one.envelope.frames
            digest.update(b"%d %d %s\0" % (one.order, one.log_ns, one.topic.encode()))
            digest.update(b"%d %d\0" % (len(header), len(payload)) + header + payload)
    return sorted(found.tally.items()), found.trouble, digest.hexdigest()


@pytest.mark.unchecked
def test_a_seed_repeats_exactly_and_another_does_not():
    assert history(3) == history(3) != history(4)


@pytest.mark.slow
def test_a_seed_repeats_exactly_in_other_processes():
    # The order of sets of names differs between processes, unless it is seeded.
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "3"],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python",
                "PYTHONHASHSEED": hash_seed,
            },
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]

    assert said == 2 * [str(history(3))]


def test_one_session_is_lived_through_by_the_seed_that_a_trouble_names(monkeypatch):
    seen = []

    def one(seed, runs):
        seen.append(seed)
        return {}, [f"seed {seed}: as planned"]

    monkeypatch.setattr(sessions, "session", one)

    by_default = sessions.run(Settings(seed=3, count=2))
    alone = sessions.run(Settings(first=3_000_001, count=1))

    assert seen == [3_000_000, 3_000_001, 3_000_001]
    assert alone.examples == by_default.examples[1:] == ["seed 3000001: as planned"]
