"""The table of hazards claims what the tests show, and nothing else."""

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.faults import registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "hazards.md").read_text("utf-8")

CATALOGUE = [
    f"{letter}{number}"
    for letter, last in (("A", 19), ("B", 12), ("C", 10), ("D", 10))
    for number in range(1, last + 1)
]
IMAGE_READERS = {"h5py", "nibabel", "pydicom", "pynetdicom", "SimpleITK"}
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}


def rows():
    """Every row as id, hazard, control and names of tests."""
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"[A-D]\d+", cells[0]):
            name, hazard, control, tests = cells
            yield name, hazard, control, re.findall(r"`([^`]+)`", tests)


@functools.cache
def names_in(file):
    """The tests that a file defines and does not skip whatever the machine."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return run_in(tree)


def run_in(tree):
    if any(is_skip(statement) for statement in tree.body):
        return set()
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not any(map(is_skip, [*node.decorator_list, *node.body]))
    }


def is_skip(node):
    """Whether a mark, or a statement that is always reached, skips unconditionally."""
    match node:
        case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
            marks = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
            return any(map(is_skip, marks))
        case ast.Expr(value=ast.Call(func=function)):
            return ast.unparse(function) in ("pytest.skip", "pytest.xfail")
        case ast.Call(func=function, args=args) if (
            ast.unparse(function) == "pytest.mark.skipif"
        ):
            # A condition that is written out decides nothing.
            return bool(args) and isinstance(args[0], ast.Constant) and args[0].value
        case ast.Call(func=function):
            return is_skip(function)
    return isinstance(node, ast.Attribute) and ast.unparse(node) in (
        "pytest.mark.skip",
        "pytest.mark.xfail",
    )


def is_there(test):
    """Whether a test exists and is not skipped everywhere.

    Of one with parameters the name before them counts.
    """
    file, _, name = test.partition("::")
    name, _, parameters = name.partition("[")
    if not (ROOT / file).is_file() or name not in names_in(file):
        return False
    is_fault = file == "tests/faults/test_faults.py" and parameters
    return not is_fault or parameters.rstrip("]") in registry.MODULES


def modules(*folders):
    return [file for name in folders for file in sorted((ROOT / name).rglob("*.py"))]


def dotted(file):
    """Every name with a dot and every import of a module, as it is written."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_hazard_of_the_catalogue_has_its_row_once():
    assert [name for name, *_ in rows()] == CATALOGUE


def test_every_row_names_a_hazard_and_a_control():
    assert all(hazard and control for _, hazard, control, _ in rows())


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row[0])
def test_a_control_is_shown_by_tests_that_exist(row):
    *_, tests = row

    assert tests
    assert [test for test in tests if not is_there(test)] == []


def test_no_test_is_named_twice_in_a_row():
    assert all(len(set(tests)) == len(tests) for *_, tests in rows())


@pytest.mark.parametrize(
    "test",
    [
        "tests/unit/test_wire.py::test_that_nobody_wrote",
        "tests/unit/test_nothing.py::test_an_unknown_field_is_ignored",
        "tests/faults/test_faults.py::test_the_short_form_passes[no-such-fault]",
        "tests/unit/test_wire.py",
    ],
)
def test_that_check_finds_a_test_that_does_not_exist(test):
    assert not is_there(test)


MARKS = [
    "@pytest.mark.skip",
    "@pytest.mark.skip(reason='later')",
    "@pytest.mark.skipif(True, reason='never')",
    "@pytest.mark.xfail",
    "@pytest.mark.xfail(reason='broken')",
]


@pytest.mark.parametrize(
    "text",
    [
        *(f"{mark}\ndef test_a(): pass" for mark in MARKS),
        *(f"pytestmark = {mark[1:]}\ndef test_a(): pass" for mark in MARKS),
        "pytestmark = [pytest.mark.slow, pytest.mark.skip]\ndef test_a(): pass",
        "pytest.skip('x', allow_module_level=True)\ndef test_a(): pass",
        "def test_a():\n    pytest.skip('not today')\n    assert False",
    ],
)
def test_a_test_that_is_never_run_shows_nothing(text):
    assert run_in(ast.parse(text)) == set()


def test_a_test_that_is_skipped_for_lack_of_something_does():
    text = """
pytestmark = pytest.mark.slow
@pytest.mark.skipif(not HAS_IT, reason="no such device")
def test_a():
    if not there:
        pytest.skip("not here")
@pytest.mark.parametrize("one", [1])
def test_b(one): pass
"""
    assert run_in(ast.parse(text)) == {"test_a", "test_b"}


def test_one_source_reads_the_lab_streaming_layer_and_nothing_else():
    importers = [
        str(file.relative_to(ROOT))
        for file in modules("bci_bridge", "runtime", "verbs")
        if any(name.partition(".")[0] == "pylsl" for name in dotted(file))
    ]

    # Triggers are put on record; nothing that is answered comes from them.
    assert importers == ["bci_bridge/sources/pulse_devices.py"]


def test_the_server_imports_no_reader_of_image_files():
    importers = {
        file.parent.name
        for file in modules("bci_bridge")
        if IMAGE_READERS & {name.partition(".")[0] for name in dotted(file)}
    }
    users = [
        file
        for file in modules("bci_bridge")
        if file.parent.name not in ("exports", "sources")
        and any(
            name.startswith(("bci_bridge.exports", "bci_bridge.sources"))
            for name in dotted(file)
        )
    ]

    # What is over may be written in their formats, and a source, which is a process of
    # its own, reads them; the server does neither.
    assert importers <= {"exports", "sources"}
    assert users == []


def test_the_live_system_never_reads_the_wall_clock():
    readers = [
        file
        for file in modules("bci_bridge", "runtime")
        for name in dotted(file)
        if name.removeprefix("datetime.") in WALL_CLOCKS
    ]

    assert readers == []


def test_that_check_finds_a_wall_clock(tmp_path):
    file = tmp_path / "late.py"
    file.write_text("import time\nfrom time import time_ns\nnow = time.time()\n")

    assert {"time.time", "time.time_ns"} <= set(dotted(file))
