"""The bundle: what export writes and a rig opens. One of the two contracts.

A folder with `manifest.json`, graphs, tensors and golden vectors. `runtime.manifest`
says what a bundle can say; `runtime.sealed` keeps it from being anything else.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import numpy as np
from msgspec import UNSET
from safetensors import SafetensorError
from safetensors.numpy import load_file

from runtime.arrays import Bool, Float32, Int64, Shaped
from runtime.closing import Closing
from runtime.coherence import check_flow
from runtime.errors import BundleError
from runtime.estimator import (
    BetaEstimator,
    VolumeEstimator,
    live_estimator,
    motion_of,
)
from runtime.given import folder_from
from runtime.manifest import (
    GOLDEN,
    MANIFEST,
    TENSORS,
    BackboneSpec,
    FlowSpec,
    GateSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    Sha256,
    TensorSpec,
    TrainingSpec,
    Voxels,
    check_judged,
    decode_manifest,
    encode_manifest,
)
from runtime.patch_dct import PatchDct
from runtime.preprocess.feature_space import FeatureSpace
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.reference import Reference
from runtime.sealed import read_manifest, read_signature
from runtime.signing import Signer, Trust, signer_of
from runtime.strict_json import check_keys
from runtime.verified_copy import Copy, copy_verified

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "TENSORS",
    "BackboneSpec",
    "Bundle",
    "FlowSpec",
    "GateSpec",
    "GraphSpec",
    "LatentSpec",
    "Manifest",
    "Sha256",
    "TensorSpec",
    "TrainingSpec",
    "Voxels",
    "backbone_of",
    "decode_manifest",
    "encode_manifest",
    "load_tensors",
    "open_bundle",
    "require_live",
    "write_manifest",
]

MAX_MANIFEST_BYTES: Final = 1024**2
"""A manifest takes 12 kB."""


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write `manifest.json`; return its sha256, which names the bundle."""
    data = encode_manifest(manifest)
    (folder / MANIFEST).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bundle(Closing):
    """A verified bundle; everything is read from its private copy."""

    manifest: Manifest
    sha256: str
    """Hash of the manifest's bytes; an outcome cites it."""
    copy: Copy = field(repr=False)
    tensors: Mapping[str, Shaped[np.ndarray, "..."]] = field(repr=False)
    """Content of `tensors.safetensors`; read-only arrays."""
    signer: Signer | None = None
    """Whose signature it carries, if any."""

    @property
    def folder(self) -> Path:
        """The private copy; gone after `close` where no cache was given."""
        return self.copy.folder

    @property
    def mask(self) -> Bool[np.ndarray, "x y z"]:
        """The voxels that are decoded."""
        return self.tensors["mask"]

    @property
    def hrf_index(self) -> Int64[np.ndarray, " voxels"] | None:
        """Which response of the estimator's library each voxel has, if it has one."""
        return self.tensors.get("hrf_index")

    def reference(self) -> Reference | None:
        """Return what motion is told against; None where it is not corrected."""
        if motion_of(self.manifest.estimator) is None:
            return None
        affine = np.array(self.manifest.voxels.affine, dtype=np.float64)
        return Reference(self.tensors["reference"], affine)

    @property
    def latent_mean(self) -> Float32[np.ndarray, "tokens width"]:
        """Mean of z_v over training images; retrieval, a centred flow subtract it."""
        return self.tensors["latent_mean"]

    def feature_space(self) -> FeatureSpace:
        """Return the units in which the model sees voxels, and the way back."""
        return FeatureSpace.from_tensors(self.tensors)

    def golden(self) -> Mapping[str, Shaped[np.ndarray, "..."]]:
        """Load the golden vectors.

        Raises:
            BundleError: They are not what the manifest says.
        """
        return load_tensors(self.folder, GOLDEN, self.manifest.golden)

    def graph_file(self, name: str) -> Path:
        """Return the verified copy of a graph's file.

        Raises:
            BundleError: The bundle has no such graph.
        """
        return self.folder / self.manifest.graph(name).file

    def close(self) -> None:
        """Remove the private copy where it is temporary; do so after the engines."""
        self.copy.remove()


def backbone_of(bundle: Bundle) -> PatchDct | None:
    """Return the bundle's visual backbone, or None where its latents are no images.

    Raises:
        BundleError: The backbone gives other latents than the model.
    """
    spec, latent = bundle.manifest.backbone, bundle.manifest.latent
    if spec.name != "patch_dct":
        return None
    backbone = PatchDct(image_size=spec.image_size, patch=spec.patch)
    if (backbone.tokens, backbone.width) != (latent.tokens, latent.width):
        raise BundleError(
            f"backbone: expected {latent.tokens} x {latent.width} latents as the "
            f"model's, found {backbone.tokens} x {backbone.width}"
        )
    return backbone


def load_tensors(
    folder: Path, file: str, specs: tuple[TensorSpec, ...]
) -> Mapping[str, Shaped[np.ndarray, "..."]]:
    """Read a safetensors file that must hold exactly the given tensors.

    Raises:
        BundleError: Damaged, or another name, shape or dtype than specified.
    """
    try:
        arrays = load_file(folder / file)
    except FileNotFoundError as error:
        raise BundleError(
            f"{file}: expected a bundle that is open, found no such file. Open it anew."
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{file}: expected safetensors, found {error}") from error
    _check_header(folder / file, file)
    found = {name: f"{a.dtype} {list(a.shape)}" for name, a in arrays.items()}
    expected = {spec.name: str(spec) for spec in specs}
    for name in sorted(expected | found):
        wanted, got = expected.get(name, "no tensor"), found.get(name, "no tensor")
        if wanted != got:
            raise BundleError(f"{file}: {name}: expected {wanted}, found {got}")
    for array in arrays.values():
        array.flags.writeable = False
    return MappingProxyType(arrays)


def _check_header(path: Path, file: str) -> None:
    """Refuse a tensor that is named twice: the library takes one without a word."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        check_keys(stream.read(size), file)


def require_live(bundle_folder: Path) -> BetaEstimator | VolumeEstimator:
    """Refuse a bundle that cannot be served, from its manifest alone.

    Returns:
        How its input is made.

    Raises:
        BundleError: It eats betas that others estimated, or has no manifest.
    """
    data = read_manifest(bundle_folder, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    manifest = decode_manifest(data, str(bundle_folder / MANIFEST))
    return live_estimator(manifest.estimator, str(bundle_folder))


def open_bundle(
    folder: str | Path,
    cache: str | Path | None = None,
    *,
    trust: Trust = None,
    is_drawn: bool = False,
) -> Bundle:
    """Verify a bundle and open its private copy.

    Args:
        folder: What export wrote. Nothing in it may be a link.
        cache: Folder of mode 0700 that keeps verified copies by content, not one of
            engines; None copies to a temporary folder that `Bundle.close` removes.
        trust: Whose signature is demanded; None demands none.
        is_drawn: A benchmark's, of drawn weights: export has not judged it, and it has
            no gates.

    Raises:
        BundleError: The folder is not exactly what its manifest lists, not signed as
            demanded, or has a gate that is not kept, or graphs of fewer bits and no
            gates of theirs.
        ArtifactError: There is no room for the copy.
        UsageError: A folder is named by no path.
    """
    folder = folder_from("bundle", folder)
    if cache is not None:
        cache = folder_from("cache of verified copies", cache)
    data = read_manifest(folder, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    # Before a word of it is believed.
    signer = signer_of(data, read_signature(folder), what=folder.name, trust=trust)
    what = str(folder / MANIFEST)
    manifest = decode_manifest(data, what)
    if not is_drawn:
        check_judged(manifest, what)
    sha256 = hashlib.sha256(data).hexdigest()
    copy = copy_verified(folder, MANIFEST, manifest.files, name=sha256, cache=cache)
    try:
        tensors = load_tensors(copy.folder, TENSORS, manifest.tensors)
        _check_contents(manifest, tensors)
    except BaseException:
        copy.remove()
        raise
    return Bundle(manifest, sha256, copy, tensors, signer)


def _check_contents(
    manifest: Manifest, tensors: Mapping[str, Shaped[np.ndarray, "..."]]
) -> None:
    """Hold the tensors against what the manifest says of voxels, latents and flow."""
    latent = (manifest.latent.tokens, manifest.latent.width)
    shapes: dict[str, tuple[int, ...]] = {
        "mask": manifest.voxels.shape,
        "voxel_mean": (manifest.voxels.count,),
        "voxel_scale": (manifest.voxels.count,),
        "latent_mean": latent,
    }
    if motion_of(manifest.estimator) is not None:
        shapes["reference"] = manifest.voxels.shape
    if "noise_components" in tensors:
        components = tensors["noise_components"].shape[0]
        shapes["noise_components"] = (components, manifest.voxels.count)
        shapes["noise_deviations"] = (components,)
        shapes["noise_rest"] = (1,)
    estimator = manifest.estimator
    library = estimator.hrf_library if isinstance(estimator, BetaEstimator) else UNSET
    if library is not UNSET:
        shapes["hrf_index"] = (manifest.voxels.count,)
    for name, shape in shapes.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape:
            raise BundleError(
                f"{TENSORS}: {name}: expected shape {list(shape)}, "
                f"found {'none' if found is None else list(found)}"
            )
    check_flow(manifest, tensors)
    if library is not UNSET:
        index = tensors["hrf_index"]
        if index.min() < 0 or index.max() >= len(library):
            raise BundleError(
                f"{TENSORS}: hrf_index: expected 0 to {len(library) - 1}, found "
                f"{index.min()} to {index.max()}"
            )
    mask = tensors["mask"]
    count = int(np.count_nonzero(mask))
    if count != manifest.voxels.count:
        raise BundleError(
            f"{TENSORS}: mask: expected {manifest.voxels.count} voxels, found {count}"
        )
    hashes = (
        (
            "sha256",
            manifest.voxels.mask_sha256,
            hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest(),
        ),
        (
            "voxel order",
            manifest.voxels.voxel_order_sha256,
            VoxelMask.from_volume(mask).sha256,
        ),
    )
    for name, expected, digest in hashes:
        if digest != expected:
            raise BundleError(
                f"{TENSORS}: mask: expected {name} {expected}, found {digest}"
            )
