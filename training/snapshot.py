"""Snapshots: everything that a run needs in order to go on, bit for bit.

A snapshot is ``snapshot.json``, which names the one tensor file that belongs to it. The
tensors are written first and the JSON is replaced last, so that a process that dies at
any instant leaves the old snapshot or the new one. Holds raw weights, which are for
resumption only; inference uses `training.checkpoint`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from torch import Tensor

from runtime.errors import CheckpointError, ConfigError
from training.checkpoint import StageName, read_tensors, save_tensors, write_bytes
from training.compute import AS_PUBLISHED
from training.config import ModelConfig
from training.provenance import Rate

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
    step: Annotated[int, msgspec.Meta(ge=0)]
    """Optimiser steps taken."""
    tensors: str
    """Name of the tensor file in the same folder."""
    config: ModelConfig | None = None
    """The run's configuration; None in snapshots of before it was kept."""
    rates: tuple[Rate, ...] = ()
    """Its learning rates so far."""
    sha256: str | None = None
    """Of the tensor file; None in snapshots of before it was kept."""


def save_snapshot(
    folder: Path,
    run: RunIdentity,
    step: int,
    tensors: Mapping[str, Tensor],
    config: ModelConfig | None = None,
    rates: tuple[Rate, ...] = (),
) -> None:
    """Replace the folder's snapshot."""
    name = f"snapshot-{step}.safetensors"
    save_tensors(folder / name, tensors)
    snapshot = Snapshot(
        run=run,
        step=step,
        tensors=name,
        config=config,
        rates=rates,
        sha256=_sha256(folder / name),
    )
    text = msgspec.json.format(msgspec.json.encode(snapshot), indent=2)
    write_bytes(folder / MANIFEST, text + b"\n")
    for old in folder.glob("snapshot-*.safetensors*"):
        if old.name != name:
            old.unlink()


def forget_snapshot(folder: Path) -> None:
    """Remove the folder's snapshot, so that no later run goes on from it."""
    (folder / MANIFEST).unlink(missing_ok=True)


def load_snapshot(
    folder: Path,
    run: RunIdentity,
    config: ModelConfig | None = None,
    steps: int | None = None,
) -> tuple[Snapshot, dict[str, Tensor]] | None:
    """Return the folder's snapshot, or None where there is none yet.

    The tensors are a map of the file for as long as one of them is held.

    Args:
        folder: Of the run.
        run: The run that is to go on.
        config: Its configuration, which may have another learning rate than the
            snapshot's, and is otherwise told from it field by field.
        steps: Of the whole run.

    Raises:
        CheckpointError: It is damaged, or belongs to another run.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        snapshot = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: expected a snapshot, found another: {error}"
        ) from error
    if Path(snapshot.tensors).name != snapshot.tensors:
        raise CheckpointError(
            f"{path}: tensors: expected a file name, found {snapshot.tensors}"
        )
    for field in run.__struct_fields__:
        wanted, found = getattr(run, field), getattr(snapshot.run, field)
        name = field
        if wanted != found and field == "config" and config and snapshot.config:
            name, wanted, found = _difference(config, snapshot.config, run.stage)
        if wanted != found:
            raise CheckpointError(
                f"{path}: {name}: expected {_short(wanted)}, found {_short(found)}. "
                "Choose an empty folder, or start anew without resuming."
            )
    if steps is not None and snapshot.step > steps:
        raise CheckpointError(
            f"{path}: step: expected at most {steps}, found {snapshot.step}"
        )
    file = folder / snapshot.tensors
    tensors = read_tensors(file)
    if snapshot.sha256 is not None and (found := _sha256(file)) != snapshot.sha256:
        raise CheckpointError(
            f"{file}: expected sha256 {snapshot.sha256[:12]} as in {MANIFEST}, found "
            f"{found[:12]}: it was changed or damaged. Start anew without resuming"
        )
    return snapshot, tensors


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _difference(
    wanted: ModelConfig, found: ModelConfig, stage: StageName
) -> tuple[str, str, str]:
    """Return the first field that differs, and both values; the same if none does.

    A stage's own learning rate is none: with a lower one a run may go on.
    """
    ours, theirs = (dict(_fields(msgspec.to_builtins(one))) for one in (wanted, found))
    for name in ours | theirs:
        one, other = (str(side.get(name, "none")) for side in (ours, theirs))
        if one != other and name != f"{stage}_training.learning_rate":
            return name, one, other
    return "config", "", ""


def _fields(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
