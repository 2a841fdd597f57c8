"""Writes a folder of prepared trials, and goes on where an interruption left it.

Nothing is a folder of trials before its manifest, which comes last. Until then
`progress.json` says how far the voxels and the latents are, each note after the data
that it speaks of.
"""

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped
from msgspec.structs import replace

from runtime.errors import ArtifactError
from runtime.private_file import replace_whole
from runtime.strict_json import decode_once
from training.data.files import create_array, describe, open_for_writing
from training.data.manifest import (
    MANIFEST,
    PROGRESS,
    ProgressNote,
    StoredArray,
    TrialsManifest,
)
from training.data.store import check_manifest, encode_manifest
from training.trials import check_finite, mean_of_rows

Rows = Int64[np.ndarray, " trials"]
_MODE: Final = 0o644


def require_place(folder: Path) -> bool:
    """Return whether a preparation was begun in a folder; it may also be none yet.

    Raises:
        ArtifactError: It is a file, or holds finished trials or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(
            f"{folder}: expected a folder, or none yet, found a file. "
            "Choose another --out"
        )
    if (folder / MANIFEST).exists():
        raise ArtifactError(
            f"{folder}: expected a new folder, found prepared trials. "
            "Choose another --out"
        )
    if (folder / PROGRESS).exists():
        return True
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(
            f"{folder}: expected a new or empty folder, found something else. "
            "Choose another --out"
        )
    return False


def require_room(folder: Path, wanted: int) -> None:
    """Refuse a place without room for some bytes, before hours of work for them.

    Raises:
        ArtifactError: Its disk has less.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise ArtifactError(
            f"{folder}: expected room for {wanted:,} bytes, found {free:,}"
        )


def _changed(note: Path, name: str) -> ArtifactError:
    return ArtifactError(
        f"{note}: {name}: expected what the preparation that was interrupted has read, "
        "found it changed since. Choose another --out"
    )


class TrialsWriter:
    """One preparation: declared, then filled block by block and image by image.

    Args:
        folder: Made where it is missing; must be empty or hold this preparation.
        manifest: All of it but `files`: what decides whether another may go on.
        trials: Rows of the arrays.
        latents: Images, tokens and width, and the type they are stored in.
        more: Large arrays beside these, by name without ``.npy``: type and shape. They
            are written by `write_rows`, all of them again where it goes on.
        inputs: What is read, by the name that a message has for it, and its
            `files.identity`: what goes on must read the same.
        later: Which of these are read only when `reads` says so: until then they may be
            replaced, because a damaged file has to be.

    Raises:
        ArtifactError: The folder holds something else, or an input has changed since
            it was begun, or the disk is too small.
    """

    def __init__(
        self,
        folder: Path,
        manifest: TrialsManifest,
        trials: int,
        latents: tuple[int, int, int],
        latent_dtype: str,
        more: Mapping[str, tuple[str, tuple[int, ...]]] = MappingProxyType({}),
        inputs: Mapping[str, str] = MappingProxyType({}),
        later: Collection[str] = (),
    ) -> None:
        self.folder, self._manifest = folder, manifest
        groups = len(manifest.groups)
        self._shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            "voxels": ("float32", (trials, manifest.voxels)),
            "mean": ("float32", (groups, manifest.voxels)),
            "std": ("float32", (groups, manifest.voxels)),
            "latents": (latent_dtype, latents),
            **more,
        }
        self._read: dict[str, Any] = {}
        self._note = self._begin(inputs, later)
        self._arrays: dict[str, np.memmap[Any, Any]] = {
            name: open_for_writing(folder / f"{name}.npy", dtype, shape)
            for name, (dtype, shape) in self._shapes.items()
        }

    @property
    def blocks_done(self) -> int:
        """Blocks of voxels that need not be written again."""
        return self._note.blocks

    @property
    def latents_done(self) -> int:
        """Images whose z_v need not be computed again."""
        return self._note.latents

    def reads(
        self, inputs: Mapping[str, str] = MappingProxyType({}), pictures: str = ""
    ) -> None:
        """Say what the next block is made of; noted once that is on disk.

        Args:
            inputs: As of `TrialsWriter`.
            pictures: A hash of all pictures up to the last of the block.
        """
        self._read = {
            "inputs": {**self._note.inputs, **inputs},
            "pictures": pictures or self._note.pictures,
        }

    def require_pictures(self, name: str, pictures: str) -> None:
        """Refuse other pictures than those whose z_v is on disk.

        Raises:
            ArtifactError: Their hash is another.
        """
        if pictures != self._note.pictures:
            raise _changed(self.folder / PROGRESS, name)

    def _begin(self, inputs: Mapping[str, str], later: Collection[str]) -> ProgressNote:
        folder = self.folder
        is_begun = require_place(folder)
        task = hashlib.sha256(
            msgspec.json.encode([self._manifest, self._shapes], order="sorted")
        ).hexdigest()
        file = folder / PROGRESS
        first = {name: one for name, one in inputs.items() if name not in later}
        if is_begun:
            note = decode_once(file.read_bytes(), ProgressNote, str(file))
            if note.task_sha256 != task:
                raise ArtifactError(
                    f"{file}: task: expected the preparation that was interrupted, "
                    "found another one's arguments. Choose another --out"
                )
            for name in sorted(note.inputs.keys() | first.keys()):
                if note.inputs.get(name) != inputs.get(name):
                    raise _changed(file, name)
            if note.blocks or note.latents:
                return note
        else:
            note = ProgressNote(task_sha256=task, blocks=0, latents=0, inputs=first)
            folder.mkdir(parents=True, exist_ok=True)
            # Before the arrays, so that what finds no room for them can go on.
            self._say(note)
        for name, (dtype, shape) in self._shapes.items():
            create_array(folder / f"{name}.npy", dtype, shape)
        return note

    def _say(self, note: ProgressNote) -> None:
        replace_whole(self.folder / PROGRESS, msgspec.json.encode(note), _MODE)
        self._note, self._read = note, {}

    def write_statistics(
        self,
        group: int,
        mean: Float32[np.ndarray, " voxels"],
        std: Float32[np.ndarray, " voxels"],
    ) -> None:
        """Write what undoes the normalisation of a group."""
        self._arrays["mean"][group] = mean
        self._arrays["std"][group] = std

    def write_voxels(
        self, rows: Rows, voxels: Float32[np.ndarray, "trials voxels"], block: int
    ) -> None:
        """Write the trials of a block (a session or a run) where they belong.

        Raises:
            TensorMismatchError: A value is not finite.
        """
        check_finite(f"voxels of block {block}", voxels)
        self._arrays["voxels"][rows] = voxels
        for name in ("voxels", "mean", "std"):
            self._arrays[name].flush()
        self._say(replace(self._note, blocks=block + 1, **self._read))
        self._reopen("voxels")

    def write_latents(
        self, first: int, z_v: Float[np.ndarray, "images tokens width"]
    ) -> None:
        """Write z_v of the next images, in order.

        Raises:
            ArtifactError: They are not the next ones.
            TensorMismatchError: A value is not finite, in the type it is stored in.
        """
        if first != self.latents_done:
            raise ArtifactError(
                f"{self.folder / 'latents.npy'}: expected image {self.latents_done} "
                f"next, found {first}"
            )
        target = self._arrays["latents"]
        with np.errstate(over="ignore"):
            stored = z_v.astype(target.dtype)
        # An overflow of float16 is an infinity and is seen here.
        check_finite(f"latents from image {first} as {target.dtype}", stored)
        target[first : first + len(stored)] = stored
        target.flush()
        self._say(replace(self._note, latents=first + len(stored), **self._read))
        self._reopen("latents")

    def write_rows(
        self, name: str, first: int, rows: Shaped[np.ndarray, "rows ..."]
    ) -> None:
        """Write rows of an array beside the voxels and latents."""
        self._arrays[name][first : first + len(rows)] = rows
        self._arrays[name].flush()
        self._reopen(name)

    def _reopen(self, name: str) -> None:
        # Pages that were written stay in this process until the map goes.
        file = self.folder / f"{name}.npy"
        self._arrays[name] = open_for_writing(file, *self._shapes[name])

    def finish(
        self,
        indices: dict[str, Rows],
        train_images: Int64[np.ndarray, " images"],
        optional: Mapping[str, Shaped[np.ndarray, "..."] | None] = MappingProxyType({}),
        on_file: Callable[[int, int], None] | None = None,
    ) -> TrialsManifest:
        """Write the small arrays, hash everything, and say that it is done.

        Args:
            indices: ``image``, ``group``, ``run`` and ``position`` of every trial.
            train_images: Rows of latents over which the mean of z_v is taken.
            optional: Files of `training.data.store.OPTIONAL` by name without
                ``.npy``; None where there is none.
            on_file: Told after each file that was hashed.
        """
        self._arrays.clear()
        latents = np.load(
            self.folder / "latents.npy", mmap_mode="r", allow_pickle=False
        )
        small: dict[str, Shaped[np.ndarray, "..."]] = {
            **indices,
            "latent_mean": mean_of_rows(latents, train_images),
        }
        small |= {name: a for name, a in optional.items() if a is not None}
        for name, array in small.items():
            np.save(self.folder / f"{name}.npy", array, allow_pickle=False)
        files: dict[str, StoredArray] = {}
        names = [*self._shapes, *small]
        for done, name in enumerate(names, start=1):
            file = self.folder / f"{name}.npy"
            mapped = np.load(file, mmap_mode="r", allow_pickle=False)
            files[file.name] = describe(file, mapped)
            if on_file is not None:
                on_file(done, len(names))
        manifest = replace(self._manifest, files=files)
        check_manifest(manifest, str(self.folder / MANIFEST))
        replace_whole(self.folder / MANIFEST, encode_manifest(manifest), _MODE)
        (self.folder / PROGRESS).unlink()
        return manifest
