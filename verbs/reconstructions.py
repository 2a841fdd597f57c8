"""Pictures that were rendered elsewhere, and the latents that they are rendered from.

Latents of OpenCLIP become pictures in a diffusion model, which is not part of this. An
evaluation writes what it decoded, one tensor an image, and judges what comes back.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from safetensors.numpy import save_file

from runtime.errors import ArtifactError, RecordingError, UsageError
from runtime.writing import writing
from training.metrics.result import Absent, RenderedElsewhere
from training.pictures import read_picture
from verbs.split_trials import Latents, SplitTrials

FLAG: Final = "--reconstructions"
LATENTS: Final = "decoded_latents.safetensors"
MAX_SIDE: Final = 1024
"""Pixels along each side: what SDXL draws; the papers judge 256."""


@dataclass(frozen=True, slots=True, eq=False)
class Reconstructions:
    """One picture an image of a split, and which set of files it is."""

    pictures: UInt8[np.ndarray, "images side side 3"]
    record: RenderedElsewhere


def read_reconstructions(folder: Path, trials: SplitTrials) -> Reconstructions:
    """Read a picture for each image of a split, named by the image's name.

    Args:
        folder: PNG or JPEG files of RGB, square, all of one size, and nothing else. A
            name with a slash is a file of a folder in it.
        trials: Whose images; these have the pictures that were shown.

    Raises:
        UsageError: No folder, or the trials keep no pictures to hold others against.
        ArtifactError: An image has no picture or several, a file is of no image, or one
            is damaged, not RGB, not square, too large or of another size.
    """
    if isinstance(trials.pictures, Absent):
        raise UsageError(
            f"{FLAG}: expected trials that keep the pictures shown, found none "
            f"({trials.pictures.reason})"
        )
    if not folder.is_dir():
        raise UsageError(f"{FLAG}: expected a folder of pictures, found no {folder}")
    files = _by_image(folder, trials.names)
    digests, out = {}, np.empty((0, 0, 0, 3), np.uint8)
    for row, file in enumerate(files):
        picture, digest = _read(file)
        digests[file.relative_to(folder).as_posix()] = digest
        if not row:
            _check_square(file, picture)
            out = np.empty((len(files), *picture.shape), np.uint8)
        elif picture.shape != out.shape[1:]:
            raise ArtifactError(
                f"{file}: expected {_size(out[0])} pixels as {files[0].name}, found "
                f"{_size(picture)}. Render all in one size"
            )
        out[row] = picture
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    record = RenderedElsewhere(
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        images=len(files),
        side=out.shape[1],
    )
    return Reconstructions(out, record)


def write_latents(
    folder: Path, names: Sequence[str], latents: Latents, said: Mapping[str, str]
) -> Path:
    """Write z_v of each image under its name, float32, tokens x width.

    Args:
        folder: Gets `decoded_latents.safetensors`.
        names: Of the images, each once.
        latents: As decoded, in the units of the visual backbone.
        said: What they are, as the file's metadata.

    Raises:
        ArtifactError: The disk is too small, or the folder cannot be written.
    """
    file = folder / LATENTS
    with writing(file):
        save_file(dict(zip(names, latents, strict=True)), file, dict(said))
    return file


def _by_image(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the file of each image.

    Files are listed and compared with names: no name is ever made a path.
    """
    found: dict[str, list[Path]] = {name: [] for name in names}
    strange = []
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        path = file.relative_to(folder)
        # Some recordings name images with the ending of their own files.
        for name in (path.as_posix(), path.with_suffix("").as_posix()):
            if name in found:
                found[name].append(file)
                break
        else:
            strange.append(path.as_posix())
    missing = [name for name in names if not found[name]]
    twice = [name for name in names if len(found[name]) > 1]
    faults = [
        f"{what} ({_some(which)})"
        for which, what in (
            (missing, f"none for {len(missing)}"),
            (twice, f"several for {len(twice)}"),
            (strange, f"{len(strange)} of no image"),
        )
        if which
    ]
    if faults:
        raise ArtifactError(
            f"{FLAG}: {folder}: expected one picture for each of the {len(names)} "
            f"images of the split, found {', '.join(faults)}. Name each by its image, "
            f"such as {names[0]}.png; {LATENTS} has the names (--save-latents)"
        )
    return [found[name][0] for name in names]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _read(file: Path) -> tuple[UInt8[np.ndarray, "height width 3"], str]:
    try:
        # What is hashed is what is decoded, whatever becomes of the file.
        data = file.read_bytes()
        picture = read_picture(file, data, is_plain=True)
    except (OSError, RecordingError) as error:
        raise ArtifactError(f"{FLAG}: {error}. Write it as PNG, 8-bit RGB") from error
    return picture, hashlib.sha256(data).hexdigest()


def _check_square(file: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    height, width, _ = picture.shape
    if height != width or height > MAX_SIDE:
        raise ArtifactError(
            f"{file}: expected a square of at most {MAX_SIDE} x {MAX_SIDE} pixels, "
            f"found {_size(picture)}. The papers judge 256 x 256"
        )


def _size(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
