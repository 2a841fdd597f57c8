"""What one peer answered on one participant under one condition, as a file.

Answers trial by trial, so that every figure and every paired interval can be computed
again without training anything.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from runtime.errors import RecordingError
from training.peers.contract import FittedPeer
from training.peers.exam import Exam, Said, ask, joined

Kind = Literal["simulated", "hybrid", "haxby"]
Condition = Literal["real", "shuffled", "no signal"]


class Sheet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One peer's answers; a fold after the other where there are several."""

    kind: Kind
    subject: int
    """Seed of the participant; 1 of the recording."""
    peer: str
    condition: Condition
    recipe: str
    """All its settings."""
    parameters: int
    """Of one training."""
    evaluations: int
    """For one answer."""
    training_s: float
    """Processor seconds of one training; the mean over folds."""
    machine: str
    gallery: int
    """Pictures that may be an answer."""
    categories: int
    """Categories that may be an answer."""
    image: list[int]
    """What was shown in each trial."""
    image_category: list[int]
    run: list[int]
    stretch: list[int]
    next_image: list[int]
    """What was shown in the next stretch of the run; -1 after the last."""
    next_category: list[int]
    picture: list[int] | None
    """What was answered; None of peers that know no pictures."""
    category: list[int]
    mean_image: list[int]
    """The same for the mean over the trials of each picture; empty on volumes, whose
    categories are no repeats of a picture."""
    mean_image_category: list[int]
    mean_picture: list[int] | None
    mean_category: list[int]


class Unit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sheet."""

    kind: Kind
    subject: int
    peer: str
    condition: Condition = "real"

    def place(self, folder: Path) -> Path:
        """Return the sheet's file."""
        words = [self.kind, str(self.subject), self.peer, self.condition]
        return folder / ("-".join(words).replace(" ", "_") + ".json")


def sheet(
    unit: Unit,
    recipe: str,
    machine: str,
    sat: Sequence[tuple[Exam, FittedPeer, float]],
) -> Sheet:
    """Ask a fitted peer every question of its exam, or of each fold's.

    Args:
        unit: What this is.
        recipe: The peer's settings.
        machine: What it ran on.
        sat: Exam, fitted peer and seconds of training, of one participant or each fold.
    """
    exams = [exam for exam, _, _ in sat]
    single = [ask(fitted, exam, exam.questions.features) for exam, fitted, _ in sat]
    has_repeats = exams[0].lesson.pictures is not None
    repeats = [exam.questions.repeats() for exam in exams] if has_repeats else []
    means = [
        ask(fitted, exam, features)
        for (exam, fitted, _), (features, _) in zip(sat, repeats, strict=False)
    ]
    names = exams[0].lesson.categories
    image = joined([exam.questions.image for exam in exams])
    following = joined([exam.questions.next_image() for exam in exams])
    mean_image = joined([images for _, images in repeats])
    return Sheet(
        kind=unit.kind,
        subject=unit.subject,
        peer=unit.peer,
        condition=unit.condition,
        recipe=recipe,
        parameters=sat[0][1].parameters,
        evaluations=sat[0][1].evaluations,
        training_s=sum(seconds for _, _, seconds in sat) / len(sat),
        machine=machine,
        gallery=len(exams[0].gallery),
        categories=int(names.max()) + 1,
        image=image,
        image_category=[int(names[i]) for i in image],
        run=joined([exam.questions.run for exam in exams]),
        stretch=joined([exam.questions.stretch for exam in exams]),
        next_image=following,
        next_category=[int(names[i]) if i >= 0 else -1 for i in following],
        picture=_pictures(single) if has_repeats else None,
        category=joined([said.category for said in single]),
        mean_image=mean_image,
        mean_image_category=[int(names[i]) for i in mean_image],
        mean_picture=_pictures(means),
        mean_category=joined([said.category for said in means]),
    )


def _pictures(said: Sequence[Said]) -> list[int] | None:
    known = [one.picture for one in said if one.picture is not None]
    return joined(known) if known else None


def read_sheet(file: Path) -> Sheet:
    """Read a sheet.

    Raises:
        RecordingError: The file is missing, damaged or of another version.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Sheet)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordingError(
            f"{file}: expected a peer's answers, found {error}. Remove it"
        ) from error


def write_sheet(file: Path, made: Sheet) -> None:
    """Write a sheet; a file of that name is whole or absent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(made) + b"\n")
    partial.replace(file)
