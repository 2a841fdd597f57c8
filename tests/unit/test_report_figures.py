"""The report's arithmetic, axes, numbers and colours keep the rules they claim."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verbs.report.figures import percentile, wilson_interval
from verbs.report.svg import Axis, log_limits
from verbs.report.text import bare_ms, decimal, percent

STYLE = Path(__file__).parents[2] / "verbs" / "report" / "style.css"


@pytest.mark.parametrize(
    ("p", "n"), [(0.5, 20), (0.9, 100), (0.99, 1000), (0.999, 10000)]
)
def test_a_percentile_needs_ten_values_beyond_it(p: float, n: int) -> None:
    values = [float(i) for i in range(n)]

    assert percentile(values[:-1], p) is None
    assert percentile(values, p) == pytest.approx(np.quantile(values, p))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_the_interval_holds_its_share_and_stays_in_zero_to_one(
    n: int, share: float
) -> None:
    k = round(share * n)
    low, high = wilson_interval(k, n)

    assert 0.0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1.0


def test_the_interval_is_wilsons() -> None:
    # 8 of 10 solved by hand: (p - s)^2 = z^2 p (1 - p) / n, both roots.
    z2 = 1.959963984540054**2
    roots = np.sort(np.roots([1 + z2 / 10, -(2 * 0.8 + z2 / 10), 0.64]))

    assert wilson_interval(8, 10) == pytest.approx(tuple(roots))


@pytest.mark.parametrize("low_high", [(0.0, 1.0), (3.2, 41.0), (300.0, 312.0)])
def test_linear_ticks_are_inside_and_few(low_high: tuple[float, float]) -> None:
    ticks = Axis(*low_high, 0.0, 100.0).ticks

    assert 3 <= len(ticks) <= 7
    assert all(low_high[0] <= tick <= low_high[1] for tick in ticks)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=5))
def test_logarithmic_limits_hold_all_values(values: list[float]) -> None:
    low, high = log_limits(values)
    axis = Axis(low, high, 0.0, 100.0, is_log=True)

    assert low <= min(values) <= max(values) <= high
    assert low < high
    assert axis.ticks
    assert all(-1e-6 <= axis(v) <= 100 + 1e-6 for v in values)


def test_numbers_read_alike_everywhere() -> None:
    assert percent(0.8125) == "81.2\u00a0%"
    assert percent(None) == "not applicable"
    assert [bare_ms(v) for v in (4.312, 43.12, 1431.2)] == ["4.31", "43.1", "1,431"]
    assert decimal(-0.256) == "\u22120.26"


def _themes() -> dict[str, dict[str, str]]:
    """Read the colours of the style sheet: light, dark and print, in this order."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text("utf-8"), re.DOTALL)
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_every_text_colour_has_a_contrast_of_four_and_a_half(theme: str) -> None:
    colours = _themes()[theme]
    tinted = "#" + "".join(
        f"{(int(colours['own'][i : i + 2], 16) + int(colours['surface'][i : i + 2], 16)) // 2:02x}"  # noqa: E501
        for i in (1, 3, 5)
    )

    for text in ("ink", "soft", "own", "right", "wrong"):
        for ground in ("paper", "surface"):
            assert _contrast(colours[text], colours[ground]) >= 4.5
    assert _contrast(colours["ink"], tinted) >= 4.5
