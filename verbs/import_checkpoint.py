"""`neuroflow import-checkpoint`: the authors' released files to two checkpoints."""

from pathlib import Path

from training.released import import_released
from verbs.progress import screen
from verbs.sealed_places import refuse_inside


def import_checkpoint(neurovae: Path, xfm: Path, subject: int, out: Path) -> None:
    """Write OUT/vae and OUT/flow, and print the two folders.

    Raises:
        CheckpointError: A file is missing, damaged, unsafe, or not this model.
        UsageError: OUT is in the way.
        ArtifactError: It would be in a folder that lists its files.
    """
    refuse_inside(out)
    with screen() as shown:
        import_released(neurovae, xfm, out, subject, on_stage=shown.stage)
    print(out / "vae")
    print(out / "flow")
