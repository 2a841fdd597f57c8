"""`neuroflow calibrate`: today's trials to a day's overlay of a bundle. Torch-free."""

import contextlib
import datetime
import os
import time
from pathlib import Path

import msgspec

from runtime.bundle import open_bundle
from runtime.calibration import Calibration, calibrate
from runtime.errors import UsageError
from runtime.gallery import open_gallery
from runtime.identification import CONFIDENCE, Interval
from runtime.model import SAMPLES, open_model
from runtime.overlay import MAX_TEXT
from runtime.overlay_writing import write_overlay
from runtime.predictions import predict_all, prepared
from runtime.signing_keys import read_signing_key, sign_folder
from verbs.prepare_calibration import PREDICTING, kept_in
from verbs.progress import screen
from verbs.sealed_places import refuse_inside
from verbs.todays_trials import Today, read_today, require_pictures


def calibrate_day(
    bundle: Path,
    gallery: Path,
    recording: Path,
    out: Path,
    *,
    runs: tuple[str, ...] = (),
    pictures: Path | None = None,
    predictions: Path | None = None,
    label: str = "",
    sign: Path | None = None,
    backend: str = "ort",
    threads: int | None = None,
    as_json: bool = False,
) -> None:
    """Fit a day's overlay, and write it if trials that it has not seen gain by it.

    Args:
        bundle: What export wrote.
        gallery: Knows images.
        recording: Today's runs: a BIDS folder, or what `serve --log` wrote.
        out: Folder of the overlay; must not exist.
        runs: Which runs; none: all of them.
        pictures: A BIDS folder whose pictures count beside the recording's own.
        predictions: What `prepare-calibration` wrote; None computes them.
        label: The day or session; by default the date.
        sign: A signer's secret.
        backend: Engine library.
        threads: Of one evaluation; None leaves the choice to the library.
        as_json: Print JSON.

    Raises:
        CalibrationError: Too few images, or nothing gains; nothing is written.
        UsageError: `out` exists or cannot be made, the label is too long, `pictures`
            has no table of pictures, or the bundle decodes volumes.
        RecordingError: The recording is damaged, or has no trial of a known image.
        BundleError: The bundle or gallery is not what its manifest lists.
        BackendError: The engine library is missing or refuses a graph.
        ArtifactError: The key is missing, damaged or open to others; or predictions
            are missing, damaged or another bundle's; or `out` is in a folder that
            lists its files.
    """
    began = time.monotonic()
    # Before anything is estimated, which takes long.
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out: expected no such folder yet, found {out}")
    refuse_inside(out)
    _require_place(out)
    if len(label) > MAX_TEXT:
        raise UsageError(
            f"--label: expected at most {MAX_TEXT} characters, found {len(label)}"
        )
    if predictions is not None and not predictions.is_dir():
        raise UsageError(
            f"--predictions: expected a folder, found none at {predictions}. "
            "Make it with prepare-calibration"
        )
    require_pictures(pictures)
    key = None if sign is None else read_signing_key(sign)
    parts = ("encoder", *(PREDICTING if predictions is None else ()))
    with screen() as shown:
        shown.stage("open the bundle and the gallery")
        with open_bundle(bundle) as opened, contextlib.ExitStack() as stack:
            kept = None if predictions is None else kept_in(predictions, opened)
            if kept is not None:
                kept.require_own()
            model = stack.enter_context(
                open_model(
                    opened, backend, threads=threads, samples=SAMPLES, parts=parts
                )
            )
            items = open_gallery(gallery, opened.manifest.latent)
            # Refused now where its calibration is another bundle's, as by a server.
            items.confidence_for(opened.sha256)
            shown.stage("today's trials, volume by volume")
            today = read_today(
                recording, opened, items, runs, shown.count, pictures=pictures
            )
            trials = today.trials
            if kept is not None:
                shown.stage("read what the model predicts of the images")
                expected = prepared(kept, trials.latents, trials.names)
            else:
                shown.stage("predict the images; prepare-calibration does it before")
                expected = predict_all(model, trials.latents, shown.count)
            shown.stage("fit, and encode what was left out")
            found = calibrate(
                trials, opened.feature_space(), model, expected, shown.count
            )
            date = datetime.datetime.now(datetime.UTC).date().isoformat()
            shown.stage("write the overlay")
            sha256 = write_overlay(
                out,
                found,
                opened,
                label=label or date,
                created=date,
                runs=today.runs,
            )
        if key is not None:
            sign_folder(out, key)
    seconds = time.monotonic() - began
    if as_json:
        print(_json(found, today, sha256, seconds))
        return
    signed = "unsigned" if key is None else f"signed by {key.name}"
    for name, value in [
        *_lines(found, today),
        ("overlay", f"{sha256} {signed}"),
        ("time", f"{seconds:.1f} s"),
    ]:
        print(f"{name:<15}{value}")


def _require_place(out: Path) -> None:
    """Refuse a folder that could not be made, without making anything.

    Raises:
        UsageError: Its nearest parent is no folder, or not writable.
    """
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "one that is not writable" if parent.is_dir() else "a file"
        raise UsageError(f"--out: expected a folder at {parent}, found {what}")


def _lines(found: Calibration, today: Today) -> list[tuple[str, str]]:
    findings = found.findings
    left_out = f", {today.unknown} of unknown images left out" if today.unknown else ""
    if findings.correction is None:
        correction = f"{findings.screened} on top among voxels, not encoded, left out"
    else:
        kept = "kept" if findings.is_corrected else "left out"
        correction = f"{findings.correction} on top, {kept}"
    holds = "normalisation" + (" and correction" if findings.is_corrected else "")
    return [
        (
            "trials",
            f"{findings.trials} of {findings.images} images in {len(today.runs)} "
            f"runs{left_out}",
        ),
        ("identification", f"{findings.without:.3f} of z_n as the bundle is"),
        ("normalisation", f"{findings.normalisation} kept"),
        ("correction", correction),
        ("gain", f"{findings.gain} on held-out trials, {CONFIDENCE:.0%} interval"),
        ("holds", holds),
    ]


def _json(found: Calibration, today: Today, sha256: str, seconds: float) -> str:
    findings = found.findings

    def interval(one: Interval | None) -> dict[str, float] | None:
        if one is None:
            return None
        return {"mean": one.mean, "low": one.low, "high": one.high}

    result = {
        "overlay_sha256": sha256,
        "trials": findings.trials,
        "images": findings.images,
        "runs": today.runs,
        "unknown": today.unknown,
        "measure": "identification_z_n",
        "without": findings.without,
        "normalised": findings.normalised,
        "corrected": findings.corrected,
        "confidence": CONFIDENCE,
        "normalisation": interval(findings.normalisation),
        "screened": interval(findings.screened),
        "correction": interval(findings.correction),
        "gain": interval(findings.gain),
        "is_corrected": findings.is_corrected,
        "penalty": found.penalty,
        "seconds": round(seconds, 3),
    }
    return msgspec.json.encode(result).decode()
