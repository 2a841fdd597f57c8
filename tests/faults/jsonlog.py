"""A log of JSON lines that loses nothing when its writer is killed."""

import json
import os
from pathlib import Path
from typing import Any


class JsonLog:
    """Appends lines to a file: one write each, and no buffer to lose."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # What a killed writer left unfinished must not spoil our first line.
        os.write(self._fd, b"\n")

    def write(self, what: str, **fields: Any) -> None:
        line = json.dumps({"what": what, **fields}, separators=(",", ":")) + "\n"
        os.write(self._fd, line.encode())


class LogReader:
    """Reads on in such a log while it is being written."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def read(self) -> list[dict[str, Any]]:
        """Return the whole lines that are new."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [json.loads(line) for line in whole.split(b"\n") if _is_whole(line)]


def _is_whole(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")
