"""A BIDS folder's runs: which files belong to whom, and what is said of them.

A run's sidecar and events may lie beside it or in any folder above it up to the
dataset's own (the standard's inheritance principle). Reads headers and texts, no
images.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from runtime.errors import RecordingError
from runtime.image_file import (
    IMAGE_ENDINGS,
    header_tr_s,
    image_stem,
    one_image,
    open_image,
    shape_of,
)
from runtime.recording_events import read_events
from runtime.recording_images import LeftOut, labels_of, one_image_a_run, said_of
from runtime.recording_run import RecordedRun, text_of

TR_LIMIT_S: Final = 60.0
"""A longer RepetitionTime is one in milliseconds: no scanner waits so long."""
TR_TOLERANCE_S: Final = 5e-3
TR_TOLERANCE_SHARE: Final = 5e-3
"""By how much a header may differ from a sidecar, whichever of the two is more: some
software writes two decimals there."""


class Sidecar(msgspec.Struct, frozen=True):
    """What is read of a run's `_bold.json`; it holds much more."""

    tr_s: float = msgspec.field(name="RepetitionTime")
    slice_times_s: tuple[float, ...] = msgspec.field(name="SliceTiming", default=())
    slice_direction: str = msgspec.field(name="SliceEncodingDirection", default="k")
    missing: frozenset[int] = msgspec.field(
        name="MissingVolumes", default_factory=frozenset
    )
    unused: frozenset[int] = msgspec.field(
        name="UnusedVolumes", default_factory=frozenset
    )

    def along_z(self) -> tuple[float, ...]:
        """Return the slices' times along z; none where slices lie along another axis.

        BIDS lists them from the last slice where the direction is ``k-``.
        """
        if self.slice_direction == "k-":
            return self.slice_times_s[::-1]
        return self.slice_times_s if self.slice_direction == "k" else ()


def subjects_in(folder: Path) -> tuple[str, ...]:
    """Return the participants of whom a BIDS folder has runs, with their ``sub-``.

    Raises:
        RecordingError: A run's name is not that of its folder's participant.
    """
    return tuple(dict.fromkeys(_subject(folder, file) for file in _images(folder)))


class _Said(msgspec.Struct, frozen=True):
    """What one of a run's sidecars says of these, by the names of the file."""

    tr_s: float | UnsetType = msgspec.field(name="RepetitionTime", default=UNSET)
    slice_times_s: tuple[float, ...] | UnsetType = msgspec.field(
        name="SliceTiming", default=UNSET
    )
    slice_direction: str | UnsetType = msgspec.field(
        name="SliceEncodingDirection", default=UNSET
    )
    missing: msgspec.Raw | UnsetType = msgspec.field(
        name="MissingVolumes", default=UNSET
    )
    unused: msgspec.Raw | UnsetType = msgspec.field(name="UnusedVolumes", default=UNSET)


_PASSED_OVER: Final = {"missing": "MissingVolumes", "unused": "UnusedVolumes"}
"""What a sidecar says of volumes that are no measurements, by field."""


class _Missing(msgspec.Struct, frozen=True):
    """A missing volume, as `export-recording` names it; the reason is for people."""

    index: int = msgspec.field(name="Index")


def known_subject(folder: Path, subject: str | None) -> str | None:
    """Return a participant to ask a folder for: None where it has no runs of theirs.

    Such a folder may hold another participant, whom whoever asks has to look at.
    """
    return subject if subject in subjects_in(folder) else None


def bids_files(
    folder: Path, runs: Sequence[str] | None, subject: str | None, task: str | None
) -> tuple[str, list[Path], str]:
    """Return one participant and the images of its runs, without opening them.

    Of a run that lies there several times one image is taken (`one_image_a_run`). Where
    no runs are named, a task without events is left out if another has some.

    Args:
        folder: The dataset.
        runs: Names of those wanted; all by default.
        subject: Whose, with or without ``sub-``; may be left out where the runs that
            are wanted have one participant.
        task: Which task's, with or without ``task-``; all by default.

    Returns:
        Whose they are, the images, and a line that says what was left out; it is empty
        where nothing was.

    Raises:
        RecordingError: No such run, participant or task, runs of several participants,
            or images of which it cannot be told whether they are runs.
    """
    files = _images(folder)
    if not files:
        raise RecordingError(
            f"{folder}: expected sub-*/func/*_bold.nii.gz (or .nii) or attributes.txt, "
            "found no runs"
        )
    if subject is not None:
        wanted = f"sub-{subject.removeprefix('sub-')}"
        known = subjects_in(folder)
        if wanted not in known:
            raise RecordingError(
                f"{folder}: expected runs of {wanted}, found {', '.join(known)}"
            )
        files = [file for file in files if _subject(folder, file) == wanted]
    if runs is not None:
        names = [run_name(file) for file in files]
        for run_id in runs:
            if run_id not in names:
                raise RecordingError(
                    f"{folder}: expected run {run_id}, found {', '.join(names)}"
                )
        files = [file for file in files if run_name(file) in runs]
    whose = list(dict.fromkeys(_subject(folder, file) for file in files))
    if len(whose) > 1:
        raise RecordingError(
            f"{folder}: expected runs of one participant, found {', '.join(whose)}. "
            "Name one with --subject"
        )
    if task is not None:
        files = _of_task(folder, files, task.removeprefix("task-"))
    files, left_out = one_image_a_run(files, lambda file: _events_file(folder, file))
    if runs is not None and left_out:
        why, names = next(iter(left_out.items()))
        raise RecordingError(
            f"{folder}: expected runs that are not the same one, found {names[0]}, "
            f"which is one {why}"
        )
    if runs is None:
        files = _with_events(folder, files, left_out)
    return (whose or [""])[0], files, said_of(left_out)


def _of_task(folder: Path, files: list[Path], task: str) -> list[Path]:
    tasks = {file: labels_of(file).get("task", "") for file in files}
    if task not in tasks.values():
        known = ", ".join(
            sorted(f"task-{name}" for name in set(tasks.values()) if name)
        )
        raise RecordingError(
            f"{folder}: expected runs of task-{task}, found {known or 'none'}"
        )
    return [file for file in files if tasks[file] == task]


def _with_events(folder: Path, files: list[Path], left_out: LeftOut) -> list[Path]:
    """Leave out tasks of which no run has events, such as rest, where others have some.

    A run alone that has none is not left out: its events were lost, and are asked for.
    """
    tasks = {file: labels_of(file).get("task") for file in files}
    told = {tasks[file] for file in files if _events_file(folder, file) is not None}
    if told and (resting := [file.name for file in files if tasks[file] not in told]):
        left_out["of a task without events"] = resting
        return [file for file in files if tasks[file] in told]
    return files


def run_name(file: Path) -> str:
    """Return a run's name: its file's up to ``_bold``."""
    return image_stem(file).removesuffix("_bold")


def bids_mask(folder: Path, subject: str) -> Path:
    """Return the one mask of a participant, or the one that is nobody's own.

    Raises:
        RecordingError: There is none, or more than one.
    """
    place = folder / "derivatives" / "masks"
    stems = {f.parent for end in IMAGE_ENDINGS for f in place.glob(f"**/mask{end}")}
    found = [one_image(parent, "mask") for parent in sorted(stems)]
    of_whom = {
        file: [p for p in file.relative_to(place).parts if p.startswith("sub-")]
        for file in found
    }
    own = [file for file, named in of_whom.items() if subject in named]
    shared = [file for file, named in of_whom.items() if not named]
    masks = own or shared
    if len(masks) != 1:
        raise RecordingError(
            f"{folder}: expected one derivatives/masks/**/mask.nii.gz (or .nii) of "
            f"{subject}, found {len(masks)}"
        )
    return masks[0]


def bids_run(folder: Path, file: Path) -> RecordedRun:
    """Open a run without reading its images.

    Raises:
        RecordingError: Its sidecar or events are missing or damaged, or its header
            tells another time between volumes.
        BackendError: nibabel is missing.
    """
    image = open_image(file, dimensions=4)
    count = int(image.shape[3])
    said = _sidecar(folder, file, count)
    _require_tr(file, said.tr_s, header_tr_s(image))
    labels = labels_of(file)
    return RecordedRun(
        run_id=run_name(file),
        tr_s=said.tr_s,
        shape=shape_of(image),
        affine=np.asarray(image.affine, dtype=np.float64),
        events=read_events(_required_events(folder, file), folder / "stimuli"),
        labels=(None,) * count,
        file=file,
        slice_times_s=said.along_z(),
        subject=labels.get("sub", ""),
        session=labels.get("ses", ""),
        task=labels.get("task", ""),
        missing=said.missing | said.unused,
        unused=said.unused - said.missing,
    )


def _images(folder: Path) -> list[Path]:
    patterns = [f"sub-*/**/func/*_bold{ending}" for ending in IMAGE_ENDINGS]
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    # Which refuses the same image twice, and always the first such one.
    return sorted({one_image(file.parent, image_stem(file)) for file in sorted(files)})


def _subject(folder: Path, file: Path) -> str:
    subject = file.relative_to(folder).parts[0]
    if not file.name.startswith(f"{subject}_"):
        raise RecordingError(
            f"{file}: expected a name that begins with {subject}_ as its folder, "
            f"found {file.name}"
        )
    return subject


def _sidecar(folder: Path, file: Path, count: int) -> Sidecar:
    """Merge what the sidecars of a run say; the one nearest to it prevails."""
    own = file.with_name(f"{run_name(file)}_bold.json")
    merged: dict[str, Any] = {}
    for sidecar in _applying(folder, file, "bold.json"):
        own = sidecar
        try:
            said = msgspec.json.decode(text_of(sidecar), type=_Said)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _sidecar_error(sidecar, error) from error
        for field, name in _PASSED_OVER.items():
            listed = getattr(said, field)
            if not isinstance(listed, UnsetType):
                merged[name] = sorted(_indices(f"{sidecar}: {name}", listed, count))
                said = msgspec.structs.replace(said, **{field: UNSET})
        # Without what it does not say.
        merged |= msgspec.to_builtins(said)
    if not merged and not own.is_file():
        raise RecordingError(f"{own}: expected it here or further up, found none")
    try:
        whole = msgspec.convert(merged, Sidecar)
    except msgspec.ValidationError as error:
        raise _sidecar_error(own, error) from error
    if not (math.isfinite(whole.tr_s) and whole.tr_s > 0):
        raise RecordingError(
            f"{own}: expected a positive RepetitionTime, found {whole.tr_s}"
        )
    if whole.tr_s > TR_LIMIT_S:
        raise RecordingError(
            f"{own}: RepetitionTime: expected seconds, up to {TR_LIMIT_S:g}, found "
            f"{whole.tr_s:g}. Divide what is in milliseconds by 1000"
        )
    if len(whole.missing | whole.unused) == count > 0:
        raise RecordingError(
            f"{own}: expected at least one volume in neither MissingVolumes nor "
            f"UnusedVolumes, found all {count} there. Take out those to read as "
            "measured"
        )
    return whole


def _require_tr(file: Path, said_s: float, found_s: float | None) -> None:
    tolerance_s = max(TR_TOLERANCE_S, TR_TOLERANCE_SHARE * said_s)
    # A float32 of the very tolerance is beyond it by its rounding.
    if found_s is None or abs(found_s - said_s) <= tolerance_s + 1e-6 * said_s:
        return
    raise RecordingError(
        f"{file}: expected {said_s:g} s between volumes as RepetitionTime says, found "
        f"{found_s:g} s in its header (pixdim[4]). Mend the one that is wrong"
    )


def _indices(place: str, said: msgspec.Raw, count: int) -> frozenset[int]:
    """Read which volumes of a run are listed.

    Raises:
        RecordingError: They are none of its.
    """
    try:
        listed = msgspec.json.decode(said, type=tuple[int | _Missing, ...])
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordingError(
            f"{place}: expected a list of indices, or of objects with Index, "
            f"found: {error}"
        ) from error
    indices = frozenset(one if isinstance(one, int) else one.index for one in listed)
    for index in sorted(indices):
        if not 0 <= index < count:
            raise RecordingError(
                f"{place}: expected indices from 0 to {count - 1} as the run has, "
                f"found {index}"
            )
    return indices


def _sidecar_error(file: Path, error: Exception) -> RecordingError:
    return RecordingError(
        f"{file}: expected a JSON object with RepetitionTime in seconds, found: {error}"
    )


def _events_file(folder: Path, file: Path) -> Path | None:
    return next(reversed(list(_applying(folder, file, "events.tsv"))), None)


def _required_events(folder: Path, file: Path) -> Path:
    found = _events_file(folder, file)
    if found is None:
        own = file.with_name(f"{run_name(file)}_events.tsv")
        raise RecordingError(f"{own}: expected it here or further up, found none")
    return found


def _applying(folder: Path, image: Path, ending: str) -> Iterator[Path]:
    """Yield the files that say something of an image, the most general first.

    A file does that lies in the image's folder or above it, and whose name has no
    entity that the image's has not.

    Raises:
        RecordingError: Of two in one folder neither is more special.
    """
    entities = set(image_stem(image).split("_"))
    above = image.relative_to(folder).parent
    for place in (
        folder,
        *(folder / p for p in reversed((above, *above.parents[:-1]))),
    ):
        here: dict[int, Path] = {}
        for file in sorted(place.glob(f"*{ending}")):
            own = {part for part in file.name.removesuffix(ending).split("_") if part}
            if not own <= entities:
                continue
            if len(own) in here:
                raise RecordingError(
                    f"{file}: expected one {ending} for {image.name} in this folder, "
                    f"found {here[len(own)].name} beside it"
                )
            here[len(own)] = file
        yield from (here[size] for size in sorted(here))
