"""Which picture was shown in which trial of the Natural Scenes Dataset.

``nsd_expdesign.mat`` counts from 1: `masterordering` gives each of the 30,000 trials
that everyone was to see a number from 1 to 10,000, `subjectim` says for each
participant which of the 73,000 pictures that is. Numbers up to 1,000 are the pictures
that everyone saw: the test. `stimpattern` (session, run, position) marks the trials of
each run, where the file has it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from runtime.errors import RecordingError

SESSIONS: Final = 40
SHARED: Final = 1000
"""Numbers of masterordering up to this are shared pictures."""
PICTURES: Final = 73_000

Trials = Int64[np.ndarray, " trials"]


@dataclass(frozen=True, slots=True, eq=False)
class NsdDesign:
    """All trials that one participant was to see, in order."""

    file: Path
    picture: Trials
    """Position in `imgBrick`, from 0 (the dataset's ``nsdId``)."""
    is_test: Bool[np.ndarray, " trials"]
    run: Trials
    """Run of the session, from 0; -1 where the file does not say."""
    per_session: int

    def of(self, session: int) -> slice:
        """Return the trials of a session, counted from 0."""
        return slice(session * self.per_session, (session + 1) * self.per_session)


def read_design(file: Path, subject: int) -> NsdDesign:
    """Read the design of a participant, counted from 1.

    Raises:
        RecordingError: The file is missing, damaged or holds impossible numbers.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not file.is_file():
        raise RecordingError(f"{file}: expected the experiment's design, found no file")
    try:
        found = loadmat(file)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise RecordingError(
            f"{file}: expected a MATLAB file, found it cut or damaged ({error})"
        ) from error
    order = _numbers(found, "masterordering", file).ravel()
    pictures = np.atleast_2d(_numbers(found, "subjectim", file))
    if order.size == 0 or order.size % SESSIONS:
        raise RecordingError(
            f"{file}: masterordering: expected a multiple of {SESSIONS} trials, "
            f"found {order.size}"
        )
    if not 1 <= subject <= len(pictures):
        raise RecordingError(
            f"{file}: subjectim: expected subject {subject}, "
            f"found {len(pictures)} subjects"
        )
    _check_range(file, "masterordering", order, pictures.shape[1])
    shown = pictures[subject - 1][order - 1]
    _check_range(file, "subjectim", shown, PICTURES)
    per_session = order.size // SESSIONS
    return NsdDesign(
        file=file,
        picture=shown - 1,
        is_test=order <= SHARED,
        run=_runs(found, per_session, file),
        per_session=per_session,
    )


def _numbers(found: dict[str, object], name: str, file: Path) -> Trials:
    array = found.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise RecordingError(f"{file}: {name}: expected numbers, found none")
    whole = np.asarray(array, dtype=np.float64)
    if not np.array_equal(whole, np.rint(whole)):
        raise RecordingError(f"{file}: {name}: expected whole numbers, found others")
    return whole.astype(np.int64)


def _check_range(file: Path, name: str, values: Trials, last: int) -> None:
    outside = np.flatnonzero((values < 1) | (values > last))
    if outside.size:
        trial = int(outside[0])
        raise RecordingError(
            f"{file}: {name}: expected a picture from 1 to {last} for every trial, "
            f"found {int(values[trial])} at trial {trial}"
        )


def _runs(found: dict[str, object], per_session: int, file: Path) -> Trials:
    if "stimpattern" not in found:
        return np.full(SESSIONS * per_session, -1, dtype=np.int64)
    pattern = _numbers(found, "stimpattern", file)
    if pattern.ndim != 3 or len(pattern) != SESSIONS:
        raise RecordingError(
            f"{file}: stimpattern: expected ({SESSIONS}, runs, positions), "
            f"found {pattern.shape}"
        )
    counts = (pattern != 0).sum(axis=2)
    sums = counts.sum(axis=1)
    if (sums != per_session).any():
        session = int(np.flatnonzero(sums != per_session)[0])
        raise RecordingError(
            f"{file}: stimpattern: expected {per_session} trials in session "
            f"{session + 1}, found {int(sums[session])}"
        )
    runs = [np.repeat(np.arange(counts.shape[1]), row) for row in counts]
    return np.concatenate(runs).astype(np.int64)
