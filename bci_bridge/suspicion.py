"""What no server would have logged: signs that a log of inputs was changed. Pure."""

from bci_bridge.difference import Difference
from bci_bridge.header import Header
from bci_bridge.ledger import TRANSITIONS, Ledger
from bci_bridge.messages import DecisionNote, RunEnd, RunStart, kind_of
from runtime.errors import PeerError


class Suspicion:
    """Checks one message after another against what must have come before it."""

    def __init__(self) -> None:
        self._run = ""
        # Nothing can be said of a run whose beginning is lost.
        self._is_lost = False

    def forget(self) -> None:
        """Inputs are lost here."""
        self._run, self._is_lost = "", True

    def of(self, record: Header, ledger: Ledger) -> list[Difference]:
        """List what is wrong with the next message; then nothing more of its run is.

        Args:
            record: The message.
            ledger: What came before it.
        """
        found = self._of(record, ledger)
        if found:
            self.forget()
        return found

    def _of(self, record: Header, ledger: Ledger) -> list[Difference]:
        run, kind = record.run, kind_of(record)
        if isinstance(record, RunStart):
            under_way, self._run, self._is_lost = self._run, run, False
            if under_way and ledger.state == "RUNNING":
                return [Difference(under_way, -1, "run", under_way, run)]
            if record.sequence != 0:
                name = f"{kind} of {record.stream}: sequence"
                return [Difference(run, -1, name, "0", str(record.sequence))]
            return []
        if not self._run:
            wanted = "RUN_START before it"
            return [] if self._is_lost else [Difference(run, -1, kind, wanted, "none")]
        if run != self._run:
            return [Difference(self._run, -1, "run", self._run, run)]
        is_over = ledger.state != "RUNNING" and not _is_key(record)
        if is_over and (ledger.state, type(record)) not in TRANSITIONS:
            return [Difference(run, -1, kind, "none after the end", "one")]
        if isinstance(record, DecisionNote):
            return self._of_note(record, ledger)
        sequence = ledger.expected(record.stream)
        if record.sequence != sequence:
            name = f"{kind} of {record.stream}: sequence"
            return [Difference(run, -1, name, str(sequence), str(record.sequence))]
        if isinstance(record, RunEnd) and ledger.run is not None:
            try:
                ledger.run.acquisitions.check_end(record)
            except PeerError as error:
                return [Difference(run, -1, kind, "a possible count", str(error))]
        return []

    def _of_note(self, note: DecisionNote, ledger: Ledger) -> list[Difference]:
        index = ledger.next_index
        if note.what == "MISSING_BY_DEADLINE" and note.volume_index != index:
            found = str(note.volume_index)
            return [Difference(note.run, -1, note.what, str(index), found)]
        return []


def _is_key(record: Header) -> bool:
    return isinstance(record, DecisionNote) and record.what == "STREAM_KEY"
