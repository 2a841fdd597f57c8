"""`neuroflow prepare-calibration`: predictions made before the day. Torch-free."""

import time
from pathlib import Path
from typing import Final

import msgspec

from runtime.bundle import Bundle, open_bundle
from runtime.errors import UsageError
from runtime.gallery import open_gallery
from runtime.graphs import Part
from runtime.model import SAMPLES, open_model
from runtime.predictions import PredictionFolder, prepare
from verbs.progress import screen
from verbs.sealed_places import refuse_sealed
from verbs.todays_trials import known_latents, require_pictures

PREDICTING: Final[tuple[Part, ...]] = ("decoder", "encode_flow")
"""What a prediction calls of the model."""


def prepare_calibration_images(
    bundle: Path,
    gallery: Path,
    out: Path,
    *,
    pictures: Path | None = None,
    images: tuple[str, ...] = (),
    backend: str = "ort",
    threads: int | None = None,
    as_json: bool = False,
) -> None:
    """Predict the response to images, and keep that for `calibrate --predictions`.

    Args:
        bundle: What export wrote.
        gallery: Knows images.
        out: Folder of the predictions; one that was interrupted is gone on with.
        pictures: A BIDS folder whose pictures count, too.
        images: Which images, by name; none: all of both.
        backend: Engine library.
        threads: Of one evaluation; None leaves the choice to the library.
        as_json: Print JSON.

    Raises:
        UsageError: Nobody knows one of the images, `out` is no folder, or `pictures`
            has no table of pictures.
        ArtifactError: What `out` holds is damaged or another bundle's, or it cannot be
            written; or it is a folder that lists its files, or in one.
        BundleError: The bundle or gallery is not what its manifest lists.
        BackendError: The engine library is missing or refuses a graph.
        RecordingError: The table of pictures, or one of them, is damaged.
    """
    began = time.monotonic()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"--out: expected a folder, or none yet, found {out}")
    refuse_sealed(out)
    require_pictures(pictures)
    with screen() as shown:
        shown.stage("open the bundle and the gallery")
        with open_bundle(bundle) as opened:
            kept = kept_in(out, opened)
            kept.require_own()
            items = open_gallery(gallery, opened.manifest.latent)
            known = known_latents((pictures,), opened, items)
            if unknown := [name for name in images if name not in known]:
                raise UsageError(
                    f"--images: expected names among the {len(known)} images that the "
                    f"gallery or the pictures hold, found {unknown[0]}"
                )
            latents = [known[name] for name in images or known]
            with open_model(
                opened, backend, threads=threads, samples=SAMPLES, parts=PREDICTING
            ) as model:
                shown.stage("predict the images, one at a time")
                computed = prepare(kept, model, latents, shown.count)
            sha256 = opened.sha256
    seconds = time.monotonic() - began
    if as_json:
        result = {
            "bundle_sha256": sha256,
            "images": len(latents),
            "computed": computed,
            "seconds": round(seconds, 3),
        }
        print(msgspec.json.encode(result).decode())
        return
    found = len(latents) - computed
    for name, value in [
        ("images", f"{len(latents)}: {computed} computed, {found} there already"),
        ("bundle", sha256),
        ("time", f"{seconds:.1f} s"),
    ]:
        print(f"{name:<15}{value}")


def kept_in(folder: Path, bundle: Bundle) -> PredictionFolder:
    """Return where a bundle's predictions are kept."""
    manifest = bundle.manifest
    return PredictionFolder(
        folder,
        bundle.sha256,
        manifest.latent.tokens,
        manifest.latent.width,
        manifest.voxels.count,
    )
