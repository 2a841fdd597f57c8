"""`neuroflow export`: two checkpoints to a bundle and a calibrated gallery."""

from pathlib import Path

from training.checkpoint import load_neurovae
from verbs.pipeline import Built, calibrate
from verbs.pipeline import export as export_built
from verbs.progress import screen
from verbs.train import ESTIMATOR, read_dataset, read_estimator


def export_checkpoints(
    vae: Path,
    flow: Path,
    recording: Path,
    out: Path,
    *,
    solver: str,
    steps: int,
    backend: str,
) -> None:
    """Write OUT/bundle and OUT/gallery.

    Raises:
        CheckpointError: A checkpoint is missing, damaged or of another model.
        ParityError: An engine does not compute what the model computes.
    """
    _, manifest = load_neurovae(vae)
    built = Built(vae, flow, out / "bundle", out / "gallery")
    file = vae / ESTIMATOR
    with screen() as shown:
        dataset = read_dataset(
            recording,
            read_estimator(file if file.exists() else None),
            manifest.config,
            shown,
        )
        export_built(dataset, built, solver=solver, steps=steps, on_stage=shown.stage)
        shown.stage("calibrate the gallery's confidence")
        calibrate(dataset, built, backend=backend)
    print(built.bundle)
    print(built.gallery)
