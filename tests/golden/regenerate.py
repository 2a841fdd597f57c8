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
    """Return the names of the verbs as the command line lists them."""
    text = help_text("neuroflow")
    return text[text.index("{") + 1 : text.index("}")].replace("\n", "").split(",")


def help_text(name: str) -> str:
    """Return the help of a verb, or of the command itself for "neuroflow"."""
    argv = ["neuroflow", "--help"] if name == "neuroflow" else ["neuroflow", name, "-h"]
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
        (FOLDER / f"{name}.txt").write_text(help_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
