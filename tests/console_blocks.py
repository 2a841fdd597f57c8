"""The commands of a section of a document, and what it shows that they print.

A console block has commands, which begin with ``$``, each followed by lines of its
output. A line ``...`` stands for lines that are left out. Figures differ from run to
run and are not compared: see `same_but_for_figures`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = "..."


@dataclass(frozen=True)
class Shown:
    """A command and the output beside it."""

    command: str
    output: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether what is shown is the one line of a failure, and nothing else."""
        return len(self.output) == 1 and self.output[0].startswith("neuroflow: ")


def section(document: Path, heading: str) -> str:
    """Return what stands below a heading of level two, up to the next."""
    parts = re.split(r"^## ", document.read_text("utf-8"), flags=re.MULTILINE)
    (found,) = [part for part in parts if part.splitlines()[0] == heading]
    return found


def shown_in(text: str) -> list[Shown]:
    """Return the commands of all console blocks, in order."""
    found: list[Shown] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE):
            command, *output = part.splitlines() or [""]
            if command.strip():
                found.append(Shown(" ".join(command.split()), tuple(output)))
    return found


def missing_lines(shown: Shown, printed: str) -> list[str]:
    """Return the lines that are shown and were not printed, in that order."""
    rest = [same_but_for_figures(line) for line in printed.splitlines()]
    missing = []
    for line in shown.output:
        if line.strip() == LEFT_OUT:
            continue
        wanted = same_but_for_figures(line)
        if wanted in rest:
            rest = rest[rest.index(wanted) + 1 :]
        else:
            missing.append(line)
    return missing


def same_but_for_figures(line: str) -> str:
    """Put one sign for every hash and figure, and one blank for many."""
    line = re.sub(r"\b[0-9a-f]{12,}\b", "#", line)
    line = re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", line)
    return " ".join(line.split())
