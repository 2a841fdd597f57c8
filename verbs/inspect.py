"""`neuroflow inspect` and `verify`: what is in a bundle, and is it true here?"""

import sys
from pathlib import Path

import msgspec

from runtime.bundle import open_bundle
from runtime.estimator import BetaEstimator, ExternalEstimator, description
from runtime.manifest import Manifest
from runtime.model import GOLDEN_LIMITS, golden_errors, open_model
from runtime.signing_keys import read_trust


def inspect_bundle(folder: Path, *, trust: tuple[Path, ...], as_json: bool) -> None:
    """Print what a bundle says, once it is known to be what it says.

    Args:
        folder: A bundle.
        trust: Public keys; with any, the bundle must be signed by one of them.
        as_json: Print the manifest, and who signed on standard error.

    Raises:
        BundleError: The folder is not exactly what its manifest lists, or not signed
            by a key that is trusted.
        ArtifactError: A public key is missing, damaged or open to others.
    """
    trusted = read_trust(trust) if trust else None
    with open_bundle(folder, trust=trusted) as bundle:
        manifest, signature = bundle.manifest, str(bundle.signer or "none")
        if as_json:
            print(f"signature {signature}", file=sys.stderr)
            print(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())
            return
        print(f"bundle    {bundle.sha256}")
        print(f"signature {signature}")
        for name, value in _lines(manifest):
            print(f"{name:<10}{value}")


def _lines(manifest: Manifest) -> list[tuple[str, str]]:
    flow, voxels, latent = manifest.flow, manifest.voxels, manifest.latent
    estimator = manifest.estimator
    how = ""
    if isinstance(estimator, BetaEstimator):
        how = f", {estimator.decision_delay_s:g} s after the onset"
    elif isinstance(estimator, ExternalEstimator):
        how = f", not to be served: {description(estimator)}"
    size = sum(file.size for file in manifest.files) / 1e6
    reached = max(
        (gate.reached for gate in manifest.gates if gate.metric == "rel_l2"),
        default=0.0,
    )
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
        ("graphs", ", ".join(graph.name for graph in manifest.graphs)),
        ("files", f"{len(manifest.files)}, {size:.1f} MB"),
        ("parity", f"{reached:.1e} relative L2 at worst, {len(manifest.gates)} gates"),
    ]


def verify_bundle(folder: Path, *, backend: str, as_json: bool) -> None:
    """Print how far each map is from the golden vectors on this machine.

    Raises:
        BundleError: The folder is not exactly what its manifest lists.
        ParityError: A map is beyond its limit.
    """
    with open_bundle(folder) as bundle, open_model(bundle, backend) as model:
        errors = golden_errors(model, bundle.golden())
        limit = GOLDEN_LIMITS["f32"]
        if as_json:
            result = {"backend": model.backend, "limit": limit, "rel_l2": errors}
            print(msgspec.json.encode(result).decode())
            return
        print(
            f"{model.backend}: relative L2 to the golden vectors, at most {limit:.0e}"
        )
        for name, error in errors.items():
            print(f"  {name:<12}{error:.1e}")
