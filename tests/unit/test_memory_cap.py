"""A process that reads what others wrote has a limit, which it cannot lift again."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import resource
from bci_bridge.memory_cap import cap_memory
cap_memory(1 << 30)
try:
    bytearray(2 << 30)
except MemoryError:
    print("refused")
cap_memory(4 << 30)
print(resource.getrlimit(resource.RLIMIT_AS)[1] >> 20)
"""


def test_what_is_beyond_the_limit_is_refused_and_a_lower_limit_stays():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stdout.split() == ["refused", "1024"]
