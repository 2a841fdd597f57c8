"""The peers that a server is there for: a scanner that plays and a subscriber."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from neuroflow_client import Client, ClientError, VolumeOutcome

from bci_bridge.keyfolder import read_credentials
from bci_bridge.keyring import Credentials
from bci_bridge.messages import RunStart
from bci_bridge.sender import Sender
from runtime.errors import NeuroFlowError
from tests.integration.tiny import SHAPE

RUN = "legitimate"
SCANNER, WATCHER = "legitimate-scanner", "legitimate-watcher"
TR_S = 0.02
"""Fifty volumes a second, far beyond any scanner."""

PATIENCE_S = 10.0


@dataclass
class Legitimate:
    """One run that plays until it is told to end, and who listens to it.

    Attributes:
        sent: Volumes that the scanner sent.
        answered_ns: From the end of acquisition until the subscriber had the outcome,
            by volume.
        troubles: What should not have happened, in words.
        wrong: Volumes whose outcome is not as it must be.
    """

    address: str
    keys: Path | None = None
    run: str = RUN
    sent: int = 0
    answered_ns: dict[int, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    wrong: int = 0

    def __enter__(self) -> "Legitimate":
        self._begun, self._over = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._play, name="legitimate-scanner"),
            threading.Thread(target=self._watch, name="legitimate-watcher"),
        ]
        for thread in self._threads:
            thread.start()
            self._begun.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    @property
    def lost(self) -> int:
        """Volumes that were sent and have no right outcome."""
        return self.sent - len(self.answered_ns) + self.wrong

    def finish(self) -> None:
        """End the run, and hear the last outcome; may be called again."""
        self._over.set()
        for thread in self._threads:
            thread.join(8 * PATIENCE_S)
            if thread.is_alive():
                self.troubles.append(f"{thread.name}: expected to end, found running")

    def answer_ms(self, share: float) -> float:
        """Give a percentile of the answer time; -1 where nothing was answered."""
        if not self.answered_ns:
            return -1.0
        found = np.quantile(list(self.answered_ns.values()), share)
        return round(float(found) / 1e6, 2)

    def _play(self) -> None:
        start = RunStart(
            run=self.run, shape=SHAPE, tr_s=TR_S, expected_volumes=100_000,
            budget_s=60.0, pace="catchup",
        )  # fmt: skip
        try:
            with Sender(
                self.address,
                start,
                timeout_s=PATIENCE_S,
                credentials=_credentials(self.keys),
            ) as sender:
                self._begun.set()
                self._send(sender)
                self.troubles += [f"refused: {one.reason}" for one in sender.refusals]
        except NeuroFlowError as error:
            self.troubles.append(f"sender: {error}")
        finally:
            self._begun.set()

    def _send(self, sender: Sender) -> None:
        due_s = time.monotonic()
        while not self._over.is_set():
            due_s += TR_S
            while (left_s := due_s - time.monotonic()) > 0:
                sender.pump(max(1, round(left_s * 1000)))
            volume = np.full(SHAPE, self.sent % 30_000, np.int16)
            sender.volume(self.sent, volume, time.monotonic_ns())
            self.sent += 1

    def _watch(self) -> None:
        files = {}
        if self.keys is not None:
            files = {
                "key_file": str(self.keys / f"{WATCHER}.key"),
                "server_key_file": str(self.keys / "server.pub"),
            }
        client = Client(self.address, run=self.run, timeout_s=PATIENCE_S, **files)
        try:
            for outcome in client:
                now_ns = time.monotonic_ns()
                if isinstance(outcome, VolumeOutcome):
                    self._hear(outcome, now_ns)
        except ClientError as error:
            self.troubles.append(f"client: {error}")

    def _hear(self, outcome: VolumeOutcome, now_ns: int) -> None:
        index = outcome.volume_index
        is_right = outcome.input == "OK" and outcome.label == f"{index % 30_000}"
        self.wrong += not is_right or index in self.answered_ns
        self.answered_ns[index] = now_ns - (outcome.acquired_ns or 0)


def _credentials(keys: Path | None) -> Credentials | None:
    if keys is None:
        return None
    return read_credentials(keys / f"{SCANNER}.key", keys / "server.pub")


def play_for(address: str, keys: Path | None, seconds: float) -> Legitimate:
    """Play a run of its own, with nothing done to the server."""
    with Legitimate(address, keys, run="undisturbed") as legitimate:
        time.sleep(seconds)
    return legitimate
