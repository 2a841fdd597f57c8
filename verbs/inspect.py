"""`neuroflow inspect`: what is in a bundle or an overlay, and who signed it."""

import os
import sys
from pathlib import Path

import msgspec

from bci_bridge.printable import printable
from runtime.bundle import open_bundle
from runtime.estimator import (
    BetaEstimator,
    ExternalEstimator,
    description,
    told_confounds,
)
from runtime.manifest import EIGHT_BITS, GraphSpec, Manifest
from runtime.overlay import OVERLAY, OverlayManifest, open_overlay
from runtime.signing import Signer
from runtime.signing_keys import read_trust


def inspect_folder(folder: Path, *, trust: tuple[Path, ...], as_json: bool) -> None:
    """Print what a bundle or overlay says, once it is known to be what it says.

    Args:
        folder: A bundle or an overlay.
        trust: Public keys; with any, it must be signed by one of them.
        as_json: Print the manifest, and who signed on standard error.

    Raises:
        BundleError: The folder is not exactly what its manifest lists, or not signed
            by a key that is trusted.
        ArtifactError: A public key is missing, damaged or open to others.
    """
    trusted = read_trust(trust) if trust else None
    if os.path.lexists(folder / OVERLAY):
        overlay = open_overlay(folder, trust=trusted)
        said = ("overlay", overlay.sha256, overlay.signer, _overlay(overlay.manifest))
        _print(*said, overlay.manifest if as_json else None)
        return
    with open_bundle(folder, trust=trusted) as bundle:
        manifest = bundle.manifest
        lines = _lines(manifest)
        sha256, signer = bundle.sha256, bundle.signer
        _print("bundle", sha256, signer, lines, manifest if as_json else None)


def _print(
    kind: str,
    sha256: str,
    signer: Signer | None,
    lines: list[tuple[str, str]],
    as_json: msgspec.Struct | None,
) -> None:
    signature = str(signer or "none")
    if as_json is not None:
        print(f"signature {printable(signature)}", file=sys.stderr)
        print(msgspec.json.format(msgspec.json.encode(as_json), indent=2).decode())
        return
    for name, value in [(kind, sha256), ("signature", signature), *lines]:
        # What a manifest says others wrote.
        print(f"{name:<10}{printable(value)}")


def _overlay(manifest: OverlayManifest) -> list[tuple[str, str]]:
    gain, trials = manifest.gain, manifest.trials
    return [
        ("of bundle", manifest.bundle_sha256),
        ("subject", manifest.subject),
        ("label", manifest.label),
        ("created", manifest.created),
        ("holds", " and ".join(manifest.holds)),
        ("voxels", str(manifest.voxels)),
        (
            "gain",
            f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] in {gain.measure}, "
            f"{gain.without:.3f} to {gain.reached:.3f}, {gain.confidence:.0%} interval",
        ),
        (
            "trials",
            f"{trials.count} of {trials.images} images in {', '.join(trials.runs)}",
        ),
    ]


def _lines(manifest: Manifest) -> list[tuple[str, str]]:
    flow, voxels, latent = manifest.flow, manifest.voxels, manifest.latent
    estimator = manifest.estimator
    how = ""
    if isinstance(estimator, BetaEstimator):
        how = f", {estimator.decision_delay_s:g} s after the onset"
        if told := told_confounds(estimator):
            how += f", with {', '.join(told)} told with every volume"
    elif isinstance(estimator, ExternalEstimator):
        how = f", not to be served: {description(estimator)}"
    size = sum(file.size for file in manifest.files) / 1e6
    reached: dict[str, float] = {}
    for gate in manifest.gates:
        if gate.metric == "rel_l2":
            worst = max(reached.get(gate.precision, 0.0), gate.reached)
            reached[gate.precision] = worst
    parity = ", ".join(f"{error:.1e} in {key}" for key, error in reached.items())
    for precision in EIGHT_BITS:
        cosines = [
            gate.reached
            for gate in manifest.gates
            if (gate.precision, gate.metric) == (precision, "cosine")
        ]
        if cosines:
            parity += f", cosine {min(cosines):.4f} in {precision}"
    return [
        ("subject", manifest.subject),
        ("created", manifest.created),
        ("input", f"{manifest.input_kind}{how}"),
        ("voxels", f"{voxels.count} of {'x'.join(map(str, voxels.shape))}"),
        ("latent", f"{latent.tokens} x {latent.width} ({manifest.backbone.name})"),
        (
            "flow",
            f"{flow.solver} on {flow.path}, {len(flow.decode_times) - 1} steps to "
            f"decode, {len(flow.encode_times) - 1} to encode",
        ),
        ("graphs", ", ".join(_title(graph) for graph in manifest.graphs)),
        ("files", f"{len(manifest.files)}, {size:.1f} MB"),
        (
            "parity",
            f"relative L2 at worst {parity}, {len(manifest.gates)} gates"
            if manifest.gates
            else "no gates recorded",
        ),
    ]


def _title(graph: GraphSpec) -> str:
    is_plain = graph.precision == "f32"
    return graph.name if is_plain else f"{graph.name} {graph.precision}"
