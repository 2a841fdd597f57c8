"""The authors' released files as checkpoints of this project.

NeuroVAE's file holds ``model``; the flow's holds ``ema``, the averaged weights that
inference uses, and says in ``args`` how it was trained. Names and shapes are those of
our modules, so what is left to do is to check all of it and to write it down.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from runtime.errors import CheckpointError, UsageError
from training.checkpoint import Checkpoint, Origin, save_checkpoint
from training.config import PRESETS, ModelConfig, config_from_preset
from training.neurovae import NeuroVAE
from training.sit import SiT
from training.torch_file import open_torch_file, printable

SUBJECTS = MappingProxyType(
    {1: "paper-subj01", 2: "paper-subj02", 5: "paper-subj05", 7: "paper-subj07"}
)
"""Presets of the subjects whose models were released."""

NEUROVAE_FIELD = "model"
FLOW_FIELD = "ema"

DDP_PREFIX = "module."
"""Before every name where a model was saved from inside its data-parallel wrapper."""

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Released:
    """Weights of a released file, checked, and where they are from."""

    weights: dict[str, Tensor]
    """By our names; mapped from the file, not yet in memory."""
    step: int
    """Optimiser steps, 0 where the file does not say."""
    origin: Origin


def config_of_subject(subject: int) -> ModelConfig:
    """Return the configuration of a released model.

    Raises:
        UsageError: No model of this subject was released.
    """
    if subject not in SUBJECTS:
        known = ", ".join(str(known) for known in SUBJECTS)
        raise UsageError(f"subject: expected one of {known}, found {subject}")
    return config_from_preset(SUBJECTS[subject])


def import_released(
    neurovae: Path,
    xfm: Path,
    out: Path,
    subject: int,
    *,
    on_stage: Announce = lambda _line: None,
) -> tuple[Checkpoint, Checkpoint]:
    """Write OUT/vae and OUT/flow from the two released files, or nothing.

    Args:
        neurovae: Their ``last.pth``.
        xfm: Their ``last.pt``.
        out: The folder to write; must not exist, or be empty.
        subject: Whose models they are.
        on_stage: Is told what begins.

    Returns:
        What was written to both ``config.json``.

    Raises:
        CheckpointError: A file is missing, damaged, unsafe, or not this model.
        UsageError: `out` is in the way, or no model of this subject was released.
    """
    config = config_of_subject(subject)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: expected no folder or an empty one, found another")
    on_stage("check NeuroVAE's file")
    vae = read_neurovae(neurovae, config)
    on_stage("check the flow's file")
    flow = read_flow(xfm, config, subject)
    on_stage("write both checkpoints")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        both = Path(scratch) / out.name
        first = save_checkpoint(
            both / "vae",
            vae.weights,
            config,
            stage="vae",
            seed=config.vae_training.seed,
            step=vae.step,
            imported=vae.origin,
        )
        second = save_checkpoint(
            both / "flow",
            flow.weights,
            config,
            stage="flow",
            seed=config.flow_training.seed,
            step=flow.step,
            vae_fingerprint=first.fingerprint,
            imported=flow.origin,
        )
        both.replace(out)
    return first, second


def read_neurovae(path: Path, config: ModelConfig) -> Released:
    """Read and check NeuroVAE's released file.

    Raises:
        CheckpointError: Missing, damaged, unsafe, or not the NeuroVAE of `config`.
    """
    content = open_torch_file(path)
    with torch.device("meta"):
        expected = NeuroVAE(config.vae)
    weights = _weights(path, content, NEUROVAE_FIELD, expected, config.vae.voxels)
    # Their script saves epochs, whose length the file does not say.
    return Released(weights, 0, _origin(path, NEUROVAE_FIELD))


def read_flow(path: Path, config: ModelConfig, subject: int) -> Released:
    """Read and check the flow's released file.

    Raises:
        CheckpointError: Missing, damaged, unsafe, not the flow of `config`, or trained
            in another way or for another subject than `subject`.
    """
    content = open_torch_file(path)
    step = content.get("steps")
    if type(step) is not int or step < 0:
        found = "none" if "steps" not in content else printable(step)
        raise CheckpointError(f"{path}: steps: expected a number, found {found}")
    _check_flags(path, content.get("args"), config, subject)
    with torch.device("meta"):
        expected = SiT(config.flow)
    weights = _weights(path, content, FLOW_FIELD, expected)
    return Released(weights, step, _origin(path, FLOW_FIELD))


def _check_flags(path: Path, flags: object, config: ModelConfig, subject: int) -> None:
    """Compare what no tensor's shape shows with what their script wrote of itself."""
    if flags is None:
        return
    said = vars(flags) if isinstance(flags, argparse.Namespace) else flags
    if not isinstance(said, dict):
        raise CheckpointError(
            f"{path}: args: expected flags, found {type(said).__name__}"
        )
    expected = {
        "subject": subject,
        "path_type": "cosine",
        "prediction": "v",
        "model_depth": config.flow.depth,
        "model_head": config.flow.heads,
        "qk_norm": False,
        "zscore_clip": False,
    }
    for name, value in expected.items():
        found = said.get(name, value)
        if type(found) is not type(value) or found != value:
            raise CheckpointError(
                f"{path}: args.{name}: expected {value}, found {printable(found)}"
            )


def _weights(
    path: Path,
    content: Mapping[object, object],
    field: str,
    model: nn.Module,
    voxels: int | None = None,
) -> dict[str, Tensor]:
    """Return a field's tensors by our names, each of them checked."""
    if field not in content:
        there = printable(", ".join(sorted(str(key) for key in content))) or "none"
        raise CheckpointError(f"{path}: expected the field {field}, found {there}")
    named = content[field]
    if not isinstance(named, dict):
        raise CheckpointError(
            f"{path}: {field}: expected tensors by name, found {type(named).__name__}"
        )
    found = _unwrapped(named)
    expected = model.state_dict()
    checked, owners = {}, dict[int, str]()
    for name, wanted in expected.items():
        what = f"{path}: {field}.{name}: expected"
        if name not in found:
            raise CheckpointError(f"{what} a tensor, found none")
        tensor = found[name]
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{what} a tensor, found {type(tensor).__name__}")
        checked[name] = _like(what, tensor, wanted, voxels)
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise CheckpointError(
            f"{path}: {field}.{printable(unknown[0])}: expected no such tensor among "
            f"the {len(expected)} of this model, found one"
        )
    for name, tensor in checked.items():
        what = f"{path}: {field}.{name}: expected"
        owner = owners.setdefault(tensor.untyped_storage().data_ptr(), name)
        if owner != name:
            raise CheckpointError(f"{what} values of its own, found those of {owner}")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{what} finite values, found NaN or infinity")
    return checked


def _unwrapped(named: Mapping[object, object]) -> dict[object, object]:
    if all(isinstance(name, str) and name.startswith(DDP_PREFIX) for name in named):
        return {str(name)[len(DDP_PREFIX) :]: value for name, value in named.items()}
    return dict(named)


def _like(what: str, tensor: Tensor, wanted: Tensor, voxels: int | None) -> Tensor:
    """Return a tensor that is like the expected one in everything but its values."""
    found, shape = tuple(tensor.shape), tuple(wanted.shape)
    if found != shape:
        raise CheckpointError(f"{what} {shape}, found {found}{_hint(found, voxels)}")
    if tensor.dtype != wanted.dtype:
        raise CheckpointError(f"{what} {wanted.dtype}, found {tensor.dtype}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(
            f"{what} plain values, found {tensor.layout} on {tensor.device.type}"
        )
    # A file can store a tensor as the negative of what it holds.
    return tensor.detach().resolve_neg()


def _hint(shape: tuple[int, ...], voxels: int | None) -> str:
    for subject, preset in SUBJECTS.items():
        theirs = PRESETS[preset].vae.voxels
        if voxels is not None and theirs != voxels and theirs in shape:
            return f"; subject {subject} has {theirs} voxels"
    return ""


def _origin(path: Path, field: str) -> Origin:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Origin(file=path.name, field=field, sha256=digest)
