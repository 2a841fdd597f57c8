"""What a table of events may say, and the line that names what it may not."""

import pytest

from runtime.errors import RecordingError
from runtime.recording_events import read_events

HEAD = "onset\tduration\ttrial_type\ttrial_id\tstim_id\tsplit"
ROWS = ("3.0\t2.0\timage\tt1\tcat\ttrain", "7.0\t2.0\timage\tt2\tdog\ttest")


def read(tmp_path, *lines, end="\n"):
    file = tmp_path / "run_events.tsv"
    file.write_text(end.join(lines) + end if lines else "", newline="")
    return read_events(file, tmp_path / "stimuli")


def refusal(tmp_path, *lines):
    with pytest.raises(RecordingError) as error:
        read(tmp_path, *lines)
    assert error.value.exit_status == 1
    return str(error.value).removeprefix(f"{tmp_path / 'run_events.tsv'}: ")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "abc", "n/a", ""])
@pytest.mark.parametrize("column", ["onset", "duration"])
def test_a_time_that_is_no_number_is_named_with_its_line(tmp_path, column, value):
    cells = ROWS[1].split("\t")
    cells[HEAD.split("\t").index(column)] = value

    line = refusal(tmp_path, HEAD, ROWS[0], "\t".join(cells))

    assert line == (
        f"line 3: expected onset and duration in seconds, found {column} "
        f"{value or 'n/a'!r}"
    )


@pytest.mark.parametrize("value", ["", "n/a", " "])
def test_a_picture_without_a_split_is_refused_where_the_table_has_splits(
    tmp_path, value
):
    line = refusal(tmp_path, HEAD, ROWS[0].replace("train", value))

    assert line == (
        "line 2: split: expected a name for a picture, as the table has this column, "
        "found none"
    )


def test_a_line_that_was_cut_is_named(tmp_path):
    assert refusal(tmp_path, HEAD, ROWS[0], ROWS[1][:-5]) == (
        "line 3: expected 6 columns as in the first line, found 5. The file may be "
        "cut; copy it again"
    )


def test_an_empty_table_is_refused_and_one_without_events_has_none(tmp_path):
    assert refusal(tmp_path).endswith("found it empty. Copy it again")
    assert read(tmp_path, HEAD) == ()


def test_columns_that_are_missing_are_named_beside_those_found(tmp_path):
    assert refusal(tmp_path, "time\tduration", "1\t1") == (
        "columns: expected onset, separated by tabs, found 'time', 'duration'"
    )
    assert refusal(tmp_path, "onset,duration", "1,1") == (
        "columns: expected onset and duration, separated by tabs, "
        "found 'onset,duration'"
    )


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    wanted = read(tmp_path, HEAD, *ROWS)

    assert read(tmp_path, "\ufeff" + HEAD, *ROWS) == wanted
    assert read(tmp_path, HEAD, *ROWS, end="\r\n") == wanted


def test_an_impulse_is_an_event_but_no_picture(tmp_path):
    press = "3.0\t0\tbutton\tp1\tn/a\tn/a"

    assert read(tmp_path, HEAD, press, *ROWS)[0].duration_s == 0
    assert refusal(tmp_path, HEAD, ROWS[0].replace("\t2.0", "\t0")) == (
        "line 2: duration: expected more than 0 seconds for a picture, found 0. Write "
        "how long it was shown"
    )
    assert refusal(tmp_path, HEAD, ROWS[0].replace("\t2.0", "\t-2")) == (
        "line 2: duration: expected 0 or more seconds, found -2"
    )


def test_a_trial_that_stands_there_twice_is_refused_under_any_name(tmp_path):
    assert refusal(tmp_path, HEAD, *ROWS, ROWS[0].replace("t1", "t9")) == (
        "line 4: expected another onset or picture than in line 2, found cat at 3 s "
        "again. Remove one of the two"
    )
    (tmp_path / "stimuli").mkdir()
    (tmp_path / "stimuli" / "cat.png").touch()
    assert refusal(
        tmp_path, HEAD, *ROWS, ROWS[0].replace("t1\tcat", "t9\tcat.png")
    ) == (
        "line 4: expected another onset or picture than in line 2, found cat.png at 3 "
        "s again. Remove one of the two"
    )
    # Presses at one time are no trials.
    press = "3.0\t0\tbutton\t{}\tn/a\tn/a"
    assert len(read(tmp_path, HEAD, press.format("p1"), press.format("p2"))) == 2


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        # An identifier that is no file stands beside the file that was shown.
        ("17\tfaces/ann.png", "faces/ann.png"),
        ("17\tgone.png", "17"),
        ("n/a\tgone.png", "gone.png"),
        ("17\tn/a", "17"),
        # Of one picture the name is kept that the gallery has.
        ("cat\tcat.png", "cat"),
    ],
)
def test_a_file_that_is_there_says_what_was_shown_and_else_the_identifier(
    tmp_path, cells, shown
):
    (tmp_path / "stimuli" / "faces").mkdir(parents=True)
    for name in ("faces/ann.png", "cat.png"):
        (tmp_path / "stimuli" / name).touch()

    (event,) = read(
        tmp_path, "onset\tduration\tstim_id\tstim_file", f"3.0\t2.0\t{cells}"
    )

    assert event.stimulus_id == shown


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ("cat\tfaces/ann.png", "cat and faces/ann.png"),
        ("cat\tfaces/ann", "cat and faces/ann"),
        ("faces/ann.png\tcat.png", "faces/ann.png and cat.png"),
    ],
)
def test_a_line_that_names_two_pictures_that_are_there_is_refused(
    tmp_path, cells, names
):
    (tmp_path / "stimuli" / "faces").mkdir(parents=True)
    for name in ("faces/ann.png", "cat.png"):
        (tmp_path / "stimuli" / name).touch()

    line = refusal(
        tmp_path, "onset\tduration\tstim_id\tstim_file", f"3.0\t2.0\t{cells}"
    )

    assert line == (
        "line 2: expected stim_id and stim_file to name one picture, found "
        f"{names}, which are two that are there. Correct or empty one of the two cells"
    )
