"""Numbers and foreign text made safe and readable; the only door into the page."""

import base64
import html
import io
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping

from PIL import Image

from verbs.report.data import Picture

NOT_APPLICABLE = "not applicable"
TOO_FEW = "n too small"
SPACE = "\u00a0"
"""No-break space between a number and its unit."""


def clean(text: object) -> str:
    """Replace control characters and lone surrogates, which no file should hold."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c
        for c in str(text)
    )


def escape(text: object) -> str:
    """Make any text harmless inside an element or a quoted attribute."""
    return html.escape(clean(text), quote=True)


def percent(share: float | None) -> str:
    """Write a share as a percentage with one decimal."""
    return _finite(share) or f"{100 * (share or 0.0):.1f}{SPACE}%"


def count(value: float | None) -> str:
    """Write a whole number with thousands separated."""
    return _finite(value) or f"{value:,.0f}"


def decimal(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed count of decimals and a true minus sign."""
    return _finite(value) or f"{value:.{digits}f}".replace("-", "\u2212")


def milliseconds(value: float | None) -> str:
    """Write a duration with three digits that matter."""
    return _finite(value) or f"{bare_ms(value or 0.0)}{SPACE}ms"


def bare_ms(value: float) -> str:
    """Write milliseconds without the unit, for axes and pairs of numbers."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def seconds(value: float | None) -> str:
    """Write a duration in seconds with one decimal, the step of a fast TR."""
    return _finite(value) or f"{value:,.1f}{SPACE}s"


def _finite(value: float | None) -> str:
    if value is None:
        return NOT_APPLICABLE
    return "" if math.isfinite(value) else "not a finite number"


def raw(value: object) -> str:
    """Write a value of the summary as it is, with nothing rounded."""
    if value is None:
        return NOT_APPLICABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def flat(
    values: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, object]]:
    """Yield each leaf of nested mappings with its dotted key, in the given order."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def another(label: str, *, is_other: bool) -> str:
    """Name a stimulus that is not the one seen but has its label."""
    return f"other {label}" if is_other else label


def data_uri(image: Picture) -> str:
    """Return the picture itself as an address: a PNG in base 64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
