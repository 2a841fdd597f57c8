"""Stimuli: small pictures of shapes and glyphs, and the factors that made them.

A picture is a pure function of (seed, index). It knows nothing of any brain or of
any visual backbone.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from training.participant.parameters import ParticipantParameters

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]
BACKGROUND_TILES = 4


@dataclass(frozen=True, slots=True)
class ImageFactors:
    """What a picture shows; lengths in half image widths, angles in turns."""

    category: int
    x: float
    y: float
    size: float
    hue: float
    value: float
    angle: float
    background_hues: tuple[float, ...]
    background_values: tuple[float, ...]

    def vector(self) -> Float64[np.ndarray, " factors"]:
        """Return the continuous factors near [-1, 1], circular ones as two."""
        turn = 2 * math.pi
        tiles = turn * np.array(self.background_hues)
        return np.array(
            [
                self.x / 0.4,
                self.y / 0.4,
                (self.size - 0.45) / 0.2,
                math.cos(turn * self.hue),
                math.sin(turn * self.hue),
                (self.value - 0.75) / 0.25,
                float(np.cos(tiles).mean()),
                float(np.sin(tiles).mean()),
                (float(np.mean(self.background_values)) - 0.35) / 0.25,
            ]
        )


@dataclass(frozen=True, slots=True)
class _Brush:
    """A stencil with the shape's own coordinates: unit circle, turned and moved."""

    draw: ImageDraw.ImageDraw
    centre: tuple[float, float]
    radius_px: float
    angle: float

    def place(self, points: Points) -> Points:
        c, s = math.cos(self.angle), math.sin(self.angle)
        x0, y0, r = *self.centre, self.radius_px
        return [(x0 + r * (c * x - s * y), y0 + r * (s * x + c * y)) for x, y in points]

    def polygon(self, points: Points, *, hole: bool = False) -> None:
        self.draw.polygon(self.place(points), fill=0 if hole else 255)

    def disc(self, x: float, y: float, r: float, *, hole: bool = False) -> None:
        self.polygon(
            [(x + r * math.cos(a), y + r * math.sin(a)) for a in _TURN], hole=hole
        )

    def box(
        self, x: float, y: float, w: float, h: float, *, hole: bool = False
    ) -> None:
        self.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], hole=hole)


_TURN = [2 * math.pi * k / 40 for k in range(40)]


def _disc(b: _Brush) -> None:
    b.disc(0, 0, 0.9)


def _ring(b: _Brush) -> None:
    b.disc(0, 0, 1)
    b.disc(0, 0, 0.55, hole=True)


def _square(b: _Brush) -> None:
    b.box(-0.8, -0.8, 1.6, 1.6)


def _triangle(b: _Brush) -> None:
    b.polygon([(0, -1), (0.9, 0.75), (-0.9, 0.75)])


def _star(b: _Brush) -> None:
    radii = [1.05 if k % 2 == 0 else 0.42 for k in range(10)]
    b.polygon(
        [
            (r * math.sin(math.pi * k / 5), -r * math.cos(math.pi * k / 5))
            for k, r in enumerate(radii)
        ]
    )


def _cross(b: _Brush) -> None:
    b.box(-1, -0.3, 2, 0.6)
    b.box(-0.3, -1, 0.6, 2)


def _crescent(b: _Brush) -> None:
    b.disc(0, 0, 1)
    b.disc(0.45, 0, 0.75, hole=True)


def _bars(b: _Brush) -> None:
    for k in range(3):
        b.box(-1, -0.95 + 0.75 * k, 2, 0.4)


def _arrow(b: _Brush) -> None:
    b.box(-1, -0.2, 1.1, 0.4)
    b.polygon([(0.05, -0.75), (1.05, 0), (0.05, 0.75)])


def _face(b: _Brush) -> None:
    b.disc(0, 0, 1)
    for x in (-0.4, 0.4):
        b.disc(x, -0.3, 0.2, hole=True)
    b.box(-0.45, 0.35, 0.9, 0.22, hole=True)


def _house(b: _Brush) -> None:
    b.polygon([(-1, -0.15), (0, -1), (1, -0.15)])
    b.box(-0.75, -0.15, 1.5, 1.1)
    b.box(-0.2, 0.35, 0.4, 0.6, hole=True)


def _glyph_h(b: _Brush) -> None:
    b.box(-0.85, -1, 0.45, 2)
    b.box(0.4, -1, 0.45, 2)
    b.box(-0.5, -0.2, 1, 0.4)


SHAPES: dict[str, Callable[[_Brush], None]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "bars": _bars,
    "arrow": _arrow,
    "face": _face,
    "house": _house,
    "glyph_h": _glyph_h,
}
CATEGORIES = tuple(SHAPES)


def factors_from_index(seed: int, index: int) -> ImageFactors:
    """Draw the factors of image `index` of the stimulus set `seed`.

    Categories take turns, so every block of twelve indices holds each once.
    """
    rng = np.random.default_rng([seed, index, 0x1A6E])
    return ImageFactors(
        category=index % len(CATEGORIES),
        x=float(rng.uniform(-0.4, 0.4)),
        y=float(rng.uniform(-0.4, 0.4)),
        size=float(rng.uniform(0.28, 0.62)),
        hue=float(rng.uniform()),
        value=float(rng.uniform(0.55, 1.0)),
        angle=float(rng.uniform(-0.06, 0.06)),
        background_hues=tuple(float(h) for h in rng.uniform(size=BACKGROUND_TILES)),
        background_values=tuple(
            float(v) for v in rng.uniform(0.1, 0.6, size=BACKGROUND_TILES)
        ),
    )


def render(
    factors: ImageFactors, parameters: ParticipantParameters
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draw a picture, supersampled and averaged down; RGB, row 0 at the top."""
    size_px = parameters.image_size_px * parameters.supersampling
    ink = _colour(factors.hue, 0.8, factors.value)
    canvas = _background(factors, size_px)
    stencil = Image.new("L", canvas.size, 0)
    half = size_px / 2
    brush = _Brush(
        draw=ImageDraw.Draw(stencil),
        centre=(half * (1 + factors.x), half * (1 + factors.y)),
        radius_px=half * factors.size,
        angle=2 * math.pi * factors.angle,
    )
    SHAPES[CATEGORIES[factors.category]](brush)
    canvas.paste(ink, (0, 0), stencil)
    return np.asarray(canvas.reduce(parameters.supersampling), dtype=np.uint8)


def _background(factors: ImageFactors, size_px: int) -> Image.Image:
    """Blend the tiles' colours into one another, as large surfaces in a scene do."""
    side = math.isqrt(BACKGROUND_TILES)
    tiles = zip(factors.background_hues, factors.background_values, strict=True)
    colours = [_colour(hue, 0.7, value) for hue, value in tiles]
    small = np.array(colours, dtype=np.uint8).reshape(side, side, 3)
    return Image.fromarray(small).resize((size_px, size_px), Image.Resampling.BILINEAR)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)
