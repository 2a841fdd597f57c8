"""What a document shows is found, and a line that was not printed is missed."""

from tests.console_blocks import missing_lines, section, shown_in

PAGE = """# Title

## One

```console
$ other
```

## Two

Words.

```console
$ neuroflow first --flag \\
      more
took 3.2 s and wrote 0123456789abcdef
$ neuroflow second
neuroflow: it failed
```

```python
$ no command
```
"""


def test_the_commands_of_a_section_and_what_they_print(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)

    first, second = shown_in(section(tmp_path / "page.md", "Two"))

    assert first.command == "neuroflow first --flag more"
    assert first.output == ("took 3.2 s and wrote 0123456789abcdef",)
    assert (first.fails, second.fails) == (False, True)


def test_figures_may_differ_and_words_and_their_order_may_not(tmp_path):
    (tmp_path / "page.md").write_text(
        PAGE.replace("neuroflow: it failed", "a 1\n...\nb -2e-7")
    )
    first, second = shown_in(section(tmp_path / "page.md", "Two"))

    assert not missing_lines(first, "took  41 s and wrote fedcba9876543210\n")
    assert missing_lines(first, "took 41 s and wrote it\n") == list(first.output)
    assert not missing_lines(second, "x\na 5\ny\nb 3\n")
    assert missing_lines(second, "b 3\na 5\n") == ["b -2e-7"]
