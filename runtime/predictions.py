"""What a model predicts of images, and a folder that keeps it from day to day.

A prediction depends on the bundle and the image alone, and costs an evaluation of the
flow. So it can be made before the participant comes. One file an image, named by the
sha256 of its z_v, with a header that names the bundle: other weights, another solver or
number of steps are another bundle. A cache of what can be made again, and not a source
of truth: no signature covers it, and it belongs where only the rig's user writes.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from runtime.arrays import Float32
from runtime.encoder import EncodingModel
from runtime.errors import ArtifactError, BundleError, TensorMismatchError
from runtime.sealed import read_plain
from runtime.strict_json import decode_once

_SUFFIX: Final = ".safetensors"
_MAX_HEADER: Final = 4096
"""Bytes; it takes 400."""
_REMEDY: Final = "Remove it, and prepare it again"

Latent = Float32[np.ndarray, "tokens width"]
Latents = Float32[np.ndarray, "images tokens width"]
Progress = Callable[[int, int], None]
"""Called with images that are done, and all of them."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model expects of each of some images."""

    z_n: Latents = field(repr=False)
    voxels: Float32[np.ndarray, "images voxels"] = field(repr=False)
    """Responses, in the model's units."""


class _Header(msgspec.Struct, frozen=True):
    """What a file's header says beside its tensors, which safetensors reads."""

    metadata: dict[str, str] = msgspec.field(
        name="__metadata__", default_factory=dict[str, str]
    )


@final
@dataclass(frozen=True, slots=True)
class PredictionFolder:
    """One bundle's predictions on disk."""

    folder: Path
    bundle_sha256: str
    tokens: int
    width: int
    voxels: int

    def holds(self, z_v: Latent) -> bool:
        """Say whether there is a file of an image, sound or not."""
        return os.path.lexists(self._file(z_v))

    def read(self, z_v: Latent) -> Predictions:
        """Return the prediction of one image.

        Raises:
            ArtifactError: There is none, it is damaged, or another bundle's or image's.
        """
        file = self._file(z_v)
        bound = 4 * (self.tokens * self.width + self.voxels) + _MAX_HEADER
        data = read_plain(self.folder, file.name, max_bytes=bound)
        try:
            arrays = load(data)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"{file.name}: expected safetensors, found {error}. {_REMEDY}"
            ) from error
        length = int.from_bytes(data[:8], "little")
        said = decode_once(data[8 : 8 + length], _Header, file.name).metadata
        self._require_ours(file.name, said)
        shapes = {"z_n": (1, self.tokens, self.width), "voxels": (1, self.voxels)}
        for name, shape in shapes.items():
            array = arrays.get(name)
            if array is None or array.shape != shape or array.dtype != np.float32:
                shown = "none"
                if array is not None:
                    shown = f"{array.dtype} {list(array.shape)}"
                raise ArtifactError(
                    f"{file.name}: {name}: expected float32 {list(shape)}, "
                    f"found {shown}. {_REMEDY}"
                )
        prediction = Predictions(arrays["z_n"], arrays["voxels"])
        digest = self._digest(z_v, prediction)
        if said.get("sha256") != digest:
            raise ArtifactError(
                f"{file.name}: expected sha256 {said.get('sha256', 'none')[:12]} as it "
                f"says, found {digest[:12]}. {_REMEDY}"
            )
        return prediction

    def keep(self, z_v: Latent, prediction: Predictions) -> None:
        """Write the prediction of one image; it appears complete or not at all.

        Raises:
            ArtifactError: The folder cannot be written.
            TensorMismatchError: The prediction is not finite.
        """
        arrays = {"z_n": prediction.z_n, "voxels": prediction.voxels}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise TensorMismatchError(
                "prediction", expected="finite numbers", found="others among them"
            )
        said = {
            "bundle_sha256": self.bundle_sha256,
            "sha256": self._digest(z_v, prediction),
        }
        data = save({k: np.ascontiguousarray(a) for k, a in arrays.items()}, said)
        file = self._file(z_v)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, staging = tempfile.mkstemp(prefix=".", dir=self.folder)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(staging).rename(file)
            finally:
                Path(staging).unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"{self.folder}: expected a place to write, found {error.strerror}"
            ) from error

    def require_own(self) -> None:
        """Refuse a folder whose first file is another bundle's.

        Each is looked at when it is read; this is to say so before long work.

        Raises:
            ArtifactError: It is.
        """
        first = next(iter(sorted(self.folder.glob("*" + _SUFFIX))), None)
        if first is None or not first.is_file():
            return
        with first.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = stream.read(min(length, _MAX_HEADER))
        with contextlib.suppress(BundleError):
            said = decode_once(head, _Header, first.name).metadata
            self._require_ours(first.name, said)

    def _require_ours(self, name: str, said: dict[str, str]) -> None:
        found = said.get("bundle_sha256", "")
        if found != self.bundle_sha256:
            raise ArtifactError(
                f"{name}: expected a prediction of bundle {self.bundle_sha256[:12]}, "
                f"found one of {found[:12] or 'none'}. Prepare another folder with "
                "this bundle"
            )

    def _file(self, z_v: Latent) -> Path:
        return self.folder / (_sha256(_bytes(z_v)) + _SUFFIX)

    def _digest(self, z_v: Latent, prediction: Predictions) -> str:
        arrays = (z_v, prediction.z_n, prediction.voxels)
        return _sha256(self.bundle_sha256.encode(), *(_bytes(one) for one in arrays))


def _bytes(array: Float32[np.ndarray, "..."]) -> bytes:
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def predict(model: EncodingModel, z_v: Latent) -> Predictions:
    """Return what a model expects of one image: an evaluation of its flow."""
    z_n = model.encode_latent(z_v)
    return Predictions(z_n[None], model.predict_voxels(z_n)[None])


def predict_all(
    model: EncodingModel,
    latents: Latents,
    on_progress: Progress = lambda _done, _total: None,
) -> Predictions:
    """Return what a model expects of each image.

    Args:
        model: An opened model.
        latents: z_v of each.
        on_progress: Told after each.
    """
    found = []
    for z_v in latents:
        found.append(predict(model, z_v))
        on_progress(len(found), len(latents))
    return _joined(found)


def prepared(
    kept: PredictionFolder, latents: Latents, names: Sequence[str]
) -> Predictions:
    """Return what a folder keeps of images, all of them.

    Args:
        kept: The folder.
        latents: z_v of each image.
        names: What to call each in an error.

    Raises:
        ArtifactError: Some are missing, damaged or another bundle's.
    """
    pairs = list(zip(names, latents, strict=True))
    missing = [name for name, z_v in pairs if not kept.holds(z_v)]
    if missing:
        kept.require_own()
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ArtifactError(
            f"{kept.folder}: expected predictions of {len(names)} images, found none "
            f"of {missing[0]}{more}. Prepare them with prepare-calibration"
        )
    return _joined([kept.read(z_v) for z_v in latents])


def prepare(
    kept: PredictionFolder,
    model: EncodingModel,
    latents: Sequence[Latent],
    on_progress: Progress = lambda _done, _total: None,
) -> int:
    """Keep what a model expects of images, and leave what is kept already.

    Args:
        kept: The folder; one that was interrupted is gone on with.
        model: The bundle's.
        latents: z_v of each.
        on_progress: Told after each, kept before or not.

    Returns:
        How many were computed.

    Raises:
        ArtifactError: What is kept is damaged or another bundle's, or the folder
            cannot be written.
        TensorMismatchError: A prediction is not finite.
    """
    computed = 0
    for done, z_v in enumerate(latents, 1):
        if kept.holds(z_v):
            kept.read(z_v)
        else:
            kept.keep(z_v, predict(model, z_v))
            computed += 1
        on_progress(done, len(latents))
    return computed


def _joined(found: Sequence[Predictions]) -> Predictions:
    return Predictions(
        np.concatenate([one.z_n for one in found]),
        np.concatenate([one.voxels for one in found]),
    )
