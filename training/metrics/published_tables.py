"""The published rows as Markdown, in the layout that ours stand in."""

from collections.abc import Sequence

from training.metrics.published import (
    PublishedAblation,
    PublishedEncoding,
    PublishedImages,
)


def plain(value: float | None, digits: int) -> str:
    """Write a published number with all the digits that it was printed with."""
    if value is None:
        return ""
    text = f"{value:.4f}".rstrip("0")
    return f"{value:.{digits}f}" if len(text.partition(".")[2]) < digits else text


def head(columns: Sequence[str]) -> list[str]:
    """Write a table's head."""
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def retrieval_table(
    decoding: Sequence[PublishedImages], encoding: Sequence[PublishedEncoding]
) -> list[str]:
    """Write who retrieves how well."""
    lines = head(
        [
            "published, 300 candidates",
            "forward %",
            "backward %",
            "self-consistency %",
            "read in",
        ]
    )
    lines += [
        f"| {row.method} | {plain(row.retrieval_forward, 1)} | "
        f"{plain(row.retrieval_backward, 1)} | | {row.mark}: {row.source} |"
        for row in decoding
        if row.retrieval_forward is not None
    ]
    lines += [
        f"| {row.method} | {plain(row.raw, 1)} | | {plain(row.synthetic, 1)} | "
        f"{row.mark}: {row.source} |"
        for row in encoding
        if row.synthetic is not None
    ]
    return lines


def encoding_table(rows: Sequence[PublishedEncoding]) -> list[str]:
    """Write who predicts responses how well."""
    lines = head(
        [
            "published",
            "MSE",
            "r across voxels",
            "cosine",
            "Incep %",
            "CLIP %",
            "Eff",
            "SwAV",
            "decoder",
            "read in",
        ]
    )
    for row in rows:
        cells = [
            *(plain(value, 3) for value in (row.mse, row.pearson, row.cosine)),
            *(plain(value, 1) for value in (row.inception, row.clip)),
            *(plain(value, 3) for value in (row.efficientnet, row.swav)),
        ]
        lines.append(
            f"| {row.method} | " + " | ".join(cells) + f" | {row.decoder} | "
            f"{row.mark}: {row.source} |"
        )
    return lines


def ablation_table(rows: Sequence[PublishedAblation]) -> list[str]:
    """Write what each part of NeuroFlow is worth."""
    lines = head(
        [
            "NeuroFlow without",
            "decoding CLIP %",
            "encoding CLIP %",
            "raw %",
            "self-consistency %",
            "read in",
        ]
    )
    lines += [
        f"| {row.without} | {row.decoding_clip:.1f} | {row.encoding_clip:.1f} | "
        f"{row.raw:.1f} | {row.synthetic:.1f} | {row.mark}: {row.source} |"
        for row in rows
    ]
    return lines
