"""Pictures of an evaluation: chosen by score alone, legible, none of them lost."""

from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from training.metrics.result import Absent, EncodingFigures, RoiFigures, Value
from verbs.evaluation_figures import (
    SIDE,
    Found,
    best_median_worst,
    contact_sheet,
    roi_bars,
    selectivity,
    selectivity_map,
    voxel_panels,
    write_figures,
)
from verbs.voxel_maps import (
    THEMES,
    CategoryPanel,
    FigurePanel,
    category_colour,
    draw_maps,
    smallest_region,
)

NOTHING = Absent("not measured")
# In C order the six voxels are (0, 0, 0), (0, 1, 2), (1, 0, 0), (1, 0, 2), ...
MASK = np.zeros((3, 2, 4), bool)
MASK[[0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 0, 1], [0, 2, 0, 2, 0, 2]] = True


def found(n=30):
    rng = np.random.default_rng(0)
    seen = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return Found(
        seen=seen,
        decoded=255 - seen,
        labels=["cat & dog" if i % 2 else "house" for i in range(n)],
        names=[str(i) for i in range(n)],
        predicted=rng.normal(size=(n, 6)).astype(np.float32),
        measured=rng.normal(size=(n, 6)).astype(np.float32),
        rois={"all": np.ones(6, bool), "V1": np.arange(6) < 2},
        mask=MASK,
    )


def test_images_are_chosen_by_their_score_alone():
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.3, 0.2])

    groups = best_median_worst(scores, 2)

    assert groups == {"best": [1, 3], "median": [2, 4], "worst": [5, 0]}
    assert best_median_worst(np.array([0.2, 0.4]), 8) == {
        "best": [1],
        "median": [],
        "worst": [0],
    }
    assert best_median_worst(scores[:1], 8)["best"] == [0]


def test_the_sheet_holds_seen_above_decoded():
    drawn = found()
    sheet = np.asarray(contact_sheet(drawn.seen, drawn.decoded, drawn.labels))

    # Decoded is the negative of seen, and so is its place in the sheet.
    top = sheet[60 : 60 + SIDE, 110 : 110 + SIDE].astype(int)
    below = sheet[60 + SIDE + 4 : 60 + 2 * SIDE + 4, 110 : 110 + SIDE].astype(int)
    assert (top + below == 255).all()
    # A note changes the heading alone.
    noted = np.asarray(
        contact_sheet(drawn.seen, drawn.decoded, drawn.labels, "rendered elsewhere")
    )
    changed = np.flatnonzero((noted != sheet).any(axis=(1, 2)))
    assert 41 <= changed.min() < changed.max() < 60


def test_selectivity_by_hand():
    responses = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 6.0]], np.float32)

    names, values = selectivity(responses, ["b", "b", "a"])

    # Means over all images: 2 and 2; of a: 2 and 6; of b: 2 and 0.
    assert names == ["a", "b"]
    np.testing.assert_allclose(values, [[0.0, 4.0], [0.0, -2.0]])


def roi(name, correlation, ceiling):
    return RoiFigures(
        roi=name,
        voxels=5,
        correlation=correlation,
        ceiling=ceiling,
        normalised=NOTHING,
        explained_variance=NOTHING,
    )


def test_drawings_are_whole_and_say_in_words_what_they_show():
    value = Value(mean=-0.1, low=-0.2, high=0.05, n=9)
    encoding = EncodingFigures(
        trials="averaged",
        mse=NOTHING,
        pearson=NOTHING,
        cosine=NOTHING,
        pearson_percent=NOTHING,
        rois=[roi("V1 <b>", value, Value(mean=0.4, n=5)), roi("V2", value, NOTHING)],
    )

    for drawn in (roi_bars(encoding), selectivity_map(found(), found().labels)):
        root = ElementTree.fromstring(drawn)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        numbers = [
            float(element.get(key))
            for element in root.iter()
            for key in ("x", "y", "x1", "x2", "width", "height")
            if element.get(key) is not None
        ]
        assert np.isfinite(numbers).all()
        assert max(numbers) <= max(float(root.get("width")), float(root.get("height")))
    assert "V1 &lt;b&gt; -0.10 of 0.40" in roi_bars(encoding)
    assert roi_bars(encoding).count('class="ceiling"') == 1
    assert "cat &amp; dog" in selectivity_map(found(), found().labels)


def test_the_smallest_region_of_a_voxel_is_shown():
    rois = {
        "all": np.ones(4, bool),
        "small": np.array([True, False, False, False]),
        "large": np.array([True, True, True, False]),
    }

    names, places = smallest_region(rois)

    assert names == ["small", "large"]
    assert places.tolist() == [0, 1, 1, -1]


def test_panels_hold_the_figures_of_each_voxel():
    rows = found()
    r = [np.corrcoef(rows.predicted[:, k], rows.measured[:, k])[0, 1] for k in range(6)]
    panels = voxel_panels(rows)

    assert list(panels) == ["voxels_r", "voxels_regions", "voxels_category"]
    _, (only,), _ = panels["voxels_r"]
    np.testing.assert_allclose(only.values, r, atol=1e-6)
    _, (place, mean), names = panels["voxels_regions"]
    assert (names, place.places.tolist()) == (["V1"], [0, 0, -1, -1, -1, -1])
    np.testing.assert_allclose(
        mean.values, [np.mean(r[:2])] * 2 + [np.nan] * 4, atol=1e-6
    )
    _, (said, real), names = panels["voxels_category"]
    assert names == ["cat & dog", "house"]
    for panel, responses in ((said, rows.predicted), (real, rows.measured)):
        cat, house = responses[1::2].mean(axis=0), responses[::2].mean(axis=0)
        assert panel.places.tolist() == (house > cat).astype(int).tolist()


def test_without_categories_regions_or_repeats_there_are_fewer_maps():
    bare = replace(found(), labels=None, rois={"all": np.ones(6, bool)})
    assert list(voxel_panels(bare)) == ["voxels_r"]

    ceiling = np.array([0.25, 0.01, 0.25, 0.25, 0.25, 0.25])
    _, (r, ratio), _ = voxel_panels(replace(bare, ceiling=ceiling))["voxels_r"]
    assert np.isnan(ratio.values[1])
    np.testing.assert_allclose(ratio.values[2:], r.values[2:] / 0.5)


def test_voxels_that_answer_every_category_alike_prefer_none():
    flat = replace(found(), predicted=np.ones((30, 6), np.float32))

    _, (said, _), _ = voxel_panels(flat)["voxels_category"]

    assert said.places.tolist() == [-1] * 6


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_a_voxel_is_drawn_where_it_lies(theme):
    places = np.array([0, 1, 1, 0, -1, 1])
    sheet = np.asarray(
        draw_maps(MASK, "heading", [CategoryPanel("panel", places)], theme, ["a", "b"])
    )

    # Two slices with voxels, 0 and 2; each 3 voxels wide and 2 high, of 12 pixels.
    def pixel(slice_number, x, y):
        return tuple(
            int(c)
            for c in sheet[80 + 12 * (1 - y) + 6, 24 + 44 * slice_number + 12 * x + 6]
        )

    one, two = (category_colour(k, 2, theme) for k in (0, 1))
    assert one != two
    assert [pixel(0, x, 0) for x in range(3)] == [one, two, theme.none]
    assert [pixel(0, x, 1) for x in range(3)] == [theme.paper] * 3
    assert [pixel(1, x, 1) for x in range(3)] == [two, theme.paper, two]
    assert pixel(1, 1, 0) == one


def test_figures_are_red_above_and_blue_below_and_zero_is_neither():
    light = THEMES[0]
    values = np.array([0.5, 0.0, -0.5, np.nan, 0.25, 0.0])
    sheet = np.asarray(draw_maps(MASK, "heading", [FigurePanel("r", values)], light))

    row = sheet[80 + 12 + 6, [24 + 12 * x + 6 for x in range(3)]]
    assert tuple(row[0]) == light.above
    assert tuple(row[1]) == light.below
    half = (np.array(light.zero) + light.above) / 2
    np.testing.assert_allclose(row[2], half, atol=1)


def test_no_map_is_drawn_of_correlations_across_two_images():
    three, two = (voxel_panels(found(n)) for n in (3, 2))

    assert list(three) == ["voxels_r", "voxels_regions", "voxels_category"]
    assert list(two) == ["voxels_regions", "voxels_category"]
    assert [len(maps["voxels_regions"][1]) for maps in (three, two)] == [2, 1]


def test_what_this_evaluation_cannot_draw_does_not_stay(tmp_path):
    result = SimpleNamespace(encoding=(), rendered_elsewhere=None)
    maps = {f"voxels_r_{name}.png" for name in ("light", "dark")}
    write_figures(tmp_path, result, found())
    first = {file.name for file in tmp_path.iterdir()}
    write_figures(tmp_path, result, replace(found(2), seen=None, labels=None))
    second = {file.name for file in tmp_path.iterdir()}

    assert {"contact.png", "selectivity.svg", *maps} < first
    assert second == {f"voxels_regions_{name}.png" for name in ("light", "dark")}
