"""Pictures of an evaluation: chosen by score alone, legible, none of them lost."""

from xml.etree import ElementTree

import numpy as np

from training.metrics.result import Absent, EncodingFigures, RoiFigures, Value
from verbs.evaluation_figures import (
    SIDE,
    Found,
    best_median_worst,
    contact_sheet,
    roi_bars,
    selectivity,
    selectivity_map,
)

NOTHING = Absent("not measured")


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
