"""A rehearsal: the live system with a recording in the scanner's place.

The player is a process of its own that connects as a scanner does, so that what is
rehearsed is what will run. It starts when the server is ready, and its end is the
server's.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bci_bridge.acquisitions import DEADLINE
from bci_bridge.header import LatePolicy
from bci_bridge.keyfolder import read_allow_list, read_credentials
from bci_bridge.keyring import SERVER
from bci_bridge.settings import ServeReport
from bci_bridge.urgency import ORDINARY
from runtime.errors import BackendError, UsageError
from runtime.recording import open_recording
from verbs.apart import apart
from verbs.play import check_speed

MOST_LATE: Final = 0.05
"""Share of a rehearsal's volumes that a machine may be late with for once."""

STOP_S: Final = 10.0
"""A player that is told to end its run and does not is killed after this."""

_OWN: Final = "neuroflow: "
_PR_SET_PDEATHSIG: Final = 1


def rehearsal_of(
    recording: Path | None,
    *,
    subject: str | None = None,
    speed: float | None,
    updates: bool = False,
    late: LatePolicy | None = None,
    key: Path | None,
    keys: Path | None,
    on_line: Callable[[str], None],
) -> "Rehearsal | None":
    """Look at what a rehearsal needs before engines are loaded, which takes long.

    Args:
        recording: What will be played; None for no rehearsal.
        subject: Whose runs, where it has several participants.
        speed: 1 is real time, also where none is given.
        updates: Ask for earlier estimates of trials.
        late: What becomes of answers after their deadline; None leaves it to `play`.
        key: The player's own `NAME.key`, where the server asks for keys.
        keys: The server's folder of keys.
        on_line: Told each line of the player.

    Raises:
        UsageError: A flag is missing or has nothing to belong to, the speed is not
            positive, or the key is not one that may play.
        BackendError: The recording or a key file is missing, damaged or open to others.
    """
    if recording is None:
        for flag, is_given in (
            ("--subject", subject is not None),
            ("--speed", speed is not None),
            ("--updates", updates),
            ("--late", late is not None),
            ("--rehearse-key", key is not None),
        ):
            if is_given:
                raise UsageError(f"{flag}: expected with --rehearse alone")
        return None
    check_speed(speed)
    flags = [] if speed is None else ["--speed", repr(speed)]
    flags += [] if subject is None else ["--subject", subject]
    flags += ["--updates"] if updates else []
    flags += [] if late is None else ["--late", late]
    if key is not None and keys is None:
        raise UsageError("--rehearse-key: expected with --keys alone")
    if keys is not None:
        if key is None:
            raise UsageError(
                "--rehearse-key: expected the key of a device with the roles scanner "
                "and stimulus, found none. Make one with: neuroflow keys make "
                f"--folder {keys} --name player --roles scanner stimulus"
            )
        player, folder, server = key, keys, keys / f"{SERVER}.pub"
        apart("--rehearse-key", lambda: _check_key(player, folder, server))
        flags += ["--key", str(key), "--server-key", str(server)]

    def count() -> str:
        return str(len(open_recording(recording, subject=subject).runs))

    runs = apart("--rehearse", count)
    return Rehearsal(recording, flags, n_runs=int(runs), on_line=on_line)


def _check_key(key: Path, keys: Path, server: Path) -> str:
    found = read_credentials(key, server)
    if found is None:
        return ""
    device = read_allow_list(keys).in_force().get(found.pair.public_key)
    if device is None:
        raise UsageError(
            f"--rehearse-key: expected a key in force in {keys}, found another. "
            f"See them with: neuroflow keys list --folder {keys}"
        )
    if not (device.has_role("scanner") and device.has_role("stimulus")):
        raise UsageError(
            "--rehearse-key: expected a device with the roles scanner and stimulus, "
            f"found {device.name} with {', '.join(device.roles)}"
        )
    return device.name


class Rehearsal:
    """The player, from when the server is ready until either ends."""

    def __init__(
        self,
        recording: Path,
        flags: Sequence[str],
        *,
        n_runs: int,
        on_line: Callable[[str], None],
        program: Sequence[str] = (sys.executable, "-m", "neuroflow"),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe the player; `begin` starts it.

        Args:
            recording: What it plays.
            flags: Of `neuroflow play`, beside the address.
            n_runs: How many runs must come to their end.
            on_line: Told each line of the player but the one by which it fails.
            program: The command line, as a command.
            clock_s: A monotonic clock.
        """
        self._recording, self._n_runs = recording, n_runs
        self._command = [*program, "play", str(recording), "--rehearsal", *flags]
        self._on_line, self._clock_s = on_line, clock_s
        self._process: subprocess.Popen[bytes] | None = None
        self._told_s: float | None = None
        self._half, self._reason = b"", ""

    def begin(self, address: str, confounds: Sequence[str] = ()) -> None:
        """Start the player against a server that is ready.

        Args:
            address: The server's.
            confounds: What the bundle must be told with each volume.
        """
        told = ["--confounds", *confounds] if confounds else []
        libc = ctypes.CDLL(None)

        def be_a_scanner() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            # Not as urgent as its parent: a scanner takes no time from a server.
            os.sched_setscheduler(0, ORDINARY.policy, os.sched_param(ORDINARY.priority))

        process = subprocess.Popen(
            [*self._command, *told, "--to", address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Ctrl-C is the server's: it ends the player first, and hears it out.
            process_group=0,
            preexec_fn=be_a_scanner,  # the server has no thread
        )
        if process.stderr is not None:
            os.set_blocking(process.stderr.fileno(), False)
        self._process = process

    def is_over(self, *, is_told: bool) -> bool:
        """Say whether the server shall end; pass the player's lines on meanwhile.

        Args:
            is_told: The server was told to end. The player then ends its run as
                aborted, for which it needs the server a little longer.
        """
        process = self._process
        if process is None:
            return is_told
        if is_told and self._told_s is None:
            self._told_s = self._clock_s()
            process.terminate()
        if self._told_s is not None and self._clock_s() - self._told_s > STOP_S:
            process.kill()
        has_ended = process.poll() is not None
        self._relay(process)
        return has_ended

    def close(self) -> None:
        """Leave no player behind."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()

    def require_success(self, report: ServeReport) -> None:
        """Refuse a rehearsal that did not come to its end by itself, or came too late.

        Args:
            report: What the server did.

        Raises:
            BackendError: The player failed, a run was not answered to its end, or more
                volumes than `MOST_LATE` came after their deadline.
        """
        if self._process is None or self._told_s is not None:
            return
        status = self._process.wait()
        if status:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise BackendError(
                f"rehearsal of {self._recording}: expected the player to succeed, "
                f"found: {self._reason or how}"
            )
        n_ended = report.outcomes.get("RunEnded", 0)
        if n_ended < self._n_runs:
            raise BackendError(
                f"rehearsal of {self._recording}: expected {self._n_runs} runs "
                f"answered to their end, found {n_ended}. Give a lower --speed."
            )
        late, of = report.gaps.get(DEADLINE, 0), report.outcomes.get("VolumeOutcome", 0)
        if late > MOST_LATE * of:
            raise BackendError(
                f"rehearsal of {self._recording}: expected volumes before their "
                f"deadline, found {late} of {of} after it or never. Give a lower "
                "--speed, or let nothing else compute meanwhile."
            )

    def _relay(self, process: subprocess.Popen[bytes]) -> None:
        if process.stderr is None:
            return
        while data := process.stderr.read(1 << 16):
            *lines, self._half = (self._half + data).split(b"\n")
            for line in lines:
                text = line.decode("utf-8", "replace")
                # The line by which it fails becomes the server's own.
                if text.startswith(_OWN):
                    if self._reason:
                        self._on_line(self._reason)
                    self._reason = text.removeprefix(_OWN)
                else:
                    self._on_line(text)
