"""The same participant on another day: other gains, and voxels that see each other's.

A head that lies elsewhere and a brain that has changed, reduced to what has a known
answer: every voxel of the decoding mask is paired with another, their time courses are
turned into each other by one angle, and each is multiplied by a gain of its own. Signal
and noise alike, so that what the first day's decoder knew is all there, elsewhere.
"""

import shutil
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Bool, Int16

from runtime.errors import UsageError
from training.participant.folder import ParticipantFolder, open_participant


def write_another_day(
    participant: ParticipantFolder,
    out: Path,
    splits: tuple[str, ...],
    *,
    angle: float,
    gain_sd: float,
    seed: int,
) -> ParticipantFolder:
    """Write runs of a participant as they would have been on another day.

    Args:
        participant: The first day.
        out: Folder to create; must not exist.
        splits: Of which runs.
        angle: Radians by which paired voxels are turned into each other; 0: not at all.
        gain_sd: Spread of the logarithm of a voxel's gain.
        seed: Of pairs and gains, which all runs of the day share.

    Raises:
        UsageError: `out` exists already.
    """
    if out.exists():
        raise UsageError(f"{out}: expected a new folder, found it there. Remove it.")
    mask = participant.mask()
    bolds = [run.bold for run in participant.runs if run.split in splits]
    stems = [bold.name.removesuffix("_bold.nii.gz") for bold in bolds]
    kept = {f"{s}_{end}" for s in stems for end in ("bold.json", "events.tsv")}

    def ignored(folder: str, names: list[str]) -> set[str]:
        is_runs = Path(folder).name == "func"
        return {name for name in names if is_runs and name not in kept}

    shutil.copytree(participant.root, out, ignore=ignored)
    for bold in bolds:
        image = nibabel.load(bold)
        changed = _changed(
            np.asarray(image.dataobj), mask, angle, gain_sd, np.random.default_rng(seed)
        )
        saved = nibabel.Nifti1Image(changed, image.affine, image.header)
        nibabel.save(saved, out / bold.relative_to(participant.root))
    return open_participant(out)


def _changed(
    volumes: Int16[np.ndarray, "x y z times"],
    mask: Bool[np.ndarray, "x y z"],
    angle: float,
    gain_sd: float,
    rng: np.random.Generator,
) -> Int16[np.ndarray, "x y z times"]:
    series = volumes[mask].astype(np.float64)
    level = series.mean(axis=1, keepdims=True)
    share = np.divide(series - level, level, out=np.zeros_like(series), where=level > 0)
    order = rng.permutation(len(share))
    half = len(share) // 2
    a, b = order[:half], order[half : 2 * half]
    turned = share.copy()
    turned[a] = np.cos(angle) * share[a] - np.sin(angle) * share[b]
    turned[b] = np.sin(angle) * share[a] + np.cos(angle) * share[b]
    turned *= np.exp(gain_sd * rng.standard_normal((len(share), 1)))
    changed = volumes.copy()
    changed[mask] = np.clip(np.rint(level * (1 + turned)), 0, 32767)
    return changed
