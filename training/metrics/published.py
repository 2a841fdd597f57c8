"""The figures that the papers print, typed, with where each was read.

Two-way identification and retrieval are in percent, as printed; correlations, SSIM and
distances are plain numbers. The mean of NSD subjects 1, 2, 5 and 7 unless `who` says
otherwise. None: not printed, or not known.
"""

from typing import Final, Literal

import msgspec

Mark = Literal["paper", "third party"]
"""Read in a paper, or in a summary of it by others, which may be wrong."""


class PublishedImages(msgspec.Struct, frozen=True, kw_only=True):
    """Reconstructed images, and retrieval, of one method."""

    method: str
    mark: Mark
    source: str
    who: str = "subjects 1, 2, 5, 7"
    pixcorr: float | None = None
    ssim: float | None = None
    alex2: float | None = None
    alex5: float | None = None
    inception: float | None = None
    clip: float | None = None
    efficientnet: float | None = None
    swav: float | None = None
    retrieval_forward: float | None = None
    """Brain to image, top-1 of 300, percent."""
    retrieval_backward: float | None = None
    """Image to brain, top-1 of 300, percent."""


class PublishedEncoding(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted responses of one method, and images decoded from them."""

    method: str
    mark: Mark
    source: str
    decoder: str
    """Whose decoder made the images; figures of different ones are not comparable."""
    who: str = "subjects 1, 2, 5, 7"
    mse: float | None = None
    pearson: float | None = None
    """Across voxels."""
    cosine: float | None = None
    """Across voxels."""
    inception: float | None = None
    clip: float | None = None
    efficientnet: float | None = None
    swav: float | None = None
    raw: float | None = None
    """Retrieval from measured responses, percent."""
    synthetic: float | None = None
    """Retrieval from predicted responses, percent: self-consistency."""


def _images(
    method: str,
    values: tuple[float | None, ...],
    retrieval: tuple[float | None, float | None] = (None, None),
    *,
    mark: Mark = "paper",
    source: str,
    who: str = "subjects 1, 2, 5, 7",
) -> PublishedImages:
    pixcorr, ssim, alex2, alex5, inception, clip, efficientnet, swav = values
    return PublishedImages(
        method=method,
        mark=mark,
        source=source,
        who=who,
        pixcorr=pixcorr,
        ssim=ssim,
        alex2=alex2,
        alex5=alex5,
        inception=inception,
        clip=clip,
        efficientnet=efficientnet,
        swav=swav,
        retrieval_forward=retrieval[0],
        retrieval_backward=retrieval[1],
    )


_MINDEYE2: Final = "Scotti et al. 2024, MindEye2"
_THIRD: Final = "summary of the method's paper"

DECODING: Final = (
    _images(
        "Takagi & Nishimoto",
        (0.246, 0.410, 78.9, 85.6, 83.8, 82.1, 0.811, 0.504),
        source=_MINDEYE2,
    ),
    _images(
        "Brain-Diffuser",
        (0.273, 0.365, 94.4, 96.6, 91.3, 90.9, 0.728, 0.421),
        (18.8, 26.3),
        source=_MINDEYE2,
    ),
    _images(
        "MindEye1",
        (0.319, 0.360, 92.8, 96.9, 94.6, 93.3, 0.648, 0.377),
        (90.0, 84.1),
        source=_MINDEYE2,
    ),
    _images(
        "MindEye2",
        (0.322, 0.431, 96.1, 98.6, 95.4, 93.0, 0.619, 0.344),
        (98.8, 98.3),
        source=_MINDEYE2,
    ),
    _images(
        "MindEye2 unrefined",
        (0.278, 0.328, 95.2, 99.0, 96.4, 94.5, 0.622, 0.343),
        source=_MINDEYE2,
    ),
    _images(
        "MindEye2 low-level only",
        (0.399, 0.539, 70.5, 65.1, 52.9, 57.2, 0.984, 0.673),
        source=_MINDEYE2,
    ),
    _images(
        "MindEye2, 1 hour of data",
        (0.195, 0.419, 84.2, 90.6, 81.2, 79.2, 0.810, 0.468),
        (79.0, 57.4),
        source=_MINDEYE2,
    ),
    _images(
        "MindEye2, subject 1",
        (0.374, 0.439, None, None, 96.15, 93.56, 0.609, 0.338),
        (99.96, 99.87),
        source=f"{_MINDEYE2}, table 7",
        who="subject 1",
    ),
    _images(
        "MindTuner",
        (0.322, 0.421, 95.8, 98.8, 95.6, 93.8, 0.612, 0.340),
        (98.9, None),
        mark="third party",
        source=_THIRD,
    ),
    _images(
        "Brain-IT",
        (0.386, 0.486, 98.4, 99.5, 97.3, 96.4, 0.564, 0.320),
        mark="third party",
        source=_THIRD,
    ),
    _images(
        "NeuroSwift",
        (None, None, None, None, None, 97.1, None, None),
        mark="third party",
        source=_THIRD,
    ),
    _images(
        "ROITok",
        (0.475, None, None, None, None, None, None, None),
        mark="third party",
        source=_THIRD,
    ),
    _images(
        "NeuroFlow",
        (None, None, None, None, 95.6, 94.2, None, None),
        (80.6, None),
        mark="third party",
        source=_THIRD,
    ),
)
"""Images decoded from measured responses, three trials averaged."""

_OWN: Final = "own"
_EXTERNAL: Final = "MindEye2"

ENCODING: Final = (
    PublishedEncoding(
        method="MindSimulator, 1 sample",
        mark="paper",
        source="MindSimulator",
        decoder=_EXTERNAL,
        mse=0.403,
        pearson=0.346,
        inception=92.1,
        clip=90.4,
        efficientnet=0.701,
        swav=0.396,
    ),
    PublishedEncoding(
        method="MindSimulator, 5 samples",
        mark="paper",
        source="MindSimulator",
        decoder=_EXTERNAL,
        mse=0.385,
        pearson=0.357,
        inception=93.1,
        clip=91.2,
        efficientnet=0.689,
        swav=0.391,
    ),
    PublishedEncoding(
        method="SynBrain",
        mark="paper",
        source="SynBrain",
        decoder=_EXTERNAL,
        mse=0.139,
        pearson=0.687,
        cosine=0.739,
        inception=95.7,
        clip=94.3,
        efficientnet=0.639,
        swav=0.362,
        raw=84.8,
        synthetic=92.5,
    ),
    PublishedEncoding(
        method="SynBrain, subject 1",
        mark="paper",
        source="SynBrain",
        decoder=_EXTERNAL,
        who="subject 1",
        mse=0.079,
        pearson=0.715,
        cosine=0.769,
        inception=96.7,
        clip=95.9,
        efficientnet=0.619,
        swav=0.350,
        raw=94.7,
        synthetic=99.3,
    ),
    PublishedEncoding(
        method="NeuroFlow",
        mark="third party",
        source=_THIRD,
        decoder=_OWN,
        inception=98.6,
        clip=98.7,
        raw=80.6,
        synthetic=97.0,
    ),
)
"""Responses predicted from images; the images are decoded from these responses."""


class PublishedAblation(msgspec.Struct, frozen=True, kw_only=True):
    """NeuroFlow without one of its parts, subject 1, in percent."""

    without: str
    decoding_clip: float
    encoding_clip: float
    raw: float
    synthetic: float
    mark: Mark = "third party"
    source: str = _THIRD


ABLATIONS: Final = tuple(
    PublishedAblation(
        without=name,
        decoding_clip=decoding,
        encoding_clip=encoding,
        raw=raw,
        synthetic=synthetic,
    )
    for name, decoding, encoding, raw, synthetic in (
        ("nothing", 95.0, 98.7, 86.4, 96.4),
        ("z_c", 94.0, 96.6, 84.1, 90.4),
        ("KL", 79.6, 57.1, 75.1, 11.5),
        ("cycle", 93.7, 95.5, 81.4, 88.9),
        ("CLIP and cycle", 58.8, 51.3, 0.3, 0.5),
        ("flow", 83.7, 58.1, 86.4, 14.1),
    )
)
"""What each part is worth."""
