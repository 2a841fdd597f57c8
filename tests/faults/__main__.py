"""Run faults: ``python -m tests.faults NAME [--short|--full] [--sabotage] [--json]``.

NAME is a fault of `tests.faults.registry`, ``all``, ``list``, or ``table FILE``. Exit
status 0 if every bound holds, 1 if not, 2 for wrong usage. With ``--sabotage`` the
thing under test is broken on purpose, and status 1 is what a sound check gives;
``all --sabotage`` ends with 0 if every sabotage was found.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.faults import registry
from tests.faults.result import Settings, carry_out
from tests.faults.table import table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("name", choices=[*registry.MODULES, "all", "list", "table"])
    parser.add_argument("file", nargs="?", type=Path, help="for table: what to show")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", dest="form", action="store_const", const="short")
    form.add_argument("--full", dest="form", action="store_const", const="full")
    parser.set_defaults(form="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="how often to try, of one fault")
    parser.add_argument(
        "--first", type=int, help="seed of the first session, as a trouble names it"
    )
    parser.add_argument("--tiny", action="store_true", help="serve without a model")
    parser.add_argument("--sabotage", action="store_true")
    parser.add_argument("--json", action="store_true", help="records, not sentences")
    parser.add_argument("--out", type=Path, help="append the records to this JSON list")
    arguments = parser.parse_args()
    if (arguments.name == "table") != (arguments.file is not None):
        parser.error("expected a file after table, and after nothing else")
    if arguments.first is not None and arguments.name != "sessions":
        parser.error("--first: expected it with sessions, found another fault")
    return arguments


def _told(record: dict[str, Any]) -> str:
    lines = [
        f"{'passed' if record['passed'] else 'FAILED'} {record['name']} "
        f"({record['form']}, seed {record['seed']}, {record['seconds']} s)"
    ]
    for name, figure in record["figures"].items():
        bound = record["bounds"].get(name)
        lines.append(f"  {name}: {figure}" + (f" (bound {bound})" if bound else ""))
    return "\n".join([*lines, *(f"  ! {line}" for line in record["examples"])])


def _append(out: Path, record: dict[str, Any]) -> None:
    kept = json.loads(out.read_text("utf-8")) if out.exists() else []
    out.write_text(json.dumps([*kept, record], indent=1) + "\n", "utf-8")


def main() -> int:
    """Do what the command line says; return the exit status."""
    arguments = _arguments()
    if arguments.name == "table":
        sys.stdout.write(table(arguments.file))
        return 0
    if arguments.name == "list":
        for name in registry.MODULES:
            sys.stdout.write(f"{name}: {registry.load(name).what}\n")
        return 0
    settings = Settings(
        form=arguments.form,
        seed=arguments.seed,
        sabotage=arguments.sabotage,
        count=arguments.count,
        first=arguments.first,
        tiny=arguments.tiny,
    )
    names = list(registry.MODULES) if arguments.name == "all" else [arguments.name]
    has_passed = True
    for name in names:
        record = carry_out(registry.load(name), settings)
        is_right = record["passed"]
        if arguments.name == "all" and arguments.sabotage:
            # All controls at once: each sabotage must be found.
            is_right = not is_right
        has_passed = has_passed and is_right
        line = json.dumps(record) if arguments.json else _told(record)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if arguments.out is not None:
            _append(arguments.out, record)
    return 0 if has_passed else 1


if __name__ == "__main__":
    sys.exit(main())
