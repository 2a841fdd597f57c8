"""Figures of the peers from sheets whose answers are known."""

import msgspec
import pytest

from runtime.errors import RecordingError
from training.peers.comparison import compare_peers
from training.peers.sheet import Sheet
from training.peers.table import peers_table

IMAGES = 40


def made(peer, subject=1, right=20, condition="real", kind="simulated", **changes):
    """A sheet of 40 pictures shown once in one run, the first `right` found."""
    image = list(range(IMAGES))
    picture = [i if i < right else i + 1 for i in image]
    following = [*image[1:], -1]
    fields = {
        "kind": kind,
        "subject": subject,
        "peer": peer,
        "condition": condition,
        "recipe": peer,
        "parameters": 10 * subject,
        "evaluations": 3,
        "training_s": float(subject),
        "machine": "a machine",
        "gallery": 100,
        "categories": 4,
        "image": image,
        "image_category": [i % 4 for i in image],
        "run": [0] * IMAGES,
        "stretch": image,
        "next_image": following,
        "next_category": [i % 4 if i >= 0 else -1 for i in following],
        "picture": picture,
        "category": [i % 4 for i in picture],
        "mean_image": image,
        "mean_image_category": [i % 4 for i in image],
        "mean_picture": picture,
        "mean_category": [i % 4 for i in picture],
    }
    return Sheet(**(fields | changes))


def row(rows, peer, condition="real"):
    (found,) = [r for r in rows if r.peer == peer and r.condition == condition]
    return found


def figure(one, measure):
    (found,) = [f for f in one.figures if f.measure == measure]
    return found


def test_accuracies_are_shares_of_trials_with_those_of_each_participant():
    rows = compare_peers([made("ours", 1, 10), made("ours", 2, 30)], ["ours"])

    found = figure(row(rows, "ours"), "picture")

    assert found.accuracy.mean == pytest.approx(0.5)
    assert found.accuracy.low < 0.5 < found.accuracy.high
    assert found.by_subject == {1: 0.25, 2: 0.75}
    assert found.chance == 0.01
    assert row(rows, "ours").parameters == [10, 20]
    assert row(rows, "ours").training_s == 1.5


def test_equal_answers_differ_by_nothing_whatever_is_drawn():
    sheets = [made(p, s, 10 * s) for p in ("ours", "twin") for s in (1, 2, 3)]

    minus = figure(row(compare_peers(sheets, ["ours", "twin"]), "twin"), "picture")

    assert (minus.ours_minus.mean, minus.ours_minus.low, minus.ours_minus.high) == (
        0,
        0,
        0,
    )


def test_a_peer_with_fewer_participants_is_compared_on_those():
    sheets = [made("ours", 1, 10), made("ours", 2, 40), made("slow", 1, 20)]

    found = row(compare_peers(sheets, ["ours", "slow"]), "slow")

    assert found.subjects == [1]
    assert figure(found, "picture").ours_minus.mean == pytest.approx(-0.25)


def test_ours_minus_is_negative_where_ours_is_worse():
    sheets = [made("ours", right=10), made("better", right=30)]

    found = figure(row(compare_peers(sheets, ["ours", "better"]), "better"), "category")

    assert found.ours_minus.mean == pytest.approx(-0.5)
    assert found.ours_minus.high < 0


def test_shifted_answers_are_held_against_the_next_stimulus():
    # Every answer beyond the first 10 is the next picture: wrong, but right when
    # shifted, for all 30 but the last, which nothing follows.
    found = row(compare_peers([made("ours", right=10)], ["ours"]), "ours", "shifted")

    assert figure(found, "picture").accuracy.mean == pytest.approx(29 / 39)
    assert [f.measure for f in found.figures] == ["picture", "category"]


def test_who_knows_no_pictures_has_no_figure_of_them():
    namer = made("LDA", picture=None, mean_picture=None)

    rows = compare_peers([made("ours"), namer], ["ours", "LDA"])

    assert [f.measure for f in row(rows, "LDA").figures] == [
        "category",
        "category of means",
    ]
    lines = peers_table(rows, ["picture", "category"]).splitlines()
    (line,) = [line for line in lines if line.startswith("| LDA |")]
    assert line.split("|")[3].strip() == "n/a"


def test_runs_of_a_recording_are_drawn_not_its_one_participant():
    runs = [i // 10 for i in range(IMAGES)]
    one = made(
        "ours",
        kind="haxby",
        run=runs,
        stretch=[i // 5 for i in range(IMAGES)],
        picture=None,
        mean_image=[],
        mean_image_category=[],
        mean_picture=None,
        mean_category=[],
    )

    (found,) = row(compare_peers([one], ["ours"]), "ours").figures

    assert found.measure == "category"
    assert found.by_subject == {0: 1, 1: 1, 2: 0, 3: 0}
    # Whole runs are right or wrong: the interval spans most of what four draws can.
    assert found.accuracy.low <= 0.1
    assert found.accuracy.high >= 0.9


def test_other_questions_are_refused():
    other = made("other", image=[*range(1, IMAGES), 0])

    with pytest.raises(RecordingError, match="expected the same questions"):
        compare_peers([made("ours"), other], ["ours", "other"])


def test_two_recipes_of_one_peer_are_refused():
    sheets = [made("ours"), msgspec.structs.replace(made("ours", 2), recipe="changed")]

    with pytest.raises(RecordingError, match="expected one recipe of ours, found 2"):
        compare_peers(sheets, ["ours"])


def test_a_table_has_a_row_for_each_peer_and_control_then_chance():
    sheets = [made("ours"), made("ridge", right=10), made("ridge", 1, 0, "shuffled")]

    lines = peers_table(
        compare_peers(sheets, ["ours", "ridge"]), ["picture", "category"]
    ).splitlines()

    assert [line.split("|")[1].strip() for line in lines] == [
        "who",
        "---",
        "ours",
        "ridge",
        "ridge, pictures shuffled",
        "ours, shifted by a trial",
        "ridge, shifted by a trial",
        "chance",
    ]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "+25.0 [" in lines[3]
    assert lines[-1].split("|")[3].strip() == "1"
