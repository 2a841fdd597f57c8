"""The in-process interface is what its page says, and the example runs as shown."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.served_model import write_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "embedding.md").read_text("utf-8")
ROWS = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)\((.*?)\)` \|", PAGE, re.MULTILINE)


def found(module, name):
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def test_the_page_lists_the_interface():
    assert len(ROWS) >= 20


@pytest.mark.parametrize(("module", "name", "written"), ROWS, ids=lambda x: x)
def test_a_stable_name_keeps_its_parameters(module, name, written):
    parameters = inspect.signature(found(module, name)).parameters
    now = [p for key, p in parameters.items() if key != "self"]
    positional, _, keyword = written.partition("*, ")
    first = [word for word in positional.split(", ") if word]
    rest = [word for word in keyword.split(", ") if word]

    assert [p.name for p in now][: len(first)] == first
    assert set(rest) <= {p.name for p in now if p.kind is p.KEYWORD_ONLY}
    # What comes later must not break a program that was written before.
    added = [p for p in now if p.name not in (*first, *rest)]
    assert all(p.default is not p.empty for p in added)


def example(*arguments):
    search = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    return subprocess.run(
        [sys.executable, ROOT / "examples/embed.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
    )


@pytest.mark.slow
def test_the_example_decodes_and_encodes(tmp_path):
    write_model(tmp_path)

    done = example(tmp_path / "bundle", tmp_path / "gallery")

    assert done.returncode == 0, done.stderr
    decoded, encoded = done.stdout.splitlines()
    assert re.fullmatch(r"decoded trial-1 after volume 22: ANSWER [xy]", decoded), (
        decoded
    )
    assert encoded == "encoded a: 37 voxels"


@pytest.mark.slow
def test_the_example_says_in_a_line_what_it_cannot_use(tmp_path):
    write_model(tmp_path)

    swapped = example(tmp_path / "gallery", tmp_path / "bundle")
    alone = example(tmp_path / "bundle")

    assert swapped.returncode == alone.returncode == 1
    assert swapped.stderr == (
        "embed.py: manifest.json: expected a file in gallery, found none "
        "(No such file or directory)\n"
    )
    assert alone.stderr == "usage: python examples/embed.py BUNDLE GALLERY\n"
