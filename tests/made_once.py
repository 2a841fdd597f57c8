"""What is slow to make is made once for all processes that share a run of the tests."""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = "NEUROFLOW_TESTS_SHARED"
"""Environment variable that names the folder; `tests.conftest` sets it."""


def new_folder() -> None:
    """Make the folder of this run, and name it to all processes that come after."""
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="neuroflow-tests-")
    atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a path under which `make` has made something; never write into it.

    Args:
        name: Of what is made; the same for everybody who asks for the same.
        make: Makes it at the path that it is given, which does not exist.
    """
    if FOLDER not in os.environ:
        new_folder()
    place = Path(os.environ[FOLDER]) / name
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            half = place.with_name(f"{name}.half")
            shutil.rmtree(half, ignore_errors=True)
            make(half)
            half.rename(place)
    return place
