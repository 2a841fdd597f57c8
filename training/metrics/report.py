"""An evaluation, or several combined, as JSON and as Markdown in the papers' layout.

Published rows stand beside ours, with where they were read. What is absent is shown as
absent, with the reason below the table.
"""

from collections.abc import Sequence

import msgspec

from training.metrics import published_tables, report_tables
from training.metrics.controls import PERMUTATIONS
from training.metrics.published import ABLATIONS, DECODING, ENCODING
from training.metrics.published_tables import head
from training.metrics.report_tables import Reasons
from training.metrics.result import (
    Absent,
    BundleEvaluation,
    CombinedEvaluation,
    RenderedElsewhere,
)

LEARNED = (
    "The model was trained on this split: none of the figures says how it does on "
    "images or trials that it has not seen."
)
_NSD = (
    "Published rows are of NSD: natural images, 7 tesla, 1,000 shared test images with "
    "three trials averaged. They can be compared with ours only where the recording is "
    "NSD with the same split."
)


def to_json(result: BundleEvaluation | CombinedEvaluation) -> bytes:
    """Encode a result; `from_json` gives back that of one bundle."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def from_json(data: bytes) -> BundleEvaluation:
    """Decode what `to_json` wrote.

    Raises:
        msgspec.ValidationError: It is another thing.
    """
    return msgspec.json.decode(data, type=BundleEvaluation)


def to_markdown(result: BundleEvaluation) -> str:
    """Write everything that was found of a bundle, and what was not."""
    absent: Reasons = {}
    if result.regions is not None:
        absent[result.regions.reason] = ["regions"]
    if isinstance(result.external, Absent):
        absent.setdefault(result.external.reason, []).append(
            "external encoder, external decoder"
        )
    parts = [
        "# Evaluation",
        "",
        f"Bundle `{result.bundle_sha256[:12]}` on {result.recording}, subject "
        f"{result.subject}, split {result.split}: {result.trials} trials of "
        f"{result.images} images, at least {result.repeats} each. Engine "
        f"{result.backend}. Responses: {result.responses or 'not said'}.",
        "",
        *_counted(result),
        *_warning(result.split),
        "Brackets are 95 % intervals over images, resampled with "
        f"seed {result.seed}; they say nothing of other people.",
        "",
        *_elsewhere([("", result.rendered_elsewhere)]),
        *_figures(result, absent),
        "## Negative control",
        "",
        f"Predictions given to images at random, {PERMUTATIONS} times; brackets hold "
        "the central 95 %, which should hold chance. SSIM: each given to the next "
        "image. For PixCorr and SSIM the level of unrelated images is not zero; it is "
        "what a reconstruction must exceed.",
        "",
        "Permutations give chance whatever the decoder is: they check the metric, and "
        "say nothing of the decoder. One trial late: how near what was decoded from a "
        "trial is to the image of the next one, its own left out, with the interval "
        "over images; above a half, responses hold something of what came after them. "
        "What a decoder learns where there is nothing to learn (shuffled labels, no "
        "signal) only trained controls show: `benchmarks/peers.py`, docs/peers.md.",
        "",
        *head(["metric", "found", "chance"]),
    ]
    for control in result.controls:
        value = control.value
        chance = None if isinstance(value, Absent) else value.chance
        found = report_tables.cell(value, 1, absent, f"control of {control.metric}")
        said = "-" if chance is None else f"{chance:.3f}"
        parts.append(f"| {control.metric} | {found} | {said} |")
    return _ended(parts, absent)


def combined_to_markdown(result: CombinedEvaluation) -> str:
    """Write what was found of several participants together."""
    absent: Reasons = {}
    who = ", ".join(one.subject for one in result.participants)
    parts = [
        "# Evaluation over participants",
        "",
        f"{len(result.participants)} participants ({who}), split {result.split}, "
        f"{result.images} images, {result.images_seen_by_all} of them seen by all. "
        f"Responses: {result.responses or 'not said'}.",
        "",
        *_warning(result.split),
        "Figures are means over participants. Brackets are 95 % intervals over other "
        f"participants and other images, {_drawn(result)}, seed {result.seed}. Few "
        "participants say little of others.",
        "",
        *head(["subject", "recording", "bundle", "trials", "images", "trials each"]),
    ]
    parts += [
        f"| {one.subject} | {one.recording} | `{one.bundle_sha256[:12]}` | "
        f"{one.trials} | {one.images} | {one.repeats} |"
        for one in result.participants
    ]
    given = [(one.subject, one.rendered_elsewhere) for one in result.participants]
    parts += ["", *_elsewhere(given), *_figures(result, absent)]
    return _ended(parts[:-1], absent)


def _drawn(result: CombinedEvaluation) -> str:
    """Say which of the two designs of `combined` the intervals are of."""
    if result.images_seen_by_all:
        return "both drawn with replacement and apart from one another"
    return (
        "participants drawn with replacement and then, as no image was seen by all of "
        "them, images within each"
    )


def _warning(split: str) -> list[str]:
    return [f"**{LEARNED}**", ""] if split == "train" else []


def _counted(result: BundleEvaluation) -> list[str]:
    if result.single_trials is None or result.averaged_repeats is None:
        return []
    return [
        f"Single trials judged: {result.single_trials}, each once. Averages are of all "
        "trials of an image; their noise ceiling is at n = "
        f"{result.averaged_repeats:.3g}, the harmonic mean.",
        "",
    ]


def _elsewhere(given: Sequence[tuple[str, RenderedElsewhere | None]]) -> list[str]:
    """Say which pictures no bundle made, by what they are."""
    sets = [
        f"{who} {one.images} pictures of {one.side} x {one.side} pixels, sha256 "
        f"`{one.sha256[:12]}`".lstrip()
        for who, one in given
        if one is not None
    ]
    if not sets:
        return []
    return [
        "Averaged trials are judged by pictures that were rendered elsewhere: "
        f"{'; '.join(sets)}. That they show what the bundle decoded, and nothing else, "
        "is the word of whoever rendered them.",
        "",
    ]


def _figures(
    result: BundleEvaluation | CombinedEvaluation, absent: Reasons
) -> list[str]:
    return [
        _NSD,
        "",
        "## Images",
        "",
        *report_tables.image_table(result.reconstructions, DECODING, absent),
        "",
        "Reconstructions from predicted responses through the own decoder are a test "
        "of self-consistency, which the training's cycle rewards; only an external, "
        "independently trained decoder says how good the responses are.",
        "",
        "## Retrieval, top-1",
        "",
        *report_tables.retrieval_table(result.retrieval, absent),
        "",
        *published_tables.retrieval_table(DECODING, ENCODING),
        "",
        "## Encoding",
        "",
        *report_tables.encoding_table(result.encoding, absent),
        "",
        *published_tables.encoding_table(ENCODING),
        "",
        *report_tables.roi_tables(result.encoding, absent),
        "## Spread of single trials",
        "",
        "What trials of one image may differ by, sampled, beside what the measured "
        "ones differ by. The latents alone hold what the model can say; with what they "
        "leave out a sample is a whole trial. An honest forecast covers 95 % and has "
        "the variance of the errors (ratio 1); that of repeats it exceeds by how wrong "
        "the predicted mean is.",
        "",
        *report_tables.spread_table(result.spread, absent, result.spread_from),
        "",
    ]


def _ended(parts: list[str], absent: Reasons) -> str:
    parts += [
        "",
        "## Published ablations",
        "",
        "What NeuroFlow reports without each of its parts, subject 1 of NSD; none of "
        "it is ours.",
        "",
        *published_tables.ablation_table(ABLATIONS),
        "",
        "## Absent",
        "",
    ]
    parts += [
        f"- {', '.join(sorted(set(names)))}: {reason}"
        for reason, names in absent.items()
    ] or ["Nothing."]
    return "\n".join(parts) + "\n"
