"""Figures as Markdown tables in the papers' layout, ours above the published rows."""

from collections.abc import Sequence

from training.metrics.published import PublishedImages
from training.metrics.published_tables import head, plain
from training.metrics.result import (
    Absent,
    EncodingFigures,
    Figure,
    ImageFigures,
    RetrievalFigures,
    SpreadFigures,
)

Reasons = dict[str, list[str]]
"""Why something is absent, and what is, filled while tables are written."""

CELL_ABSENT = "absent"
IMAGE_COLUMNS = (
    ("pixcorr", "PixCorr", 1),
    ("ssim", "SSIM", 1),
    ("alex2", "Alex(2) %", 100),
    ("alex5", "Alex(5) %", 100),
    ("inception", "Incep %", 100),
    ("clip", "CLIP %", 100),
    ("efficientnet", "Eff (low is good)", 1),
    ("swav", "SwAV (low is good)", 1),
)


def cell(figure: Figure, factor: int, absent: Reasons, name: str) -> str:
    """Write a figure with its interval, or that it is absent."""
    if isinstance(figure, Absent):
        absent.setdefault(figure.reason, []).append(name)
        return CELL_ABSENT
    digits = 1 if factor == 100 else 3
    text = f"{factor * figure.mean:.{digits}f}"
    if figure.low is None or figure.high is None:
        return text
    return (
        f"{text} [{factor * figure.low:.{digits}f}, {factor * figure.high:.{digits}f}]"
    )


def image_table(
    rows: Sequence[ImageFigures],
    published: Sequence[PublishedImages],
    absent: Reasons,
) -> list[str]:
    """Write the eight image metrics, ours and the published ones."""
    lines = head(["method", *(title for _, title, _ in IMAGE_COLUMNS), "read in"])
    for row in rows:
        cells = [
            cell(getattr(row, name), factor, absent, title)
            for name, title, factor in IMAGE_COLUMNS
        ]
        label = f"ours, {row.trials} trials, {row.source}, {row.decoder} decoder"
        if row.rendered == "elsewhere":
            label += ", rendered elsewhere"
        lines.append(f"| **{label}** | " + " | ".join(cells) + " | here |")
    for known in published:
        cells = [
            plain(getattr(known, name), 1 if factor == 100 else 3)
            for name, _, factor in IMAGE_COLUMNS
        ]
        lines.append(
            f"| {known.method} | " + " | ".join(cells) + f" | {known.mark}: "
            f"{known.source}, {known.who} |"
        )
    return lines


def retrieval_table(rows: Sequence[RetrievalFigures], absent: Reasons) -> list[str]:
    """Write top-1 in both directions, resampled and as published."""
    lines = head(
        [
            "brain side",
            "training mean subtracted",
            "candidates",
            "forward %",
            "backward %",
            "forward %, published protocol",
            "backward %, published protocol",
        ]
    )
    for row in rows:
        cells = [
            cell(row.forward, 100, absent, "retrieval"),
            cell(row.backward, 100, absent, "retrieval"),
            cell(row.published_forward, 100, absent, "published retrieval protocol"),
            cell(row.published_backward, 100, absent, "published retrieval protocol"),
        ]
        lines.append(
            f"| {row.source}, {row.trials} trials, {row.decoder} | "
            f"{'yes' if row.is_mean_subtracted else 'no'} | {row.candidates} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def encoding_table(rows: Sequence[EncodingFigures], absent: Reasons) -> list[str]:
    """Write what holds predicted responses against measured ones, across voxels."""
    lines = head(
        [
            "measured",
            "MSE, training sd squared",
            "r across voxels",
            "cosine",
            "r across voxels, means left in",
        ]
    )
    for row in rows:
        cells = [
            cell(row.mse, 1, absent, "MSE"),
            cell(row.pearson, 1, absent, "r"),
            cell(row.cosine, 1, absent, "cosine"),
            cell(row.pearson_percent, 1, absent, "r"),
        ]
        lines.append(f"| {row.trials} trials | " + " | ".join(cells) + " |")
    return lines


def spread_table(
    rows: Sequence[SpreadFigures], absent: Reasons, sampled: str
) -> list[str]:
    """Write how far single trials may lie and do, and whose residuals said so."""
    lines = head(
        [
            "sampled",
            "coverage of 95 %",
            "predicted / repeat variance",
            "predicted variance / squared error",
        ]
    )
    for row in rows:
        cells = [
            cell(row.coverage, 100, absent, "coverage"),
            cell(row.repeat_ratio, 1, absent, "variance ratio"),
            cell(row.error_ratio, 1, absent, "error ratio"),
        ]
        lines.append(f"| {row.source} | " + " | ".join(cells) + " |")
    return [*lines, "", f"Sampled: {sampled}."] if sampled else lines


def roi_tables(rows: Sequence[EncodingFigures], absent: Reasons) -> list[str]:
    """Write the correlation across images of each region, beside its ceiling."""
    lines = []
    for row in rows:
        lines += [f"Voxel by voxel across images, {row.trials} trials:", ""]
        lines += head(
            ["region", "voxels", "r", "sqrt(NC)", "r / sqrt(NC)", "explained variance"]
        )
        for roi in row.rois:
            cells = [
                cell(roi.correlation, 1, absent, f"r of {roi.roi}"),
                cell(roi.ceiling, 1, absent, f"ceiling of {roi.roi}"),
                cell(roi.normalised, 1, absent, f"r / sqrt(NC) of {roi.roi}"),
                cell(roi.explained_variance, 1, absent, f"variance of {roi.roi}"),
            ]
            lines.append(f"| {roi.roi} | {roi.voxels} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines
