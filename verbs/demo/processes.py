"""Server and player as processes of their own, that never outlive the demonstration."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bci_bridge.server import Endpoints
from runtime.errors import BackendError

READY_S = 60.0
STOP_S = 10.0


@contextmanager
def child(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a verb in its own process; it is gone when the block ends.

    Args:
        log: File that receives what it prints.
        arguments: The verb and its options.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "neuroflow", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def require_success(process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Wait for a process that ends by itself.

    Raises:
        BackendError: It failed; the message is the last line that it printed.
    """
    if process.wait(STOP_S):
        raise BackendError(f"{what}: expected it to succeed, found: {_last_line(log)}")


def wait_until_ready(
    process: subprocess.Popen[bytes], ready: Path, log: Path
) -> Endpoints:
    """Wait for the server's ready file; return where it listens.

    Raises:
        BackendError: The server ended, or took too long.
    """
    limit = time.monotonic() + READY_S
    while time.monotonic() < limit:
        if ready.exists():
            return msgspec.json.decode(ready.read_bytes(), type=Endpoints)
        if process.poll() is not None:
            raise BackendError(
                f"server: expected it to start, found: {_last_line(log)}"
            )
        time.sleep(0.05)
    raise BackendError(f"server: expected it within {READY_S:g} s, found nothing")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"
