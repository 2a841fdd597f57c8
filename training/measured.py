"""Whether runs hold measurements, and each its own. Pure: sees what others read."""

import hashlib
from typing import Final

import numpy as np
from jaxtyping import Shaped

from runtime.errors import RecordingError
from runtime.recording import RecordedRun

STILL_SHARE: Final = 0.5
"""Of a mask's voxels so many may never vary, in a run or a session: a mask is wider
than what was scanned that day, but not by so much."""


class Measured:
    """Looks at one run after another, each as it is read for its trials.

    Copies are found among the runs that one of these looks at: those of one split, or
    of all of them where a data set is prepared.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def look(
        self, run: RecordedRun, volumes: Shaped[np.ndarray, "times x y z"]
    ) -> None:
        """Refuse a run that was never alive, or is a copy of one seen before.

        Only what the run's own mask holds is looked at, and no missing volume. A run
        without a mask, or of one volume, is taken as it is.

        Args:
            run: Of which the volumes are.
            volumes: All of them, as `RecordedRun.volumes` reads them.

        Raises:
            RecordingError: More than `STILL_SHARE` of the voxels never vary, or all of
                them are those of another run in every volume.
        """
        there = run.measured.tolist()
        if run.mask is None or len(there) < 2:
            return
        rows = volumes.reshape(len(volumes), -1)
        first = rows[there[0]][run.mask.indices]
        varies = np.zeros(first.shape, dtype=np.bool_)
        digest = hashlib.sha256(rows.dtype.str.encode())
        for index in there:
            row = rows[index][run.mask.indices]
            varies |= row != first
            digest.update(row)
        still = int((~varies).sum())
        if still > STILL_SHARE * len(varies):
            raise RecordingError(
                f"{run.file}: expected voxels that vary during the run, found {still} "
                f"of {len(varies)} in the mask that never do. Copy the image again, "
                "leave the run out, or give a mask of what was scanned"
            )
        other = self._seen.setdefault(digest.hexdigest(), run.run_id)
        if other != run.run_id:
            raise RecordingError(
                f"{run.file}: expected another measurement than in {other}, found the "
                f"same voxels in every volume of {run.run_id}. Put the right image in "
                "its place, or leave one of the two out"
            )
