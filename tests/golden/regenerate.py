"""Write what every verb says of itself: ``python -m tests.golden.regenerate``.

Run it from the repository's root after a flag or its text changed on purpose, and read
the difference before you commit it.
"""

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

import neuroflow

FOLDER = Path(__file__).parent / "help"
COLUMNS = "88"


def verbs() -> list[str]:
    """Return the verbs as the command line lists them, and sources as ``send NAME``."""
    return [*_listed("neuroflow"), *(f"send {name}" for name in _listed("send"))]


def _listed(name: str) -> list[str]:
    text = help_text(name)
    return text[text.index("{") + 1 : text.index("}")].replace("\n", "").split(",")


def file_of(name: str) -> Path:
    """Name the file that holds a verb's help."""
    return FOLDER / f"{name.replace(' ', '_')}.txt"


def help_text(name: str) -> str:
    """Return the help of a verb, or of the command itself for "neuroflow"."""
    words = [] if name == "neuroflow" else name.split()
    argv = ["neuroflow", *words, "--help"]
    out = io.StringIO()
    plain = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb", "LINES": "50"}
    with (
        mock.patch("sys.argv", argv),
        mock.patch.dict(os.environ, plain),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        neuroflow.main()
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Replace all golden files."""
    FOLDER.mkdir(exist_ok=True)
    for file in FOLDER.glob("*.txt"):
        file.unlink()
    for name in ["neuroflow", *verbs()]:
        file_of(name).write_text(help_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
