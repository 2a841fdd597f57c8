"""Every trial of a split, what it shows, and what a bundle makes of responses."""

import hashlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from runtime.bundle import Bundle, backbone_of
from runtime.errors import BundleError, UsageError
from runtime.model import Model
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace
from training.metrics.result import Absent, Decoder, Rendered, RetrievalSource
from training.metrics.retrieval import Cosines, similarities
from training.metrics.voxels import image_means

WHOLE_MASK = "all voxels"
AT_ONCE: Final = 64
"""Rows whose latents are in memory at a time; of the published size they are 220 MB."""

Betas = Float32[np.ndarray, "rows voxels"]
Latent = Float32[np.ndarray, "tokens width"]
Latents = Float32[np.ndarray, "rows tokens width"]
Pictures = UInt8[np.ndarray, "rows height width 3"]
Count = Callable[[int, int], None]


def said_of_shared(learned: Set[object], judged: Set[object], split: str) -> str:
    """Say that pictures of a split were trained on; empty where none was.

    Args:
        learned: Pictures of the split that was learned from.
        judged: Those of `split`.
        split: By name; of the one learned from nothing is said here.
    """
    shared = len(learned & judged)
    if split == "train" or not shared:
        return ""
    return (
        f"WARNING: {shared} of {len(judged)} pictures of split {split} were trained "
        "on: these figures are not those of new pictures"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """What undoes a scaling within sessions, back to percent signal."""

    mean: Float32[np.ndarray, "sessions voxels"]
    std: Float32[np.ndarray, "sessions voxels"]
    of_trial: Int64[np.ndarray, " trials"]


@dataclass(frozen=True, slots=True, eq=False)
class SplitTrials:
    """Every trial of a split, and what it shows."""

    betas: Betas
    """One row a trial, in order of time, in the units of the bundle's voxels."""
    shown: Int64[np.ndarray, " trials"]
    """Picture of each trial: a row of what follows."""
    z_v: Latents
    """One row a picture, as are the next three."""
    pictures: Pictures | Absent
    names: Sequence[str]
    labels: Sequence[str] | None
    """Categories, where they are known."""
    rois: dict[str, Bool[np.ndarray, " voxels"]]
    """Voxels by region; the first is all of them."""
    rois_absent: Absent | None = None
    """Why there are no others."""
    sessions: Sessions | None = None
    """None: the betas are in percent signal."""

    @property
    def images(self) -> Int64[np.ndarray, " images"]:
        """Rows of the pictures, all of which were shown."""
        return np.arange(len(self.z_v), dtype=np.int64)

    @property
    def hashes(self) -> list[str]:
        """A hash of each picture's pixels; empty where pictures are not kept."""
        if isinstance(self.pictures, Absent):
            return []
        return [
            hashlib.sha256(f"{one.shape}".encode() + one.tobytes()).hexdigest()[:16]
            for one in self.pictures
        ]

    @property
    def repeats(self) -> int:
        """Trials that every picture has at least."""
        return int(np.unique(self.shown, return_counts=True)[1].min())

    def averaged(self, rows: Betas) -> Betas:
        """Return the mean over each picture's trials of one row a trial."""
        return image_means(rows, self.shown)[0].astype(np.float32)

    def thinned(self, at_most: int) -> "SplitTrials":
        """Return this many trials, evenly spread over time, and their pictures."""
        rows = evenly(len(self.betas), at_most)
        kept, shown = np.unique(self.shown[rows], return_inverse=True)
        sessions = self.sessions
        return replace(
            self,
            betas=self.betas[rows],
            shown=shown.astype(np.int64),
            z_v=self.z_v[kept],
            pictures=(
                self.pictures
                if isinstance(self.pictures, Absent)
                else self.pictures[kept]
            ),
            names=[self.names[row] for row in kept],
            labels=self.labels and [self.labels[row] for row in kept],
            sessions=sessions and replace(sessions, of_trial=sessions.of_trial[rows]),
        )

    def in_percent(self, rows: Betas) -> Betas:
        """Undo the scaling within sessions of one row a trial."""
        if self.sessions is None:
            return rows
        session = self.sessions.of_trial
        scaled = rows * self.sessions.std[session]
        return np.asarray(scaled + self.sessions.mean[session], dtype=np.float32)


def evenly(n: int, at_most: int) -> Int64[np.ndarray, " rows"]:
    """Return at most so many of `n` rows, evenly spread over all of them."""
    count = min(n, at_most)
    return np.arange(count, dtype=np.int64) * n // max(count, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is looked for in what is decoded: pictures, by their z_v."""

    source: RetrievalSource
    part: Literal["latents", "retrieval"]
    """z_v as decoded, or the features of the retrieval head."""
    items: Latents
    """z_v of each picture."""
    query_mean: Latent | None
    item_mean: Latent | None
    """Subtracted before the cosine."""
    is_mean_subtracted: bool
    """What the report says of it."""
    decoder: Decoder = "own"


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a bundle decodes from responses, one row each."""

    answers: Sequence[tuple[Question, Cosines]]
    """Of each question: the cosine of every row with every item."""
    pictures: Pictures | None
    """None where the latents are no images."""
    latents: Latents | None = None
    """z_v, where it is kept: 1,000 of the published size are 1.7 GB."""
    rendered: Rendered = "here"
    """Elsewhere: the pictures were not made of these latents, but given."""


class BundleMaps:
    """A bundle's maps over many rows: responses to pictures, and back."""

    def __init__(self, bundle: Bundle, model: Model) -> None:
        """Prepare.

        Raises:
            BundleError: The backbone's latents are not the model's.
        """
        self.bundle, self.backbone = bundle, backbone_of(bundle)
        self.space: FeatureSpace = bundle.feature_space()
        self._model = model

    def decode(
        self,
        betas: Betas,
        questions: Sequence[Question] = (),
        on_row: Count | None = None,
        *,
        keeps_latents: bool = False,
    ) -> Decoded:
        """Decode responses given in the units of the bundle's voxels.

        Args:
            betas: One row each.
            questions: Answered `AT_ONCE` rows at a time, after which these are let go.
            on_row: Told after each row.
            keeps_latents: Return z_v as well.
        """
        features, decoded = self.space.to_model(betas), []
        is_projected = any(asked.part == "retrieval" for asked in questions)
        cosines = [np.empty((len(betas), len(asked.items))) for asked in questions]
        pictures = []
        for first in range(0, len(features), AT_ONCE):
            latents, retrieval = [], []
            for done, row in enumerate(features[first : first + AT_ONCE], first + 1):
                z_n = self._model.encode_voxels(row)
                latents.append(self._model.decode_latent(z_n))
                if is_projected:
                    retrieval.append(self._model.project_voxels(row))
                if on_row is not None:
                    on_row(done, len(features))
            parts = {"latents": np.stack(latents)}
            if is_projected:
                parts["retrieval"] = np.stack(retrieval)
            for asked, into in zip(questions, cosines, strict=True):
                into[first : first + AT_ONCE] = similarities(
                    parts[asked.part],
                    asked.items,
                    query_mean=asked.query_mean,
                    item_mean=asked.item_mean,
                )
            if self.backbone is not None:
                pictures.append(invert(self.backbone, latents))
            if keeps_latents:
                decoded.append(parts["latents"])
        return Decoded(
            list(zip(questions, cosines, strict=True)),
            np.concatenate(pictures) if pictures else None,
            np.concatenate(decoded) if decoded else None,
        )

    def predict(self, latents: Latents, on_row: Count | None = None) -> Betas:
        """Predict responses, in the units of the bundle's voxels."""
        rows = []
        for done, z_v in enumerate(latents, start=1):
            rows.append(self._model.predict_voxels(self._model.encode_latent(z_v)))
            if on_row is not None:
                on_row(done, len(latents))
        return self.space.from_model(np.stack(rows))

    def neural_latents(self, betas: Betas) -> Latents:
        """Return z_n of responses in the units of the bundle's voxels."""
        rows = self.space.to_model(betas)
        return np.stack([self._model.encode_voxels(row) for row in rows])

    def expected_latents(self, latents: Latents) -> Latents:
        """Return z_n that the flow expects of pictures, given their z_v."""
        return np.stack([self._model.encode_latent(z_v) for z_v in latents])

    def responses(self, latents: Latents) -> Betas:
        """Return what z_n stands for, in the units of the bundle's voxels."""
        rows = [self._model.predict_voxels(z_n) for z_n in latents]
        return self.space.from_model(np.stack(rows))

    def latents_as(self, other: "BundleMaps", latents: Latents) -> Latents:
        """Return another bundle's latents as this one's: the same pictures' z_v.

        Latents that are the same pass; `check_external` has refused what cannot be.
        """
        if self.backbone == other.backbone or not (self.backbone and other.backbone):
            return latents
        pictures = invert(other.backbone, list(latents))
        return np.stack([self.backbone.tokens_from_image(one) for one in pictures])


def invert(backbone: PatchDct, latents: Sequence[np.ndarray]) -> Pictures:
    """Return the pictures that latents stand for."""
    return np.stack([backbone.image_from_tokens(z_v) for z_v in latents])


def check_external(own: Bundle, external: Bundle) -> None:
    """Refuse an external bundle that cannot read the own one's predicted responses.

    Raises:
        BundleError: Other voxels, another estimate of a response, or latents that
            cannot be turned into the own one's.
        UsageError: It is the same bundle.
    """
    ours, theirs = own.manifest, external.manifest
    if ours.training == theirs.training:
        raise UsageError(
            "--external: expected an independently trained bundle, found the same "
            "training"
        )
    for what, wanted, found in (
        (
            "voxels",
            ours.voxels.voxel_order_sha256,
            theirs.voxels.voxel_order_sha256,
        ),
        ("estimator", str(ours.estimator), str(theirs.estimator)),
    ):
        if wanted != found:
            raise BundleError(
                f"--external: expected the same {what}, found another. Train it on the "
                "same participant with the same estimator."
            )
    both = (backbone_of(own), backbone_of(external))
    if ours.backbone != theirs.backbone and None in both:
        raise BundleError(
            f"--external: backbone: expected {ours.backbone.name}, "
            f"found {theirs.backbone.name}. Latents that are no images cannot be "
            "turned into one another"
        )
