"""An evaluation in pictures: contact sheet, regions, selectivity of categories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

from training.metrics.pixels import pixel_correlations
from training.metrics.result import BundleEvaluation, EncodingFigures, Value
from training.metrics.voxels import (
    MIN_CORRELATED,
    correlations_across_images,
    normalised_by_ceiling,
)
from verbs.report.svg import Axis, line, rect, standalone, text, tick_text
from verbs.voxel_maps import (
    THEMES,
    CategoryPanel,
    FigurePanel,
    Panel,
    draw_maps,
    smallest_region,
)

SIDE = 128
"""Pixels of a picture in the contact sheet."""
GAP = 14
COLUMNS = 8
INK, SOFT, PAPER = "#171a20", "#535b69", "#ffffff"
STYLE = """
text{font:13px system-ui,"DejaVu Sans",sans-serif;fill:#171a20}
.tick-text{fill:#535b69;font-size:12px}.mid{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:#e6e9ee}.axis{stroke:#535b69}.bar{fill:#8db7dc}
.interval{stroke:#171a20;stroke-width:1.5}.ceiling{stroke:#a8321a;stroke-width:3}
.strong{font-weight:650}.paper{fill:#ffffff}
@media (prefers-color-scheme:dark){
text{fill:#eceff4}.tick-text{fill:#a0a8b6}.grid{stroke:#333a46}.axis{stroke:#a0a8b6}
.bar{fill:#3f74a8}.interval{stroke:#eceff4}.ceiling{stroke:#ff805c}.paper{fill:#14171c}
}
"""

Pictures = UInt8[np.ndarray, "images height width 3"]
Responses = Float32[np.ndarray, "images voxels"]

_DRAWN = ("contact.png", "rois.svg", "selectivity.svg", "voxels_*.png")
"""What is drawn here, each where it can be."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the pictures show, one row an image."""

    seen: Pictures | None
    decoded: Pictures | None
    """None, like `seen`: there is none to be had."""
    labels: Sequence[str] | None
    """None: nobody knows what the images show."""
    names: Sequence[str]
    predicted: Responses
    """In standard deviations of the training betas."""
    measured: Responses
    """Mean of the image's trials, in the same units."""
    rois: Mapping[str, Bool[np.ndarray, " voxels"]]
    mask: Bool[np.ndarray, "x y z"]
    """Where the voxels lie, in their order."""
    ceiling: Float64[np.ndarray, " voxels"] | None = None
    """Noise ceiling of `measured`; None where no image was shown twice."""


def write_figures(out: Path, result: BundleEvaluation, found: Found) -> None:
    """Write contact sheet, bars, grid and maps into a folder.

    ``contact.png`` where there are pictures; ``rois.svg``; ``selectivity.svg`` where
    there are categories; ``voxels_r`` where images suffice for a correlation,
    ``voxels_regions`` where there are regions, and ``voxels_category`` where there are
    categories, each ``_light.png`` and ``_dark.png``.
    """
    # What an earlier evaluation drew, this one perhaps cannot.
    for pattern in _DRAWN:
        for old in out.glob(pattern):
            old.unlink()
    if found.seen is not None and found.decoded is not None:
        given = result.rendered_elsewhere
        note = "" if given is None else f"rendered elsewhere: {given.sha256[:12]}"
        names = found.labels or found.names
        sheet = contact_sheet(found.seen, found.decoded, names, note)
        sheet.save(out / "contact.png")
    averaged = [row for row in result.encoding if row.trials == "averaged"]
    for row in averaged:
        (out / "rois.svg").write_text(roi_bars(row), encoding="utf-8")
    if found.labels is not None:
        drawn = selectivity_map(found, found.labels)
        (out / "selectivity.svg").write_text(drawn, encoding="utf-8")
    for name, (heading, panels, names) in voxel_panels(found).items():
        for theme in THEMES:
            drawn_map = draw_maps(found.mask, heading, panels, theme, names)
            drawn_map.save(out / f"{name}_{theme.name}.png")


def voxel_panels(found: Found) -> dict[str, tuple[str, list[Panel], list[str]]]:
    """Return what the maps of voxels show: heading, panels and names, by file."""
    r = correlations_across_images(found.predicted, found.measured)
    is_known = len(found.predicted) >= MIN_CORRELATED
    maps: dict[str, tuple[str, list[Panel], list[str]]] = {}
    if is_known:
        shown: list[Panel] = [FigurePanel("r", r)]
        if found.ceiling is not None:
            ratios = normalised_by_ceiling(r, found.ceiling)
            shown.append(FigurePanel("r / sqrt(NC), where NC is at least .05", ratios))
        maps["voxels_r"] = ("Correlation across images, voxel by voxel", shown, [])
    regions, place = smallest_region(found.rois)
    if regions:
        panels: list[Panel] = [CategoryPanel("region", place)]
        if is_known:
            means = [float(r[found.rois[name]].mean()) for name in regions]
            of_region = np.array([*means, np.nan])[place]
            panels.append(FigurePanel("r, mean over the region", of_region))
        maps["voxels_regions"] = (
            "Regions; of several that a voxel is in, the smallest",
            panels,
            regions,
        )
    if found.labels is not None:
        names, said = selectivity(found.predicted, found.labels)
        _, real = selectivity(found.measured, found.labels)
        a, b = _preferred(said), _preferred(real)
        known = (a >= 0) & (b >= 0)
        same = float((a == b)[known].mean()) if known.any() else 0.0
        chance = sum(
            float((a[known] == k).mean() * (b[known] == k).mean())
            for k in range(len(names))
            if known.any()
        )
        maps["voxels_category"] = (
            "Category with the highest mean response",
            [
                CategoryPanel("synthesised responses", a),
                CategoryPanel(
                    f"measured responses; {same:.0%} of voxels agree, "
                    f"{chance:.0%} would by chance",
                    b,
                ),
            ],
            names,
        )
    return maps


def _preferred(
    differences: Float64[np.ndarray, "categories voxels"],
) -> Int64[np.ndarray, " voxels"]:
    """Return each voxel's highest category; -1 where all are alike."""
    is_flat = np.ptp(differences, axis=0) < 1e-12
    return np.where(is_flat, -1, differences.argmax(axis=0)).astype(np.int64)


def best_median_worst(
    scores: Float64[np.ndarray, " images"], n_each: int
) -> dict[str, list[int]]:
    """Return the images with the highest, middle and lowest scores, each at most once.

    Args:
        scores: One an image.
        n_each: Of each kind; fewer where there are not three times as many images.
    """
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    n = min(n_each, max(len(order) // 3, 1))
    middle = max((len(order) - n) // 2, 0)
    groups = {
        "best": order[:n],
        "median": order[middle : middle + n],
        "worst": order[len(order) - n :],
    }
    taken: set[int] = set()
    for name, rows in groups.items():
        groups[name] = [row for row in rows if row not in taken]
        taken.update(rows)
    return groups


def contact_sheet(
    seen: Pictures, decoded: Pictures, names: Sequence[str], note: str = ""
) -> Image.Image:
    """Draw the best, median and worst reconstructions by PixCorr, what was seen above.

    All of them, chosen by the score alone: nothing is picked by eye. A note stands
    below the heading.
    """
    scores = pixel_correlations(seen, decoded)
    groups = best_median_worst(scores, COLUMNS)
    columns = max(len(rows) for rows in groups.values())
    cell_w, cell_h = SIDE + GAP, 2 * SIDE + 62
    width = 110 + columns * cell_w + GAP
    sheet = Image.new("RGB", (width, 60 + 3 * cell_h + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    head = f"Seen above, decoded below: {len(scores)} images by PixCorr"
    draw.text((GAP, 14), head, fill=INK, font=_font(22))
    draw.text((GAP, 41), note, fill=SOFT, font=_font(14))
    for number, (name, rows) in enumerate(groups.items()):
        top = 60 + number * cell_h
        draw.text((GAP, top + SIDE // 2 - 10), name, fill=INK, font=_font(20))
        draw.text((GAP, top + SIDE // 2 + 18), "seen", fill=SOFT, font=_font(15))
        draw.text((GAP, top + SIDE + SIDE // 2), "decoded", fill=SOFT, font=_font(15))
        for column, row in enumerate(rows):
            left = 110 + column * cell_w
            for image, y in ((seen[row], top), (decoded[row], top + SIDE + 4)):
                sheet.paste(_enlarged(image), (left, y))
            words = f"r {scores[row]:.2f}  {names[row]}"
            draw.text(
                (left, top + 2 * SIDE + 10), words[:19], fill=SOFT, font=_font(14)
            )
    return sheet


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _enlarged(image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    is_small = max(image.shape[:2]) <= SIDE
    how = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((SIDE, SIDE), how)


def roi_bars(encoding: EncodingFigures) -> str:
    """Draw each region's correlation across images, its interval and its ceiling."""
    rows = encoding.rois
    top, pitch, width = 44.0, 34.0, 720.0
    bottom = top + pitch * len(rows)
    known = [
        limit
        for roi in rows
        for figure in (roi.correlation, roi.ceiling)
        if isinstance(figure, Value)
        for limit in (figure.mean, figure.low, figure.high)
        if limit is not None
    ]
    low, high = 1.05 * min([0.0, *known]), 1.05 * max([0.1, *known])
    axis = Axis(low, high, 150.0, width - 190)
    body = [text(10, 24, "Correlation across images, mean of voxels", "strong")]
    for tick in axis.ticks:
        body.append(line(axis(tick), top - 6, axis(tick), bottom, "grid"))
        body.append(text(axis(tick), bottom + 18, tick_text(tick), "tick-text mid"))
    words = []
    for i, roi in enumerate(rows):
        y = top + pitch * (i + 0.5)
        body.append(text(142, y + 4, f"{roi.roi} ({roi.voxels})", "end"))
        said = "absent"
        if isinstance(roi.correlation, Value):
            value = roi.correlation
            left, right = sorted((axis(0.0), axis(value.mean)))
            body.append(rect(left, y - 9, right - left, 18, "bar"))
            if value.low is not None and value.high is not None:
                body.append(line(axis(value.low), y, axis(value.high), y, "interval"))
            said = f"{value.mean:.2f}"
        if isinstance(roi.ceiling, Value):
            x = axis(roi.ceiling.mean)
            body.append(line(x, y - 12, x, y + 12, "ceiling"))
            said += f" of {roi.ceiling.mean:.2f}"
        body.append(text(width - 180, y + 4, said, "tick-text"))
        words.append(f"{roi.roi} {said}")
    body.append(line(axis(0.0), top - 6, axis(0.0), bottom, "axis"))
    note = "bar: r; thin line: 95 % over images; red: noise ceiling sqrt(NC)"
    body.append(text(150, bottom + 40, note, "tick-text"))
    return standalone(width, bottom + 54, body, "; ".join(words), STYLE)


def selectivity(
    responses: Responses, labels: Sequence[str]
) -> tuple[list[str], Float64[np.ndarray, "categories voxels"]]:
    """Return each category's mean response minus the mean over all images, a voxel.

    Args:
        responses: One row an image.
        labels: Its category.

    Returns:
        Categories in order, and the differences in the units of `responses`.
    """
    categories = sorted(set(labels))
    of_image = np.array(labels)
    wide = responses.astype(np.float64)
    means = [wide[of_image == name].mean(axis=0) for name in categories]
    return categories, np.stack(means) - wide.mean(axis=0)


def selectivity_map(found: Found, labels: Sequence[str]) -> str:
    """Draw categories by regions, synthesised responses beside measured ones."""
    regions = list(found.rois)
    categories, said = selectivity(found.predicted, labels)
    _, real = selectivity(found.measured, labels)
    maps = [
        np.stack([rows[:, found.rois[name]].mean(axis=1) for name in regions])
        for rows in (said, real)
    ]
    cell, left, top = 46.0, 130.0, 120.0
    panel = cell * len(categories)
    width = left + 2 * panel + 60 + GAP
    height = top + cell * len(regions) + 44
    body = [
        text(
            10, 24, "Mean response of a category minus the mean of all images", "strong"
        )
    ]
    words = []
    for number, (title, values) in enumerate(
        zip(("synthesised", "measured"), maps, strict=True)
    ):
        # Each panel has its own scale: a shrunk prediction keeps its pattern visible.
        largest = float(np.abs(values).max()) or 1.0
        x_0 = left + number * (panel + 60)
        body.append(text(x_0, 48, f"{title}, colours to {largest:.2f} sd", "tick-text"))
        for j, name in enumerate(categories):
            x = x_0 + cell * (j + 0.5)
            body.append(
                f'<g transform="translate({x:.0f} {top - 8:.0f}) rotate(-50)">'
                f"{text(0, 0, name[:12], 'tick-text')}</g>"
            )
        for i, name in enumerate(regions):
            y = top + cell * i
            if not number:
                body.append(text(left - 8, y + cell / 2 + 4, name, "end"))
            for j in range(len(categories)):
                value = float(values[i, j])
                body.append(_tile(x_0 + cell * j, y, cell, value, largest))
        words.append(f"{title}: largest difference {largest:.2f}")
    body.append(
        text(
            left,
            height - 14,
            "standard deviations of training betas; red above, blue below",
            "tick-text",
        )
    )
    return standalone(width, height, body, "; ".join(words), STYLE)


def _tile(x: float, y: float, cell: float, value: float, largest: float) -> str:
    share = abs(value) / largest
    full = (168, 50, 26) if value > 0 else (28, 93, 153)
    colour = "#" + "".join(f"{round(255 + share * (c - 255)):02x}" for c in full)
    ink = "#ffffff" if share > 0.6 else INK
    shown = f"{round(value, 2) + 0.0:.2f}"  # no minus sign on a zero
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 2:.1f}" '
        f'height="{cell - 2:.1f}" fill="{colour}"/>'
        f'<text x="{x + cell / 2 - 1:.1f}" y="{y + cell / 2 + 4:.1f}" '
        f'text-anchor="middle" style="fill:{ink};font-size:11px">{shown}</text>'
    )
