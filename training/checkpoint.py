"""Checkpoints: a folder of ``weights.safetensors`` and ``config.json``, never a pickle.

The fingerprint ties the two files together, and later a bundle to its checkpoints.
What a run needs in order to resume is not here but in `training.snapshot`.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runtime.errors import CheckpointError, ConfigError
from training.compute import AS_PUBLISHED, Compute
from training.config import ModelConfig
from training.neurovae import NeuroVAE
from training.provenance import Rate, Stopped, Synthetic
from training.sit import SiT

WEIGHTS = "weights.safetensors"
MANIFEST = "config.json"
NEXT_WEIGHTS, NEXT_MANIFEST = f"next-{WEIGHTS}", f"next-{MANIFEST}"
"""What is to replace them: a full disk is met before anything older is touched."""

StageName = Literal["vae", "flow"]
AnyModule = TypeVar("AnyModule", bound=nn.Module)

_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".bin")
# A zip archive, which is what torch.save writes, and the protocols 2 to 5 of pickle.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The released file that imported weights are from; see `training.released`."""

    file: str
    """Its name, without the folder."""
    field: str
    """Which of the state dicts in it."""
    sha256: str
    """Of the whole file."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``config.json`` says about the weights beside it."""

    schema: Literal[1] = 1
    """Version of this layout."""
    stage: StageName
    """Which of the two models the weights belong to."""
    config: ModelConfig
    """The whole model and how it is trained."""
    seed: int
    """Seed of the run."""
    step: int
    """Optimiser steps that the weights have taken; 0 where an imported file does not
    say, that of the best weights where they were judged."""
    versions: dict[str, str]
    """Versions of what wrote the weights, by library."""
    vae_fingerprint: str | None = None
    """For a flow, the checkpoint whose encoder gave it z_n."""
    imported: Origin | None = None
    """Where the weights came from, unless they were trained here."""
    compute: Compute = AS_PUBLISHED
    """How the weights were computed."""
    stopped: Stopped | None = None
    """When training ended and why, where it was judged on held-out images."""
    synthetic: Synthetic | None = None
    """The trials among those it learned from that nobody measured."""
    rates: tuple[Rate, ...] = ()
    """Learning rates, where they changed on the way; else the configuration's."""
    fingerprint: str
    """sha256 over the weights' bytes followed by the canonical configuration."""


def library_versions() -> dict[str, str]:
    """Return the versions that a checkpoint records."""
    return {
        "python": platform.python_version(),
        "safetensors": safetensors.__version__,
        "torch": str(torch.__version__),
    }


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    *,
    stage: StageName,
    seed: int,
    step: int,
    vae_fingerprint: str | None = None,
    imported: Origin | None = None,
    compute: Compute = AS_PUBLISHED,
    stopped: Stopped | None = None,
    synthetic: Synthetic | None = None,
    rates: tuple[Rate, ...] = (),
) -> Checkpoint:
    """Write a checkpoint: the folder holds the older one or the new one, whole.

    Args:
        folder: Made where it does not exist; an older checkpoint in it is replaced.
        weights: The state dict that inference uses (for a flow, the average).
        config: The configuration of both models.
        stage: Which model this is.
        seed: Seed of the run.
        step: Optimiser steps taken.
        vae_fingerprint: For a flow, the fingerprint of its VAE.
        imported: The released file that the weights are from, if they are.
        compute: How the weights were computed.
        stopped: When training ended and why, where it was judged.
        synthetic: The trials that nobody measured, where there are any.
        rates: Learning rates, where they changed on the way.

    Returns:
        What was written to ``config.json``.

    Raises:
        CheckpointError: The weights are not finite, or cannot be written, on a full
            disk for example; an older checkpoint in the folder is then as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_finite(folder / WEIGHTS, weights)
    if _is_half_replaced(folder):
        (folder / NEXT_MANIFEST).replace(folder / MANIFEST)
    try:
        save_tensors(folder / NEXT_WEIGHTS, weights)
        manifest = Checkpoint(
            stage=stage,
            config=config,
            seed=seed,
            step=step,
            versions=library_versions(),
            vae_fingerprint=vae_fingerprint,
            imported=imported,
            compute=compute,
            stopped=stopped,
            synthetic=synthetic,
            rates=rates,
            fingerprint=_fingerprint(folder / NEXT_WEIGHTS, config),
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        write_bytes(folder / NEXT_MANIFEST, text + b"\n")
    except BaseException:
        # In this order, and the older checkpoint is whole at every instant.
        (folder / NEXT_MANIFEST).unlink(missing_ok=True)
        (folder / NEXT_WEIGHTS).unlink(missing_ok=True)
        raise
    (folder / NEXT_WEIGHTS).replace(folder / WEIGHTS)
    # Whoever reads between the two finds the new manifest by `_is_half_replaced`.
    (folder / NEXT_MANIFEST).replace(folder / MANIFEST)
    return manifest


def _is_half_replaced(folder: Path) -> bool:
    """Say whether the weights are new and their manifest is still beside the old one.

    The manifest is written after the weights and renamed after them, so that it stands
    alone only between the two renames, where a process may have died.
    """
    return (folder / NEXT_MANIFEST).is_file() and not (folder / NEXT_WEIGHTS).exists()


def load_neurovae(folder: Path) -> tuple[NeuroVAE, Checkpoint]:
    """Open a NeuroVAE checkpoint on the CPU, in evaluation mode.

    Raises:
        CheckpointError: Missing, damaged, a pickle, another model's, or not finite.
    """
    manifest = read_manifest(folder, "vae")
    with torch.device("meta"):
        vae = NeuroVAE(manifest.config.vae)
    return _filled(vae, folder, manifest), manifest


def load_flow(folder: Path) -> tuple[SiT, Checkpoint]:
    """Open a flow checkpoint, the averaged weights, on the CPU in evaluation mode.

    Raises:
        CheckpointError: Missing, damaged, a pickle, another model's, or not finite.
    """
    manifest = read_manifest(folder, "flow")
    with torch.device("meta"):
        field = SiT(manifest.config.flow)
    return _filled(field, folder, manifest), manifest


def read_manifest(folder: Path, stage: StageName) -> Checkpoint:
    """Read ``config.json`` and check that it is of `stage`.

    Raises:
        CheckpointError: Missing, unreadable, or of the other stage.
    """
    refuse_pickle(folder)
    path = folder / (NEXT_MANIFEST if _is_half_replaced(folder) else MANIFEST)
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: expected a checkpoint folder with {WEIGHTS} and {MANIFEST}, "
            f"found {f'no {MANIFEST}' if folder.is_dir() else 'no folder'}"
        )
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint manifest, found another: {error}"
        ) from error
    if manifest.stage != stage:
        raise CheckpointError(f"{path}: expected stage {stage}, found {manifest.stage}")
    return manifest


def refuse_pickle(path: Path) -> None:
    """Refuse a file that looks like a pickle, by its name or by its first bytes.

    Raises:
        CheckpointError: It does.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix in _PICKLE_SUFFIXES or magic.startswith(_PICKLE_MAGIC):
        raise CheckpointError(
            f"{path}: expected safetensors, found a pickle, which can run code when it "
            "is opened. Train it here, or convert its tensors to safetensors."
        )


def check_tensors(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Compare names, shapes and dtypes of a file with what a model has.

    Raises:
        CheckpointError: The first difference, naming the file.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: expected tensor {name}, found none")
        wanted = (tuple(tensor.shape), tensor.dtype)
        present = (tuple(found[name].shape), found[name].dtype)
        if wanted != present:
            raise CheckpointError(
                f"{path}: {name}: expected {wanted[1]} {wanted[0]}, "
                f"found {present[1]} {present[0]}"
            )
    unknown = sorted(found.keys() - expected.keys())
    if unknown:
        raise CheckpointError(
            f"{path}: expected {len(expected)} tensors of this model, "
            f"found also {unknown[0]}"
        )


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None for none."""
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            return name
    return None


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that no model can compute with.

    Args:
        path: The file that holds or is to hold them, for the message.
        weights: By name.

    Raises:
        CheckpointError: The first tensor that holds NaN or infinity.
    """
    name = not_finite(weights)
    if name is not None:
        raise CheckpointError(
            f"{path}: {name}: expected finite weights, found NaN or infinity"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        CheckpointError: Missing, damaged, or a pickle.
    """
    refuse_pickle(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found none")
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path}: expected safetensors, found a damaged file: {error}"
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, complete or not at all.

    Raises:
        CheckpointError: It cannot be written.
    """
    whole = {name: value.detach().contiguous() for name, value in tensors.items()}
    partial = path.with_name(path.name + ".part")
    try:
        save_file(whole, partial)
    except safetensors.SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: expected to write it, found {error}") from error
    _commit(partial, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, complete or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    _commit(partial, path)


def _commit(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _fingerprint(weights: Path, config: ModelConfig) -> str:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(config.canonical())
    return digest.hexdigest()


def _filled(module: AnyModule, folder: Path, manifest: Checkpoint) -> AnyModule:
    path = folder / WEIGHTS
    weights = read_tensors(path)
    found = _fingerprint(path, manifest.config)
    if found != manifest.fingerprint:
        raise CheckpointError(
            f"{path}: expected fingerprint {manifest.fingerprint[:12]} with this "
            f"{MANIFEST}, found {found[:12]}. One of the two files was changed."
        )
    check_tensors(path, weights, module.state_dict())
    check_finite(path, weights)
    module.load_state_dict(weights, assign=True)
    return module.eval()
