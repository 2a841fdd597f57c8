"""Write the tables of docs/latency.md anew from the files of raw samples.

python -m benchmarks.latency_table SAMPLES.json ... PAGE.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from runtime.bench.result import decode_result
from runtime.bench.table import report
from runtime.bench.targets import targets
from runtime.errors import NeuroFlowError

BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"


def measured(files: Sequence[Path]) -> str:
    """Return the generated part of the page: a run after the other."""
    return "\n".join(map(_measured, files))


def _measured(file: Path) -> str:
    result = decode_result(file.read_bytes(), str(file))
    heads = f"## {result.subject[:1].upper()}{result.subject[1:]}"
    if result.steps:
        heads += f" in {result.steps[0].who.precision}"
    return f"{heads}\n\n### To be reached\n\n{targets(result)}\n{report(result)}"


def replaced(page: str, part: str) -> str:
    """Return the page with its generated part replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path, nargs="+", help="of neuroflow bench")
    parser.add_argument("page", type=Path, help="with the marks of what is generated")
    options = parser.parse_args()
    try:
        part = measured(options.samples)
    except (NeuroFlowError, OSError) as error:
        raise SystemExit(f"latency_table: {error}") from error
    text = replaced(options.page.read_text("utf-8"), part)
    options.page.write_text(text, "utf-8")
