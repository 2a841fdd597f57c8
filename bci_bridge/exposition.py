"""The text format of Prometheus (version 0.0.4): names and values to lines. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from bci_bridge.histogram import BUCKETS_S, Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "neuroflow_"

Labels = Mapping[str, str]
Sample = tuple[Labels, int | float]


def single(
    kind: Literal["counter", "gauge"], name: str, text: str, value: int | float
) -> list[str]:
    """Write a figure that stands alone."""
    return family(kind, name, text, [({}, value)])


def family(
    kind: Literal["counter", "gauge"],
    name: str,
    text: str,
    samples: Iterable[Sample],
) -> list[str]:
    """Write figures of one name that differ in their labels; there may be none."""
    return [
        *_head(kind, name, text),
        *(f"{PREFIX}{name}{_labelled(labels)} {_number(v)}" for labels, v in samples),
    ]


def histograms(
    name: str, text: str, label: str, by_value: Mapping[str, Histogram]
) -> list[str]:
    """Write histograms of one name that differ in one label."""
    lines = _head("histogram", name, text)
    for value, found in by_value.items():
        so_far = 0
        ends = [*map(_number, BUCKETS_S), "+Inf"]
        for end, count in zip(ends, found.counts, strict=True):
            so_far += count
            labels = _labelled({label: value, "le": end})
            lines.append(f"{PREFIX}{name}_bucket{labels} {so_far}")
        labels = _labelled({label: value})
        lines.append(f"{PREFIX}{name}_sum{labels} {_number(found.sum_ns / 1e9)}")
        lines.append(f"{PREFIX}{name}_count{labels} {so_far}")
    return lines


def _head(kind: str, name: str, text: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"]


def _labelled(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: int | float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
