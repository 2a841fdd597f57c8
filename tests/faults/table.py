"""Results as the markdown table of a document: every figure that has a bound."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def rows(results: Iterable[dict[str, Any]]) -> Iterable[list[str]]:
    """Yield the table's rows; a result's first row says when and where."""
    for result in results:
        fault = f"{result['name']} ({result['form']})"
        if result["sabotage"]:
            fault += ", sabotaged"
        for name, bound in result["bounds"].items():
            found = result["figures"].get(name, "none")
            verdict = "no" if name in result["failed"] else "yes"
            figure = name.replace("_", " ")
            shown = f"{found:,}" if isinstance(found, int) else str(found)
            when, where = result["date"], result["machine"]
            yield [fault, figure, bound, shown, verdict, when, where]


def table(file: Path) -> str:
    """Return the markdown table of a file that ``--out`` wrote."""
    heads = ["fault", "figure", "bound", "found", "passed", "when", "machine"]
    lines = [heads, ["---"] * len(heads), *rows(json.loads(file.read_text("utf-8")))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
