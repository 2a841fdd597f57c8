"""Write the tables of docs/latency.md anew from docs/latency.json."""

import sys
from pathlib import Path

from runtime.bench.result import decode_result
from runtime.bench.table import report
from runtime.bench.targets import targets

BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"


def measured(json_file: Path) -> str:
    """Return the generated part of the page."""
    result = decode_result(json_file.read_bytes(), json_file.name)
    return f"### What was to be reached\n\n{targets(result)}\n{report(result)}"


def replaced(page: str, part: str) -> str:
    """Return the page with its generated part replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


if __name__ == "__main__":
    source, page = map(Path, sys.argv[1:])
    page.write_text(replaced(page.read_text("utf-8"), measured(source)), "utf-8")
