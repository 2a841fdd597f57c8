"""What the command line says of itself changes only on purpose.

``python -m tests.golden.regenerate`` writes the files anew.
"""

import pytest

from tests.golden.regenerate import COLUMNS, FOLDER, file_of, help_text, verbs

FILES = sorted(FOLDER.glob("*.txt"))


def test_every_verb_has_its_file_and_no_other_exists():
    assert set(FILES) == {file_of(name) for name in ["neuroflow", *verbs()]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_help_is_as_it_was(file):
    assert help_text(file.stem.replace("_", " ")) == file.read_text("utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_help_is_plain_text_within_its_width(file):
    text = file.read_text("utf-8")

    assert "\x1b" not in text
    # The usage line, which lists the verbs, is not broken by the parser.
    lines = [line for line in text.splitlines() if not line.startswith("usage:")]
    assert all(len(line) <= int(COLUMNS) for line in lines)
