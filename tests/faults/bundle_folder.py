"""A sealed folder to spoil: a bundle, a gallery or an overlay, and ways to change what
it says."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runtime.bundle import open_bundle
from runtime.calibration import Calibration, Findings
from runtime.correction import InputCorrection
from runtime.gallery import GALLERY, GALLERY_TENSORS, write_gallery
from runtime.identification import Interval
from runtime.manifest import GOLDEN, MANIFEST, TENSORS
from runtime.overlay import OVERLAY, OVERLAY_TENSORS
from runtime.overlay_writing import write_overlay
from runtime.preprocess import AffineNormaliser, FeatureSpace
from tests.sealed_folder import write_folder

Kind = Literal["bundle", "gallery", "overlay"]
KINDS: tuple[Kind, ...] = ("bundle", "gallery", "overlay")
Change = Callable[[Path], None]

GRAPH = "graphs/encoder.onnx"
WEIGHTS = "graphs/flow.weights"
MANIFESTS: dict[Kind, str] = {
    "bundle": MANIFEST,
    "gallery": GALLERY,
    "overlay": OVERLAY,
}
FILES: dict[Kind, tuple[str, ...]] = {
    "bundle": (GRAPH, WEIGHTS, TENSORS, GOLDEN),
    "gallery": (GALLERY_TENSORS,),
    "overlay": (OVERLAY_TENSORS,),
}


@dataclass(frozen=True)
class Case:
    """One way to spoil a folder."""

    name: str
    kind: Kind
    change: Change
    seen_by: Literal["loader", "guard", "parser"] = "loader"
    """Who sees the fault: the loader before anything is parsed, our own reader of
    graphs before an engine's is asked, or who has parsed tensors only."""
    needs_engine: bool = False
    """The fault is the graph's: an engine has to be opened to see it."""


def write_base(kind: Kind, folder: Path, bundle: Path) -> None:
    """Write a folder that is as it should be.

    Args:
        kind: Of the folder.
        folder: Where it is to be.
        bundle: That of this kind, to which an overlay belongs.
    """
    if kind == "bundle":
        write_folder(folder)
        return
    if kind == "overlay":
        _write_overlay(folder, bundle)
        return
    write_gallery(
        folder,
        latents=np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        ids=["a", "b"],
        labels=["cat", "dog"],
        images=np.zeros((2, 5, 6, 3), np.uint8),
    )


def _write_overlay(folder: Path, bundle: Path) -> None:
    gained, ones = Interval(0.02, 0.01, 0.03), np.ones((3, 2), np.float32)
    findings = Findings(
        trials=60, images=30, without=0.7, normalised=0.73, corrected=0.75,
        normalisation=gained, screened=gained, correction=gained, both=gained,
    )  # fmt: skip
    with open_bundle(bundle) as opened:
        affine = AffineNormaliser(np.zeros(2, np.float32), np.ones(2, np.float32))
        space = FeatureSpace(affine, opened.feature_space().whitening)
        calibration = Calibration(space, InputCorrection(ones, ones), 10.0, findings)
        write_overlay(
            folder,
            calibration,
            opened,
            label="today",
            created="2026-01-02",
            runs=("run-1",),
        )


def edited(kind: Kind, change: Callable[[dict[str, Any]], None]) -> Change:
    """Change the manifest as JSON knows it; the files stay."""

    def apply(folder: Path) -> None:
        file = folder / MANIFESTS[kind]
        said = json.loads(file.read_bytes())
        change(said)
        file.write_text(json.dumps(said), "utf-8")

    return apply


def manifest_text(kind: Kind, change: Callable[[bytes], bytes]) -> Change:
    """Change the manifest as bytes."""

    def apply(folder: Path) -> None:
        file = folder / MANIFESTS[kind]
        file.write_bytes(change(file.read_bytes()))

    return apply


def spec_of(said: dict[str, Any], path: str) -> dict[str, Any]:
    """Find what a manifest says of a file."""
    found: dict[str, Any] = next(s for s in said["files"] if s["path"] == path)
    return found


def relisted(kind: Kind, path: str, data: bytes) -> Change:
    """Put other bytes into a listed file, with the right size and hash."""

    def apply(folder: Path) -> None:
        (folder / path).write_bytes(data)

        def restate(said: dict[str, Any]) -> None:
            spec_of(said, path).update(
                size=len(data), sha256=hashlib.sha256(data).hexdigest()
            )

        edited(kind, restate)(folder)

    return apply


def listed_beside(kind: Kind, path: str, data: bytes) -> Change:
    """Add a file and list it, with the right size and hash."""

    def apply(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        spec = {
            "path": path,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        edited(kind, lambda said: said["files"].append(spec))(folder)

    return apply


def fingerprint(folder: Path) -> str:
    """Tell folders apart: names, kinds and contents of all that is in them."""
    digest = hashlib.sha256()
    for path in [folder, *sorted(folder.rglob("*"))]:
        name = str(path.relative_to(folder)).encode("utf-8", "surrogateescape")
        status = path.lstat() if path.is_symlink() or path.exists() else None
        mode = 0 if status is None else status.st_mode
        links = 0 if status is None or path.is_dir() else status.st_nlink
        digest.update(b"%s\0%d\0%d\0" % (name, mode, links))
        if path.is_symlink():
            digest.update(str(path.readlink()).encode())
        elif path.is_file():
            with path.open("rb") as file:
                digest.update(file.read(1 << 20))
            digest.update(b"%d" % path.stat().st_size)
    return digest.hexdigest()


def copy_of(base: Path, folder: Path) -> None:
    """Copy a folder that holds nothing but plain files."""
    shutil.copytree(base, folder)
