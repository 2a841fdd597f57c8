"""The gallery: the pictures that a decoded latent is compared with.

A sealed folder like the bundle, with its own manifest. Its confidence calibration
belongs to one bundle and is refused with any other.
"""

import hashlib
import mmap
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, final

import msgspec
import numpy as np
from safetensors.numpy import save_file

from runtime.arrays import Float32, Shaped, UInt8
from runtime.bundle import load_tensors
from runtime.errors import ArtifactError, BundleError, TensorMismatchError
from runtime.given import folder_from
from runtime.manifest import LatentSpec, Sha256, TensorSpec
from runtime.sealed import FileSpec, read_manifest, read_signature, seal
from runtime.signing import Signer, Trust, signer_of
from runtime.strict_json import decode_once
from runtime.verified_copy import copy_verified
from runtime.writing import writing

GALLERY: Final = "gallery.json"
GALLERY_TENSORS: Final = "gallery.safetensors"
MAX_GALLERY_BYTES: Final = 64 * 1024**2
"""Of the manifest, which names every item; 73 000 NSD images take 6 MB."""

MOST_CHARACTERS: Final = 512
"""Of an id or a label: an outcome carries both, and holds no longer text."""
UNCALIBRATED_TEMPERATURE: Final = 0.1
"""Softmax temperature where a gallery has no calibration; its confidence is a guess."""

Latents = Float32[np.ndarray, "items tokens width"]
Images = UInt8[np.ndarray, "items rows columns 3"]


class Confidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Temperature scaling of cosines (Guo et al., 2017), fitted for one bundle."""

    bundle_sha256: Sha256
    temperature: Annotated[float, msgspec.Meta(gt=0)]
    """Cosines are divided by it before the softmax."""


class GalleryManifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Everything that a gallery says about itself."""

    schema_version: Literal[1] = 1
    latent: LatentSpec
    ids: tuple[str, ...]
    """Stimulus of each item; each once."""
    labels: tuple[str, ...]
    """Class of each item."""
    confidence: Confidence | None = None
    tensors: tuple[TensorSpec, ...]
    files: tuple[FileSpec, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """A verified gallery."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    latents: Latents = field(repr=False)
    """z_v of each item, as the backbone gives it; read-only."""
    images: Images | None = field(repr=False)
    """The pictures, where the gallery has them; read-only."""
    confidence: Confidence | None
    sha256: str
    """Hash of the manifest's bytes; an outcome cites it."""
    signer: Signer | None = None
    """Whose signature it carries, if any."""
    file: mmap.mmap | None = field(default=None, repr=False)
    """What latents and images are mapped from; None where they are held."""

    def let_go(self) -> None:
        """Give back the memory that reading it took; it can be read again."""
        if self.file is not None:
            self.file.madvise(mmap.MADV_DONTNEED)

    def confidence_for(self, bundle_sha256: str) -> Confidence | None:
        """Return the calibration, if it was fitted for this bundle.

        Raises:
            BundleError: It was fitted for another.
        """
        if self.confidence is None:
            return None
        if self.confidence.bundle_sha256 != bundle_sha256:
            raise BundleError(
                f"{GALLERY}: confidence: expected a calibration for bundle "
                f"{bundle_sha256[:12]}, found one for "
                f"{self.confidence.bundle_sha256[:12]}. Give the gallery that "
                "neuroflow export wrote beside this bundle"
            )
        return self.confidence

    def temperature_for(self, bundle_sha256: str) -> float:
        """Return the softmax temperature of a bundle's candidates.

        Raises:
            BundleError: The calibration was fitted for another bundle.
        """
        fitted = self.confidence_for(bundle_sha256)
        return UNCALIBRATED_TEMPERATURE if fitted is None else fitted.temperature


def _check_items(
    ids: Sequence[str], labels: Sequence[str], tensors: Mapping[str, tuple[int, ...]]
) -> str | None:
    """Return what is wrong with the items, or None."""
    if not ids:
        return "ids: expected at least one item, found none"
    if len(set(ids)) != len(ids):
        return "ids: expected each once, found one repeated"
    for name, texts in (("ids", ids), ("labels", labels)):
        longest = max(map(len, texts), default=0)
        if longest > MOST_CHARACTERS:
            return (
                f"{name}: expected at most {MOST_CHARACTERS} characters each, found "
                f"one of {longest:,}"
            )
    counts = {"labels": len(labels)} | {k: shape[0] for k, shape in tensors.items()}
    for name, count in counts.items():
        if count != len(ids):
            return f"{name}: expected {len(ids)} items as in ids, found {count}"
    return None


def write_gallery(
    out: Path,
    *,
    latents: Latents,
    ids: Sequence[str],
    labels: Sequence[str],
    images: Images | None = None,
    confidence: Confidence | None = None,
) -> str:
    """Write a gallery; it appears complete or not at all.

    Returns:
        Its sha256.

    Raises:
        ArtifactError: `out` exists, or cannot be written.
        TensorMismatchError: The items do not agree in number, or latents are not
            finite.
    """
    tensors: dict[str, Shaped[np.ndarray, "..."]] = {"latents": latents}
    if images is not None:
        tensors["images"] = images
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out}: expected no such folder yet, found one")
    if not np.isfinite(latents).all():
        raise TensorMismatchError(
            "latents", expected="finite numbers", found="others among them"
        )
    wrong = _check_items(ids, labels, {k: a.shape for k, a in tensors.items()})
    if wrong is not None:
        raise TensorMismatchError(
            "gallery", expected="consistent items", found=f"{wrong}"
        )
    with writing(out):
        data = _written(out, tensors, ids, labels, confidence)
    return hashlib.sha256(data).hexdigest()


def _written(
    out: Path,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    ids: Sequence[str],
    labels: Sequence[str],
    confidence: Confidence | None,
) -> bytes:
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            staging / GALLERY_TENSORS,
        )
        _, tokens, width = tensors["latents"].shape
        manifest = GalleryManifest(
            latent=LatentSpec(tokens=tokens, width=width),
            ids=tuple(ids),
            labels=tuple(labels),
            confidence=confidence,
            tensors=tuple(
                msgspec.convert(
                    {"name": name, "shape": array.shape, "dtype": array.dtype.name},
                    TensorSpec,
                )
                for name, array in sorted(tensors.items())
            ),
            files=seal(staging),
        )
        data = msgspec.json.encode(manifest)
        (staging / GALLERY).write_bytes(data)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return data


def open_gallery(
    folder: str | Path, latent: LatentSpec | None = None, *, trust: Trust = None
) -> Gallery:
    """Verify a gallery and map its private copy, which is gone with it.

    Args:
        folder: What `write_gallery` wrote.
        latent: The bundle's latents, which the gallery's must match.
        trust: Whose signature is demanded; None demands none.

    Raises:
        BundleError: The folder is not exactly what its manifest lists, is not signed
            as demanded, or its latents have another shape than the bundle's.
        UsageError: It is named by no path.
    """
    folder = folder_from("gallery", folder)
    data = read_manifest(folder, GALLERY, max_bytes=MAX_GALLERY_BYTES)
    # Before a word of it is believed.
    signer = signer_of(data, read_signature(folder), what=folder.name, trust=trust)
    what = str(folder / GALLERY)
    manifest = decode_once(data, GalleryManifest, what)
    sha256 = hashlib.sha256(data).hexdigest()
    copy = copy_verified(folder, GALLERY, manifest.files, name=sha256, cache=None)
    try:
        tensors = load_tensors(copy.folder, GALLERY_TENSORS, manifest.tensors)
        _check_tensors(manifest, tensors, latent, what)
        file, tensors = _mapped(copy.folder / GALLERY_TENSORS, tensors)
    finally:
        copy.remove()
    return Gallery(
        ids=manifest.ids,
        labels=manifest.labels,
        latents=tensors["latents"],
        images=tensors.get("images"),
        confidence=manifest.confidence,
        sha256=sha256,
        signer=signer,
        file=file,
    )


class _Place(msgspec.Struct, frozen=True):
    """Where a tensor lies in its file; nowhere, for what is no tensor."""

    data_offsets: tuple[int, int] = (0, 0)


def _mapped(
    path: Path, known: Mapping[str, Shaped[np.ndarray, "..."]]
) -> tuple[mmap.mmap, dict[str, Shaped[np.ndarray, "..."]]]:
    """Return a sound safetensors file, mapped, and the same tensors in it.

    Whoever searches a gallery has rows of its own and keeps the pictures' latents for
    those who ask for them: not in memory, then, beside the rows.
    """
    with path.open("rb") as stream:
        file = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    data = 8 + int.from_bytes(file[:8], "little")
    header = msgspec.json.decode(file[8:data], type=dict[str, _Place])
    tensors = {
        name: np.frombuffer(
            file, array.dtype, array.size, data + header[name].data_offsets[0]
        ).reshape(array.shape)
        for name, array in known.items()
    }
    return file, tensors


def _check_tensors(
    manifest: GalleryManifest,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    latent: LatentSpec | None,
    what: str,
) -> None:
    wanted = latent or manifest.latent
    if wanted != manifest.latent:
        raise BundleError(
            f"{what}: latent: expected {wanted.tokens} x {wanted.width} as in the "
            f"bundle, found {manifest.latent.tokens} x {manifest.latent.width}"
        )
    latents, images = tensors.get("latents"), tensors.get("images")
    shape = (len(manifest.ids), wanted.tokens, wanted.width)
    if latents is None or latents.shape != shape or latents.dtype != np.float32:
        found = None if latents is None else f"{latents.dtype} {list(latents.shape)}"
        raise BundleError(
            f"{GALLERY_TENSORS}: latents: expected float32 {list(shape)}, found {found}"
        )
    is_image = images is None or (images.ndim == 4 and images.shape[3] == 3)
    if not is_image or (images is not None and images.dtype != np.uint8):
        raise BundleError(
            f"{GALLERY_TENSORS}: images: expected uint8 [items, height, width, 3], "
            "found another"
        )
    wrong = _check_items(
        manifest.ids, manifest.labels, {k: a.shape for k, a in tensors.items()}
    )
    if wrong is not None:
        raise BundleError(f"{what}: {wrong}")
