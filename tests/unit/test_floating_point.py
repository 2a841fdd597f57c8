"""What an engine does with subnormal numbers stays within its own calls."""

import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

from runtime.engine import open_engine
from runtime.engines import floating_point
from runtime.engines.floating_point import SubnormalsAsZero
from tests.affine_graph import SPEC, WEIGHT, write_affine

LEAST = 5e-324
IS_X86 = (sys.platform, platform.machine()) == ("linux", "x86_64")
only_x86 = pytest.mark.skipif(not IS_X86, reason="elsewhere nobody switches them off")

# In a process of its own: the library changes its caller's thread with its first
# session alone.
PROGRAM = """
import sys, threading
from pathlib import Path
from runtime.engine import open_engine
from tests.affine_graph import SPEC, X

def say():
    print(sys.float_info.min * float(sys.argv[2]))

say()
engine = open_engine("ort", Path(sys.argv[1]), SPEC, threads=int(sys.argv[3]))
say()
engine.run({"x": X})
say()
thread = threading.Thread(target=say)
thread.start()
thread.join()
engine.close()
say()
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_program_keeps_its_subnormal_numbers_whatever_it_opens(tmp_path, threads):
    graph = write_affine(tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, graph, "0.5", str(threads)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.1125369292536007e-308"] * 5


@only_x86
def test_a_run_has_none_of_them_in_whichever_thread_it_is(tmp_path):
    engine = open_engine("ort", write_affine(tmp_path), SPEC, threads=1)
    small = np.full((1, 3), 1e-40, np.float32)
    found = []

    def run():
        # Kept as bytes: whether they are zero is not to be asked of this thread.
        found.append(engine.run({"x": small})["y"].tobytes())

    run()
    other = threading.Thread(target=run)
    other.start()
    other.join()
    engine.close()

    assert (small @ WEIGHT).all()
    assert found == [bytes(8)] * 2


@only_x86
def test_after_a_block_that_failed_they_are_there_again():
    found = []

    def fail():
        with SubnormalsAsZero():
            found.append((LEAST * float("1")).hex())
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert found == ["0x0.0p+0"]
    assert LEAST * float("1") == LEAST > 0


@only_x86
def test_who_has_none_of_them_gets_none():
    outer, inner = SubnormalsAsZero(), SubnormalsAsZero()

    with outer:
        with inner:
            pass
        still = LEAST * float("1")

    assert still.hex() == "0x0.0p+0"


def test_where_the_library_of_c_does_not_say_how_nothing_happens(monkeypatch):
    monkeypatch.setattr(floating_point, "_LIBM", None)

    with SubnormalsAsZero():
        within = LEAST * float("1")

    assert within > 0


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "x86_64"), ("linux", "aarch64")]
)
def test_a_machine_on_which_nobody_switches_them_off_is_left_alone(
    monkeypatch, system, machine
):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)

    assert floating_point._libm() is None
