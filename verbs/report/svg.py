"""The few SVG pieces that every chart is made of: axes, ticks, text and lines."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from verbs.report.text import escape


@dataclass(frozen=True, slots=True)
class Axis:
    """A map from data to pixels along one direction, linear or logarithmic."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`, kept inside the axis."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values inside the axis, four to eight of them where possible."""
        if self.is_log:
            return self._log_ticks()
        rough = (self.high - self.low) / 5 or 1.0
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(k * unit for k in (1, 2, 2.5, 5, 10) if k * unit >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(
            math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
        )
        for within in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
            ticks = [
                round(k * 10.0**d, 10)
                for d in decades
                for k in within
                if self.low * 0.999 <= k * 10.0**d <= self.high * 1.001
            ]
            if len(ticks) <= 8:
                return ticks
        return ticks


def log_limits(values: Iterable[float]) -> tuple[float, float]:
    """Widen the range of positive values to the next 1, 2 or 5 times a power of ten."""
    steps = [k * 10.0**d for d in range(-6, 9) for k in (1, 2, 5)]
    known = list(values)
    low = max((s for s in steps if s <= min(known)), default=steps[0])
    high = min((s for s in steps if s >= max(known)), default=steps[-1])
    return (low, high) if high > low else (low / 2, high * 2)


def tick_text(value: float) -> str:
    """Write a tick with no more digits than it has."""
    return f"{value:,.10f}".rstrip("0").rstrip(".").replace("-", "\u2212")


def line(x_1: float, y_1: float, x_2: float, y_2: float, kind: str) -> str:
    """Draw a straight line; `kind` is its class in the style sheet."""
    return (
        f'<line class="{kind}" x1="{x_1:.1f}" y1="{y_1:.1f}" '
        f'x2="{x_2:.1f}" y2="{y_2:.1f}"/>'
    )


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Draw a rectangle; negative sizes count as nothing."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"/>'
    )


def text(x: float, y: float, content: object, kind: str = "tick-text") -> str:
    """Write text whose base line is at `y`; the class gives anchor and size."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def dots(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Draw many dots as one path, which is a tenth of the size of circles."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path class="dots {kind}" d="{path}"/>' if path else ""


def drawing(
    width: float, height: float, body: Iterable[str], words: str, kind: str = ""
) -> str:
    """Wrap a body as a chart; `words` says in a sentence what a reader would see."""
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(words)}">{"".join(body)}</svg>'
    )


def standalone(
    width: float, height: float, body: Iterable[str], words: str, style: str
) -> str:
    """Wrap a drawing as a file of its own, on paper of its own.

    Args:
        width: In pixels.
        height: In pixels.
        body: The parts of the drawing.
        words: What a reader would see, in a sentence.
        style: The style sheet; its class ``paper`` is what everything stands on, so
            that the drawing is legible on a light page and on a dark one.
    """
    inner = [f"<style>{style}</style>", rect(0, 0, width, height, "paper"), *body]
    svg = drawing(width, height, inner, words)
    size = f'width="{width:.0f}" height="{height:.0f}"'
    return svg.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" {size} ', 1)
