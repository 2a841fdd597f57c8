"""Snapshots: everything that a run needs in order to go on, bit for bit.

A snapshot is ``snapshot.json``, which names the one tensor file that belongs to it. The
tensors are written first and the JSON is replaced last, so that a process that dies at
any instant leaves the old snapshot or the new one. Holds raw weights, which are for
resumption only; inference uses `training.checkpoint`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from torch import Tensor

from runtime.errors import CheckpointError
from training.checkpoint import StageName, read_tensors, save_tensors, write_bytes
from training.compute import AS_PUBLISHED

MANIFEST = "snapshot.json"


class RunIdentity(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What must be the same for a run to go on."""

    stage: StageName
    """Which stage."""
    config: str
    """Fingerprint of the configuration."""
    trials: str
    """Digest of the trials."""
    vae: str = ""
    """Fingerprint of the frozen VAE; empty in stage 1."""
    compute: str = AS_PUBLISHED.identity
    """What of `training.compute.Compute` changes numbers."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``snapshot.json`` says."""

    schema: Literal[1] = 1
    """Version of this layout."""
    run: RunIdentity
    """The run that it belongs to."""
    step: int
    """Optimiser steps taken."""
    tensors: str
    """Name of the tensor file in the same folder."""


def save_snapshot(
    folder: Path, run: RunIdentity, step: int, tensors: Mapping[str, Tensor]
) -> None:
    """Replace the folder's snapshot."""
    name = f"snapshot-{step}.safetensors"
    save_tensors(folder / name, tensors)
    snapshot = Snapshot(run=run, step=step, tensors=name)
    text = msgspec.json.format(msgspec.json.encode(snapshot), indent=2)
    write_bytes(folder / MANIFEST, text + b"\n")
    for old in folder.glob("snapshot-*.safetensors*"):
        if old.name != name:
            old.unlink()


def load_snapshot(
    folder: Path, run: RunIdentity
) -> tuple[Snapshot, dict[str, Tensor]] | None:
    """Return the folder's snapshot, or None where there is none yet.

    Raises:
        CheckpointError: It is damaged, or belongs to another run.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        snapshot = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: expected a snapshot, found another: {error}"
        ) from error
    if Path(snapshot.tensors).name != snapshot.tensors:
        raise CheckpointError(
            f"{path}: tensors: expected a file name, found {snapshot.tensors}"
        )
    for field in run.__struct_fields__:
        wanted, found = getattr(run, field), getattr(snapshot.run, field)
        if wanted != found:
            raise CheckpointError(
                f"{path}: {field}: expected {_short(wanted)}, found {_short(found)}. "
                "Choose an empty folder, or start anew without resuming."
            )
    return snapshot, read_tensors(folder / snapshot.tensors)


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
