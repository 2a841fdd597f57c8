"""Text from the wire stays one cell of one line, and can be read back."""

import csv
import io
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bci_bridge.exports.columns import tsv_of
from bci_bridge.exports.facts import RunFacts
from bci_bridge.exports.tables import events_table, shown_table, trials_table
from bci_bridge.exports.text import joined, labels, plain, safe_name
from bci_bridge.messages import Event, RunStart, Shown
from bci_bridge.outcomes import TrialOutcome

NAMES = st.text("aB1._+-", max_size=4)
NAMED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}
CODE = re.compile(r"\\(?:[\\tnr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", re.DOTALL)
HOSTILE = 'a\tb\nc\r"d\x00\x1b[2J\u2028\u202e\x85;=1\\'


def unescaped(text):
    return CODE.sub(
        lambda found: NAMED.get(found[0]) or chr(int(found[0][2:], 16)), text
    )


def start(**fields):
    return RunStart(
        **{"run": "r", "shape": (1, 1, 1), "tr_s": 1.0, "expected_volumes": 1,
           "budget_s": 1.0, **fields}
    )  # fmt: skip


def rows_of(table):
    """As a reader that knows nothing of us splits it, quotation marks included."""
    text = tsv_of(table)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
    assert len(text.splitlines()) == len(rows) + 1
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20))
@example(HOSTILE)
@example("n/a")
@example(" edge ")
@example("\\x41")
def test_any_text_is_escaped_to_one_printable_cell_and_back(text):
    escaped = plain(text)

    assert unescaped(escaped) == text
    assert escaped.isprintable() or not text.isprintable()
    assert not set(escaped) & set('\t\n\r"\0')
    assert len(escaped.splitlines()) <= 1
    assert escaped == escaped.strip()
    assert escaped != "n/a"
    assert not escaped.startswith(("=", "+", "-", "@"))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1), max_size=4))
def test_several_texts_in_a_cell_are_parted_by_semicolons_alone(texts):
    parts = joined(texts).split(";") if texts else []

    assert [unescaped(part) for part in parts] == texts


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20), st.text(max_size=20), st.integers(-(1 << 63), 1 << 62))
@example(HOSTILE, HOSTILE, -5)
def test_free_text_cannot_break_a_table(stimulus, what, shown_ns):
    run = RunFacts(start())
    run.events = [
        Event(trial_id=name, onset_s=onset, duration_s=0.5, stimulus_id=stimulus)
        for name, onset in (("t-2", 3.0), ("t-1", -1.5))
    ]
    run.shown = [Shown(what=what, shown_ns=shown_ns, trial_id="t-1")] * 2

    events, shown = rows_of(events_table(run)), rows_of(shown_table(run))

    assert [row["trial_id"] for row in events] == ["t-1", "t-2"]
    expected = plain(stimulus) or "n/a"
    assert [row["stim_id"] for row in events] == [expected, expected]
    assert events[0]["reported_shown_ns"] == f"{shown_ns};{shown_ns}"
    assert events[1]["reported_shown_ns"] == "n/a"
    assert [row["what"] for row in shown] == [plain(what) or "n/a"] * 2


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20), st.floats())
@example(HOSTILE, float("nan"))
def test_what_a_decoder_says_cannot_break_a_table_either(text, number):
    run = RunFacts(start())
    run.trials["t-1"] = TrialOutcome(
        outcome_index=0, decided_ns=0, published_ns=0, trial_id="t-1",
        decision="ANSWER", label=text, confidence=0.1, abstention=text, onset_s=number,
        delay_s=number, first_volume=0, last_volume=0, volumes_used=1, timing="LIVE",
        after_volume=0, degraded=(text, text), bundle_sha256=text,
    )  # fmt: skip

    (row,) = rows_of(trials_table(run))

    assert row["label"] == row["abstention"] == (plain(text) or "n/a")
    assert row["confidence"] == "0.1"
    assert row["delay_s"] == (repr(number) if number - number == 0 else "n/a")


@settings(deadline=None, max_examples=50)
@given(st.lists(NAMES, max_size=6))
def test_labels_are_alphanumeric_and_no_two_are_alike(names):
    made = labels(names, "sub")

    assert set(made) == set(names)
    assert all(re.fullmatch("[A-Za-z0-9]+", label) for label in made.values())
    assert len({label.lower() for label in made.values()}) == len(made)
    assert made == labels(reversed(names), "sub")


def test_labels_keep_what_is_one_and_name_what_is_none():
    assert labels(["sub-01"], "sub") == {"sub-01": "01"}
    assert labels(["a.b", "ab", ""], "ses") == {
        "ab": "ab", "a.b": "abx2", "": "unknown"
    }  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.lists(NAMES, unique=True, max_size=6))
def test_names_of_files_are_different_and_no_paths(names):
    made = [safe_name(name) for name in names]

    assert len(set(made)) == len(names)
    assert not any(name in ("", ".", "..") or name[0] in ".-+" for name in made)
