"""Writing a day's calibration overlay; `runtime.overlay` says what one is."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from runtime.bundle import Bundle
from runtime.calibration import Calibration
from runtime.errors import ArtifactError
from runtime.estimator import estimator_sha256
from runtime.identification import CONFIDENCE
from runtime.manifest import TensorSpec
from runtime.overlay import (
    CORRECTION,
    OVERLAY,
    OVERLAY_TENSORS,
    GainSpec,
    OverlayManifest,
    Part,
    TrialsSpec,
    decode_overlay,
)
from runtime.sealed import seal
from runtime.writing import writing


def write_overlay(
    out: Path,
    calibration: Calibration,
    bundle: Bundle,
    *,
    label: str,
    created: str,
    runs: tuple[str, ...],
) -> str:
    """Write a day's overlay; it appears complete or not at all.

    Args:
        out: The folder.
        calibration: What was fitted and what it gained.
        bundle: For which.
        label: The day or session.
        created: ISO date.
        runs: Names of the runs that it was fitted on.

    Returns:
        Its sha256.

    Raises:
        ArtifactError: `out` exists or cannot be written, or a name is longer than
            `runtime.overlay.MAX_TEXT`.
    """
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out}: expected no such folder yet, found one")
    with writing(out):
        return _written(out, calibration, bundle, label, created, runs)


def _written(
    out: Path,
    calibration: Calibration,
    bundle: Bundle,
    label: str,
    created: str,
    runs: tuple[str, ...],
) -> str:
    affine, correction = calibration.space.affine, calibration.correction
    tensors = {"voxel_mean": affine.mean, "voxel_scale": affine.scale}
    holds: tuple[Part, ...] = ("normalisation",)
    if correction is not None:
        holds = ("normalisation", "correction")
        factors = (correction.reads, correction.writes)
        tensors |= dict(zip(CORRECTION, factors, strict=True))
    found, gain = calibration.findings, calibration.findings.gain
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            staging / OVERLAY_TENSORS,
        )
        manifest = OverlayManifest(
            bundle_sha256=bundle.sha256,
            estimator_sha256=estimator_sha256(bundle.manifest.estimator),
            voxels=bundle.manifest.voxels.count,
            subject=bundle.manifest.subject,
            label=label,
            created=created,
            holds=holds,
            penalty=calibration.penalty,
            gain=GainSpec(
                measure="identification_z_n",
                without=found.without,
                reached=found.reached,
                mean=gain.mean,
                low=gain.low,
                high=gain.high,
                confidence=CONFIDENCE,
            ),
            trials=TrialsSpec(count=found.trials, images=found.images, runs=runs),
            tensors=tuple(
                TensorSpec(name=name, shape=array.shape)
                for name, array in sorted(tensors.items())
            ),
            files=seal(staging),
        )
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        # What could never be opened again is not written.
        decode_overlay(data)
        (staging / OVERLAY).write_bytes(data)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return hashlib.sha256(data).hexdigest()
