"""A day's calibration overlay: what one bundle does otherwise today.

A sealed folder like the bundle and the gallery, with its own manifest. It belongs to
one bundle and is refused with any other; the bundle's files stay as they are. An
outcome cites the three hashes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, final

import msgspec
import numpy as np

from runtime.arrays import Shaped
from runtime.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Bundle,
    decode_manifest,
    load_tensors,
)
from runtime.correction import CorrectedModel, InputCorrection
from runtime.decoder import DecodingModel
from runtime.errors import BundleError
from runtime.estimator import estimator_sha256
from runtime.given import folder_from
from runtime.manifest import Manifest, Positive, Sha256, TensorSpec
from runtime.preprocess import AffineNormaliser, FeatureSpace
from runtime.sealed import FileSpec, read_manifest, read_signature
from runtime.signing import Signer, Trust, signer_of
from runtime.strict_json import decode_once
from runtime.verified_copy import copy_verified

OVERLAY: Final = "overlay.json"
OVERLAY_TENSORS: Final = "overlay.safetensors"
MAX_OVERLAY_BYTES: Final = 1024**2
"""Of the manifest, which takes 3 kB."""

CORRECTION: Final = ("correction_reads", "correction_writes")
"""Tensors of a correction, beside mean and scale."""

Part = Literal["normalisation", "correction"]
MAX_TEXT: Final = 256
"""Characters of a label or a run's name."""
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class GainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the overlay gained on trials that its fit had not seen."""

    measure: Literal["identification", "identification_z_n"] = "identification"
    """Chance is .5. ``identification_z_n`` is `runtime.identification` of z_n;
    ``identification``, of overlays of before, the share of the gallery's other images
    that were less like what was decoded than the one shown."""
    without: Share
    """With the bundle as it is."""
    reached: Share
    """With what the overlay holds."""
    mean: float
    """Over images, paired; what is kept against the bundle as it is."""
    low: float
    high: float
    confidence: Share
    """Of the interval from low to high."""


class TrialsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it was fitted on."""

    count: Positive
    images: Positive
    runs: tuple[Text, ...]
    """Names of the runs."""


class OverlayManifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Everything that an overlay says about itself."""

    schema_version: Literal[1] = 1
    bundle_sha256: Sha256
    """The bundle that it belongs to."""
    estimator_sha256: Sha256
    """How the betas were made that it was fitted on; the bundle's estimator."""
    voxels: Positive
    subject: Text
    label: Text
    """The day or session, as whoever made it calls it."""
    created: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """ISO date."""
    holds: tuple[Part, ...]
    penalty: float | None = None
    """Of the correction (`runtime.correction.PENALTIES`); None without one."""
    gain: GainSpec
    trials: TrialsSpec
    tensors: tuple[TensorSpec, ...]
    """Content of `overlay.safetensors`."""
    files: tuple[FileSpec, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """A verified overlay, in memory."""

    manifest: OverlayManifest
    sha256: str
    """Hash of the manifest's bytes; an outcome cites it."""
    affine: AffineNormaliser = field(repr=False)
    """Today's mean and scale."""
    correction: InputCorrection | None = field(repr=False)
    """Of the first layer's input, where one earned its place."""
    signer: Signer | None = None
    """Whose signature it carries, if any."""

    def corrected(self, model: DecodingModel) -> DecodingModel:
        """Return the model with today's first layer, where there is one."""
        if self.correction is None:
            return model
        return CorrectedModel(model, self.correction)

    def space(self, bundle: Bundle) -> FeatureSpace:
        """Return the units in which the bundle's model sees voxels today.

        Raises:
            BundleError: It was fitted for another bundle.
        """
        require_fit(self.manifest, bundle.manifest, bundle.sha256)
        return FeatureSpace(self.affine, bundle.feature_space().whitening)


def open_overlay(
    folder: str | Path, bundle: Bundle | None = None, *, trust: Trust = None
) -> Overlay:
    """Verify an overlay and read it into memory.

    Args:
        folder: What `write_overlay` wrote.
        bundle: Which it must belong to; None asks for none.
        trust: Whose signature is demanded; None demands none.

    Raises:
        BundleError: The folder is not exactly what its manifest lists, is not signed
            as demanded, or belongs to another bundle.
        UsageError: It is named by no path.
    """
    folder = folder_from("overlay", folder)
    data = read_manifest(folder, OVERLAY, max_bytes=MAX_OVERLAY_BYTES)
    # Before a word of it is believed.
    signer = signer_of(data, read_signature(folder), what=folder.name, trust=trust)
    manifest = decode_overlay(data)
    sha256 = hashlib.sha256(data).hexdigest()
    copy = copy_verified(folder, OVERLAY, manifest.files, name=sha256, cache=None)
    try:
        tensors = load_tensors(copy.folder, OVERLAY_TENSORS, manifest.tensors)
    finally:
        copy.remove()
    _check_tensors(manifest, tensors)
    correction = None
    if "correction" in manifest.holds:
        correction = InputCorrection(*(tensors[name] for name in CORRECTION))
    overlay = Overlay(
        manifest=manifest,
        sha256=sha256,
        affine=AffineNormaliser(tensors["voxel_mean"], tensors["voxel_scale"]),
        correction=correction,
        signer=signer,
    )
    if bundle is not None:
        require_fit(manifest, bundle.manifest, bundle.sha256)
    return overlay


def decode_overlay(data: bytes) -> OverlayManifest:
    """Read a manifest's bytes.

    Raises:
        BundleError: They are no manifest, or say what cannot be.
    """
    manifest = decode_once(data, OverlayManifest, OVERLAY)
    if manifest.holds not in (("normalisation",), ("normalisation", "correction")):
        raise BundleError(
            f"{OVERLAY}: holds: expected normalisation, and correction after it or "
            f"nothing, found {', '.join(manifest.holds) or 'nothing'}"
        )
    return manifest


def require_fit(overlay: OverlayManifest, bundle: Manifest, sha256: str) -> None:
    """Refuse any bundle but the one that an overlay was fitted for.

    Args:
        overlay: What the overlay says.
        bundle: What the bundle says.
        sha256: The bundle's.

    Raises:
        BundleError: Another bundle, estimator or number of voxels.
    """
    for name, wanted, found in (
        ("bundle", sha256, overlay.bundle_sha256),
        ("estimator", estimator_sha256(bundle.estimator), overlay.estimator_sha256),
        ("voxels", str(bundle.voxels.count), str(overlay.voxels)),
    ):
        if wanted != found:
            raise BundleError(
                f"{OVERLAY}: {name}: expected {wanted[:12]} as of the bundle, found "
                f"{found[:12]}. Calibrate with this bundle"
            )


def require_overlay(bundle_folder: Path, overlay_folder: Path) -> None:
    """Refuse an overlay of another bundle, from the two manifests alone.

    Raises:
        BundleError: It is another's, or one of them has no manifest.
    """
    data = read_manifest(bundle_folder, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    mine = read_manifest(overlay_folder, OVERLAY, max_bytes=MAX_OVERLAY_BYTES)
    require_fit(
        decode_overlay(mine), decode_manifest(data), hashlib.sha256(data).hexdigest()
    )


def _check_tensors(
    manifest: OverlayManifest, tensors: Mapping[str, Shaped[np.ndarray, "..."]]
) -> None:
    """Hold the tensors against what the manifest says of them, and of voxels."""
    shapes: dict[str, tuple[int, ...]] = {
        "voxel_mean": (manifest.voxels,),
        "voxel_scale": (manifest.voxels,),
    }
    if "correction" in manifest.holds:
        # Any rank, and the same one.
        rank = next((tensors[n].shape[:1] for n in CORRECTION if n in tensors), ())
        shapes |= dict.fromkeys(CORRECTION, (*rank, manifest.voxels))
    if set(shapes) != set(tensors):
        raise BundleError(
            f"{OVERLAY_TENSORS}: expected {', '.join(sorted(shapes))}, "
            f"found {', '.join(sorted(tensors)) or 'nothing'}"
        )
    for name, shape in shapes.items():
        array = tensors[name]
        if array.shape != shape or array.dtype != np.float32:
            raise BundleError(
                f"{OVERLAY_TENSORS}: {name}: expected float32 {list(shape)}, "
                f"found {array.dtype} {list(array.shape)}"
            )
        if not np.isfinite(array).all() or (name == "voxel_scale" and array.min() < 0):
            raise BundleError(
                f"{OVERLAY_TENSORS}: {name}: expected finite numbers, and no negative "
                "scale, found others among them"
            )
