"""Figures that pages quote in their prose are those of the committed files."""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def committed(name):
    return json.loads((DOCS / f"{name}.json").read_text("utf-8"))


def page(name):
    return " ".join((DOCS / f"{name}.md").read_text("utf-8").split())


def of_peers(name, peer, measure, *, condition="real"):
    (row,) = [
        row
        for row in committed(name)["rows"]["simulated"]
        if (row["peer"], row["condition"]) == (peer, condition)
    ]
    (figure,) = [one for one in row["figures"] if one["measure"] == measure]
    return figure


def short(value, digits=3):
    return f"{value:.{digits}f}".removeprefix("0")


def ablated(variant, solver, steps):
    """The row of a variant with a sampler."""
    (row,) = [
        row
        for row in committed("ablations")["rows"]
        if row["variant"] == variant
        and row["sampler"] == {"solver": solver, "steps": steps}
    ]
    return row


def served_before():
    """The full model of the earlier training, two steps of rotation: figures by seed.

    Of the first seed alone from any variant that has no other; the rest of the mean of
    both is the second's.
    """
    rows = [
        row
        for row in committed("ablations_earlier")["rows"]
        if row["sampler"] == {"solver": "rotation", "steps": 2}
    ]
    alone = [row for row in rows if row["seeds"] == [11]]
    (both,) = [row for row in rows if row["variant"] == "full"]
    figures = {}
    for measure in ("single", "three", "encoding"):
        found = {
            round(
                row["figures"][measure]["mean"] - row["difference"][measure]["mean"], 9
            )
            for row in alone
        }
        assert len(found) == 1, (measure, found)
        (first,) = found
        figures[measure] = (first, 2 * both["figures"][measure]["mean"] - first)
    return figures


def test_one_participant_of_the_ablations_is_quoted_as_its_file_has_it():
    text = page("ablations")
    figures = ablated("full", "rotation", 2)["by_seed"]["11"]

    single, three, r = (figures[m] for m in ("single", "three", "encoding"))
    said = (
        f"to the last trial, {short(single)} and {short(three)}, and r = {short(r, 5)} "
    )
    assert said in text


def test_who_collapses_without_kl_is_quoted_as_the_file_has_it():
    text = page("ablations")
    whole, without = (
        ablated(variant, "euler", 20)["by_seed"] for variant in ("full", "no-kl")
    )

    def both(seed, measure, digits):
        values = (one[seed][measure] for one in (whole, without))
        before, after = (f"{value:.{digits}f}".replace("0.", ".") for value in values)
        return f"from {before} to {after}"

    r, own = both("13", "encoding", 3), both("13", "synthetic", 2)
    assert f"(r {r}, self-consistency {own})" in text
    eleven, twelve = (
        [short(one[seed]["encoding"]) for one in (without, whole)]
        for seed in ("11", "12")
    )
    assert f"({eleven[0]} and {twelve[0]} against {eleven[1]} and {twelve[1]})" in text


def test_trainings_of_one_participant_are_those_of_the_four_files():
    text = (DOCS / "participant.md").read_text("utf-8")
    figures = ablated("full", "rotation", 2)["by_seed"]
    earlier = {
        row["seed"]: row for row in committed("participants") if not row["shuffled"]
    }

    def cells(values):
        return "| " + " | ".join(map(short, values)) + " |"

    def both(name, peer):
        one, three = (
            of_peers(name, peer, measure)["by_subject"]
            for measure in ("picture", "picture of means")
        )
        return [one["11"], three["11"], one["12"], three["12"]]

    rows = {
        "`participants.json`": [
            earlier[seed][key] for seed in (11, 12) for key in ("ours", "ours_three")
        ],
        "`ablations.json`": [
            figures[seed][measure]
            for seed in ("11", "12")
            for measure in ("single", "three")
        ],
        "`ablations_earlier.json`": [
            served_before()[measure][place]
            for place in (0, 1)
            for measure in ("single", "three")
        ],
        "`peers.json`": both("peers", "ours"),
    }
    for file, values in rows.items():
        (line,) = [x for x in text.splitlines() if x.startswith("| ") and file in x]
        assert line.endswith(cells(values)), file
    ridge = both("peers", "ridge")
    assert ridge == [
        earlier[seed][key] for seed in (11, 12) for key in ("ridge", "ridge_three")
    ]
    assert cells(ridge) in text


def test_ten_participants_are_quoted_as_the_newest_file_has_them():
    name = "peers"
    single = of_peers(name, "ours", "picture")["accuracy"]
    three = of_peers(name, "ours", "picture of means")["accuracy"]
    said = "{} of single trials ({} to {}, over participants and their pictures) and "
    said += "{} of three ({} to {})"
    values = [one[key] for one in (single, three) for key in ("mean", "low", "high")]

    assert said.format(*map(short, values)) in page("participant")
    ridge = of_peers(name, "ridge", "picture")
    less, both = ridge["ours_minus"], (single, ridge["accuracy"])
    ours, its = ([short(x[k]) for k in ("mean", "low", "high")] for x in both)
    readme = " ".join((DOCS.parent / "README.md").read_text("utf-8").split())
    assert f"right in {ours[0]} (95 % interval {ours[1]} to {ours[2]})" in readme
    assert f"ridge in {its[0]} ({its[1]} to {its[2]}), chance .003" in readme
    assert (
        f"(+{short(less['mean'])}, -{short(-less['low'])} to {short(less['high'])};"
        in readme
    )


def test_controls_that_do_not_hold_chance_are_those_that_the_page_names():
    rows = [
        row
        for kind in committed("peers")["rows"].values()
        for row in kind
        if row["condition"] != "real"
    ]
    missing = [
        (row["condition"], figure["measure"], figure["accuracy"]["high"])
        for row in rows
        for figure in row["figures"]
        if not (
            figure["accuracy"]["low"] <= figure["chance"] <= figure["accuracy"]["high"]
        )
    ]

    text = page("peers")
    shifted = [x for x in missing if x[0] == "shifted" and x[1] == "category"]
    empty = [x for x in missing if x[1].startswith("picture")]
    assert len(missing) == len(shifted) + len(empty)
    assert {high for _, _, high in empty} == {0.0}
    assert "holds it but six of shifted categories" in text
    assert len(shifted) == 6
    assert "and fourteen of pictures that are [0.0, 0.0]" in text
    assert len(empty) == 14


def test_the_time_of_few_trials_is_that_of_their_file():
    units = committed("few_trials")
    ridge = [unit["cpu_s"] for unit in units if unit["variant"] == "ridge"]
    others = [unit["cpu_s"] for unit in units if unit["variant"] != "ridge"]

    found = re.search(
        r"ridge took (\S+) to (\S+) s of processor time, any other (\S+) to (\S+) s",
        page("training"),
    )
    wanted = (min(ridge), max(ridge), min(others), max(others))
    assert found is not None
    assert found.groups() == tuple(f"{value:.1f}" for value in wanted)
