"""An evaluation as JSON and as Markdown in the papers' layout.

Published rows stand beside ours, with where they were read. What is absent is shown as
absent, with the reason below the table.
"""

from collections.abc import Sequence

import msgspec

from training.metrics import published_tables
from training.metrics.controls import PERMUTATIONS
from training.metrics.published import PublishedImages
from training.metrics.published_tables import head, plain
from training.metrics.result import (
    Absent,
    BundleEvaluation,
    EncodingFigures,
    Figure,
    ImageFigures,
    RetrievalFigures,
)

LEARNED = (
    "The model was trained on this split: none of the figures says how it does on "
    "images or trials that it has not seen."
)
_CELL_ABSENT = "absent"
_IMAGE_COLUMNS = (
    ("pixcorr", "PixCorr", 1),
    ("ssim", "SSIM", 1),
    ("alex2", "Alex(2) %", 100),
    ("alex5", "Alex(5) %", 100),
    ("inception", "Incep %", 100),
    ("clip", "CLIP %", 100),
    ("efficientnet", "Eff (low is good)", 1),
    ("swav", "SwAV (low is good)", 1),
)


def to_json(result: BundleEvaluation) -> bytes:
    """Encode a result; `from_json` gives it back."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def from_json(data: bytes) -> BundleEvaluation:
    """Decode what `to_json` wrote.

    Raises:
        msgspec.ValidationError: It is another thing.
    """
    return msgspec.json.decode(data, type=BundleEvaluation)


def to_markdown(result: BundleEvaluation) -> str:
    """Write everything that was found, and what was not."""
    absent: dict[str, list[str]] = {}
    parts = [
        "# Evaluation",
        "",
        f"Bundle `{result.bundle_sha256[:12]}` on {result.recording}, subject "
        f"{result.subject}, split {result.split}: {result.trials} trials of "
        f"{result.images} images, at least {result.repeats} each. Engine "
        f"{result.backend}. Responses: {result.responses or 'not said'}.",
        "",
        *([f"**{LEARNED}**", ""] if result.split == "train" else []),
        "Brackets are 95 % intervals over images, resampled with "
        f"seed {result.seed}; they say nothing of other people.",
        "",
        "Published rows are of NSD: natural images, 7 tesla, 1,000 shared test images "
        "with three trials averaged. They can be compared with ours only where the "
        "recording is NSD with the same split.",
        "",
        "## Images",
        "",
        *_image_table(
            result.reconstructions, result.published_decoding, result, absent
        ),
        "",
        "Reconstructions from predicted responses through the own decoder are a test "
        "of self-consistency, which the training's cycle rewards; only an external, "
        "independently trained decoder says how good the responses are.",
        "",
        "## Retrieval, top-1",
        "",
        *_retrieval_table(result.retrieval, absent),
        "",
        *published_tables.retrieval_table(
            result.published_decoding, result.published_encoding
        ),
        "",
        "## Encoding",
        "",
        *_encoding_table(result.encoding, absent),
        "",
        *published_tables.encoding_table(result.published_encoding),
        "",
        *_roi_tables(result.encoding, absent),
        "## Spread of single trials",
        "",
        "What trials of one image may differ by, sampled, beside what the measured "
        "ones differ by. The latents alone hold what the model can say; with what they "
        "leave out a sample is a whole trial. An honest forecast covers 95 % and has "
        "the variance of the errors (ratio 1); that of repeats it exceeds by how wrong "
        "the predicted mean is.",
        "",
        *_spread_table(result, absent),
        "",
        "## Negative control",
        "",
        f"Predictions given to images at random, {PERMUTATIONS} times; brackets hold "
        "the central 95 %, which should hold chance. SSIM: each given to the next "
        "image. For PixCorr and SSIM the level of unrelated images is not zero; it is "
        "what a reconstruction must exceed.",
        "",
        "| metric | found | chance |",
        "|---|---|---|",
    ]
    for control in result.controls:
        chance = control.value.chance if not isinstance(control.value, Absent) else None
        parts.append(
            f"| {control.metric} | {_cell(control.value, 1, absent, control.metric)} "
            f"| {'' if chance is None else f'{chance:.3f}'} |"
        )
    parts += [
        "",
        "## Published ablations",
        "",
        "What NeuroFlow reports without each of its parts, subject 1 of NSD; none of "
        "it is ours.",
        "",
        *published_tables.ablation_table(result.published_ablations),
        "",
        "## Absent",
        "",
    ]
    parts += [
        f"- {', '.join(sorted(set(names)))}: {reason}"
        for reason, names in absent.items()
    ] or ["Nothing."]
    return "\n".join(parts) + "\n"


def _cell(figure: Figure, factor: int, absent: dict[str, list[str]], name: str) -> str:
    if isinstance(figure, Absent):
        absent.setdefault(figure.reason, []).append(name)
        return _CELL_ABSENT
    digits = 1 if factor == 100 else 3
    text = f"{factor * figure.mean:.{digits}f}"
    if figure.low is None or figure.high is None:
        return text
    return (
        f"{text} [{factor * figure.low:.{digits}f}, {factor * figure.high:.{digits}f}]"
    )


def _image_table(
    rows: Sequence[ImageFigures],
    published: Sequence[PublishedImages],
    result: BundleEvaluation,
    absent: dict[str, list[str]],
) -> list[str]:
    lines = head(["method", *(title for _, title, _ in _IMAGE_COLUMNS), "read in"])
    for row in rows:
        cells = [
            _cell(getattr(row, name), factor, absent, title)
            for name, title, factor in _IMAGE_COLUMNS
        ]
        label = f"ours, {row.trials} trials, {row.source}, {row.decoder} decoder"
        lines.append(f"| **{label}** | " + " | ".join(cells) + " | here |")
    if result.regions is not None:
        absent.setdefault(result.regions.reason, []).append("regions")
    if isinstance(result.external, Absent):
        absent.setdefault(result.external.reason, []).append(
            "external encoder, external decoder"
        )
    for known in published:
        cells = [
            plain(getattr(known, name), 1 if factor == 100 else 3)
            for name, _, factor in _IMAGE_COLUMNS
        ]
        lines.append(
            f"| {known.method} | " + " | ".join(cells) + f" | {known.mark}: "
            f"{known.source}, {known.who} |"
        )
    return lines


def _retrieval_table(
    rows: Sequence[RetrievalFigures], absent: dict[str, list[str]]
) -> list[str]:
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
            _cell(row.forward, 100, absent, "retrieval"),
            _cell(row.backward, 100, absent, "retrieval"),
            _cell(row.published_forward, 100, absent, "published retrieval protocol"),
            _cell(row.published_backward, 100, absent, "published retrieval protocol"),
        ]
        lines.append(
            f"| {row.source}, {row.trials} trials, {row.decoder} | "
            f"{'yes' if row.is_mean_subtracted else 'no'} | {row.candidates} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def _encoding_table(
    rows: Sequence[EncodingFigures], absent: dict[str, list[str]]
) -> list[str]:
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
            _cell(row.mse, 1, absent, "MSE"),
            _cell(row.pearson, 1, absent, "r"),
            _cell(row.cosine, 1, absent, "cosine"),
            _cell(row.pearson_percent, 1, absent, "r"),
        ]
        lines.append(f"| {row.trials} trials | " + " | ".join(cells) + " |")
    return lines


def _spread_table(result: BundleEvaluation, absent: dict[str, list[str]]) -> list[str]:
    lines = head(
        [
            "sampled",
            "coverage of 95 %",
            "predicted / repeat variance",
            "predicted variance / squared error",
        ]
    )
    for row in result.spread:
        cells = [
            _cell(row.coverage, 100, absent, "coverage"),
            _cell(row.repeat_ratio, 1, absent, "variance ratio"),
            _cell(row.error_ratio, 1, absent, "error ratio"),
        ]
        lines.append(f"| {row.source} | " + " | ".join(cells) + " |")
    return [*lines, "", f"Sampled: {result.spread_from or 'not said'}."]


def _roi_tables(
    rows: Sequence[EncodingFigures], absent: dict[str, list[str]]
) -> list[str]:
    lines = []
    for row in rows:
        lines += [f"Voxel by voxel across images, {row.trials} trials:", ""]
        lines += head(
            ["region", "voxels", "r", "sqrt(NC)", "r / sqrt(NC)", "explained variance"]
        )
        for roi in row.rois:
            cells = [
                _cell(roi.correlation, 1, absent, f"r of {roi.roi}"),
                _cell(roi.ceiling, 1, absent, f"ceiling of {roi.roi}"),
                _cell(roi.normalised, 1, absent, f"r / sqrt(NC) of {roi.roi}"),
                _cell(roi.explained_variance, 1, absent, f"variance of {roi.roi}"),
            ]
            lines.append(f"| {roi.roi} | {roi.voxels} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines
