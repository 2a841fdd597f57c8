"""Maps of voxels: slices of the mask, coloured by a figure, a region or a category.

Drawn for paper and for dark screens. Slices lie along the third axis of the volume; the
first axis goes to the right, the second upwards. Which side of the head that is depends
on the volume's affine.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
PerVoxel = Float64[np.ndarray, " voxels"]
Places = Int64[np.ndarray, " voxels"]

MOST_SLICES: Final = 20
COLUMNS: Final = 5
PANEL: Final = 740
"""Pixels that a panel's slices are fitted into, side by side."""
MARGIN: Final = 24
_LINE: Final = 24


class Theme(NamedTuple):
    """What a picture is drawn with."""

    name: str
    paper: Colour
    ink: Colour
    soft: Colour
    zero: Colour
    """Of a figure that is 0."""
    none: Colour
    """Of voxels that have no figure."""
    above: Colour
    below: Colour
    value: float
    """Brightness of the colours of categories."""


THEMES: Final = (
    Theme(
        "light",
        paper=(255, 255, 255),
        ink=(23, 26, 32),
        soft=(83, 91, 105),
        zero=(226, 229, 235),
        none=(196, 188, 170),
        above=(168, 50, 26),
        below=(28, 93, 153),
        value=0.80,
    ),
    Theme(
        "dark",
        paper=(20, 23, 28),
        ink=(236, 239, 244),
        soft=(160, 168, 182),
        zero=(62, 68, 79),
        none=(96, 88, 70),
        above=(255, 128, 92),
        below=(96, 176, 245),
        value=0.95,
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class FigurePanel:
    """Voxels coloured by a figure: red above 0, blue below."""

    title: str
    values: PerVoxel
    """Not a number where a voxel has none."""


@dataclass(frozen=True, slots=True, eq=False)
class CategoryPanel:
    """Voxels coloured by which of some names each has."""

    title: str
    places: Places
    """Position of the name; -1 where a voxel has none."""


Panel = FigurePanel | CategoryPanel


def draw_maps(
    mask: Bool[np.ndarray, "x y z"],
    heading: str,
    panels: Sequence[Panel],
    theme: Theme,
    names: Sequence[str] = (),
) -> Image.Image:
    """Draw panels side by side, each with the same slices.

    Args:
        mask: Which voxels; values are in its order.
        heading: Above all panels.
        panels: What to draw.
        theme: Colours.
        names: What the places of a `CategoryPanel` are, for the legend below.
    """
    cut = _Cut.of(mask)
    rows = -(-len(cut.slices) // COLUMNS)
    columns = min(COLUMNS, len(cut.slices))
    step_x, step_y = cut.width * cut.zoom + 8, cut.height * cut.zoom + 22
    wide = max(columns * step_x, 330)
    tall = rows * step_y
    legend = _legend_rows(names, MARGIN + len(panels) * (wide + MARGIN))
    bottom = 84 + tall
    below = 54 if any(isinstance(panel, FigurePanel) for panel in panels) else 8
    height = bottom + below + _LINE * len(legend) + 2 * MARGIN
    width = MARGIN + len(panels) * (wide + MARGIN)
    sheet = Image.new("RGB", (width, height), theme.paper)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 16), heading, fill=theme.ink, font=_font(20))
    for number, panel in enumerate(panels):
        left = MARGIN + number * (wide + MARGIN)
        draw.text((left, 52), panel.title, fill=theme.ink, font=_font(15))
        colours, largest = _colours(panel, theme, len(names))
        volume = np.full((*mask.shape, 3), theme.paper, dtype=np.uint8)
        volume[mask] = colours
        for place, z in enumerate(cut.slices):
            row, column = divmod(place, columns)
            x, y = left + column * step_x, 80 + row * step_y
            sheet.paste(cut.picture(volume, z), (x, y))
            y += cut.height * cut.zoom + 2
            draw.text((x, y), f"{z}", fill=theme.soft, font=_font(12))
        if isinstance(panel, FigurePanel):
            _scale(draw, left, bottom + 8, largest, theme)
    for line, some in enumerate(legend):
        for x, position in some:
            y = bottom + below + _LINE * line
            colour = theme.none
            if position >= 0:
                colour = category_colour(position, len(names), theme)
            draw.rectangle((x, y + 2, x + 14, y + 16), fill=colour)
            said = names[position] if position >= 0 else "none"
            draw.text((x + 20, y), said, fill=theme.ink, font=_font(14))
    said = f"{len(cut.slices)} of {cut.filled} slices along the third axis, numbered"
    draw.text((MARGIN, height - MARGIN - 10), said, fill=theme.soft, font=_font(13))
    return sheet


def category_colour(position: int, count: int, theme: Theme) -> Colour:
    """Return a name's colour: neighbours differ in hue and brightness."""
    hue = (0.02 + position / max(count, 1)) % 1.0
    value = theme.value * (1.0 if position % 2 == 0 else 0.72)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.72 if position % 2 else 0.62, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def smallest_region(
    rois: Mapping[str, Bool[np.ndarray, " voxels"]],
) -> tuple[list[str], Places]:
    """Return the regions and, for each voxel, the smallest of them that it is in.

    The first of `rois`, all voxels, is no region. -1: the voxel is in none.
    """
    names = list(rois)[1:]
    voxels = len(next(iter(rois.values())))
    places = np.full(voxels, -1, dtype=np.int64)
    for name in sorted(names, key=lambda one: -int(rois[one].sum())):
        places[rois[name]] = names.index(name)
    return names, places


@dataclass(frozen=True, slots=True)
class _Cut:
    """Which slices are drawn, and which part of each."""

    slices: tuple[int, ...]
    filled: int
    corner: tuple[int, int]
    width: int
    height: int
    zoom: int

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "x y z"]) -> "_Cut":
        x, y, z = (
            np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))
        )
        count = min(len(z), MOST_SLICES)
        chosen = z[np.round(np.linspace(0, len(z) - 1, count)).astype(int)]
        width = int(x[-1] - x[0]) + 1
        zoom = (PANEL // min(COLUMNS, count) - 8) // width
        return cls(
            tuple(int(one) for one in chosen),
            len(z),
            (int(x[0]), int(y[0])),
            width,
            int(y[-1] - y[0]) + 1,
            min(max(zoom, 1), 12),
        )

    def picture(self, volume: UInt8[np.ndarray, "x y z 3"], z: int) -> Image.Image:
        """Return a slice, its first axis to the right and its second upwards."""
        x, y = self.corner
        part = volume[x : x + self.width, y : y + self.height, z]
        upright = part.transpose(1, 0, 2)[::-1]
        size = (self.width * self.zoom, self.height * self.zoom)
        drawn = Image.fromarray(np.ascontiguousarray(upright))
        return drawn.resize(size, Image.Resampling.NEAREST)


def _colours(
    panel: Panel, theme: Theme, count: int
) -> tuple[UInt8[np.ndarray, "voxels 3"], float]:
    """Return each voxel's colour, and the figure of the fullest."""
    if isinstance(panel, CategoryPanel):
        table = [category_colour(i, count, theme) for i in range(count)]
        table.append(theme.none)  # which -1 takes
        return np.array(table, dtype=np.uint8)[panel.places], 1.0
    known = np.isfinite(panel.values)
    largest = float(np.abs(panel.values[known]).max()) if known.any() else 1.0
    largest = largest or 1.0
    share = np.where(known, panel.values, 0.0)[:, None] / largest
    zero = np.array(theme.zero, dtype=np.float64)
    full = np.where(share > 0, np.array(theme.above), np.array(theme.below))
    mixed = zero + np.abs(share) * (full - zero)
    return np.where(known[:, None], mixed, np.array(theme.none)).astype(
        np.uint8
    ), largest


def _scale(
    draw: ImageDraw.ImageDraw, left: int, top: int, largest: float, theme: Theme
) -> None:
    """Draw what the colours of figures mean."""
    steps = 161
    values = np.linspace(-largest, largest, steps)
    colours, _ = _colours(FigurePanel("", values), theme, 0)
    for k, colour in enumerate(colours.tolist()):
        draw.line((left + k, top, left + k, top + 14), fill=tuple(colour))
    for x, value in ((0, -largest), (80, 0.0), (160, largest)):
        text = f"{value + 0.0:.2f}"
        draw.text((left + x - 12 * (x > 0), top + 18), text, theme.soft, _font(12))
    draw.rectangle((left + 200, top, left + 214, top + 14), fill=theme.none)
    draw.text((left + 220, top - 2), "no figure", theme.soft, _font(13))


def _legend_rows(names: Sequence[str], width: int) -> list[list[tuple[int, int]]]:
    """Lay names out in lines: where each begins, and its position; -1 is none."""
    if not names:
        return []
    rows: list[list[tuple[int, int]]] = [[]]
    x = MARGIN
    for position in [*range(len(names)), -1]:
        text = names[position] if position >= 0 else "none"
        needed = 20 + int(_font(14).getlength(text)) + 22
        if rows[-1] and x + needed > width - MARGIN:
            rows.append([])
            x = MARGIN
        rows[-1].append((x, position))
        x += needed
    return rows


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
