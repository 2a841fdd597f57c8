"""`neuroflow verify`: gates of the export once more, on this machine, without torch.

Those of each map and each step; of the chains of all maps, the stressed field and
retrieval the manifest says what was reached.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from runtime.bundle import Bundle, open_bundle
from runtime.engine import Precision
from runtime.golden import (
    STATES,
    Limits,
    Verdict,
    limits_for,
    map_verdicts,
    step_verdicts,
)
from runtime.graphs import Form, map_limits
from runtime.model import Model, model_from_folder
from runtime.overlay import open_overlay


def verify_bundle(
    folder: Path,
    *,
    overlay: Path | None = None,
    backend: str,
    precision: Precision,
    as_json: bool,
) -> None:
    """Print how far each map, and each step of the flow, is from the golden vectors.

    Args:
        folder: A bundle.
        overlay: A day's overlay, which must be this bundle's.
        backend: Engine library.
        precision: Of the arithmetic.
        as_json: Print JSON.

    Raises:
        BundleError: A folder is not exactly what its manifest lists, or the overlay is
            another bundle's.
        BackendError: The library is missing, lacks the precision or refuses a graph.
        ParityError: Of the first result beyond its limits, after all are printed.
    """
    with open_bundle(folder) as bundle:
        if overlay is not None:
            open_overlay(overlay, bundle)
        limits = map_limits(bundle.manifest, backend, precision)
        name, verdicts = _judged(bundle, backend, precision)
        has_steps = any(key in bundle.golden() for key in STATES.values())
    if as_json:
        print(_json(name, precision, limits, verdicts))
    else:
        for line in _lines(name, precision, limits, verdicts, has_steps=has_steps):
            print(line)
    for verdict in verdicts:
        verdict.require(limits_for(limits, verdict.name), _remedy(backend))


def _remedy(backend: str) -> str:
    if backend == "reference":
        return (
            "No backend can help: the golden vectors are not what the graphs compute. "
            "Export the bundle again."
        )
    return (
        "Choose another backend or precision on this machine; where --backend "
        "reference finds the same, export the bundle again."
    )


def _judged(
    bundle: Bundle, backend: str, precision: Precision
) -> tuple[str, list[Verdict]]:
    """Judge the form that is served; where that is one graph, the steps apart."""
    golden = bundle.golden()
    # What is not finite is counted and said; numpy's own warnings of it are noise.
    with (
        np.errstate(all="ignore"),
        _model(bundle, backend, precision, None) as model,
    ):
        name = model.backend
        verdicts = list(map_verdicts(model.maps(), golden))
        if model.form == "step":
            return name, verdicts + list(step_verdicts(model, golden))
    with (
        np.errstate(all="ignore"),
        _model(bundle, backend, precision, "step") as model,
    ):
        return name, verdicts + list(step_verdicts(model, golden))


def _model(
    bundle: Bundle, backend: str, precision: Precision, form: Form | None
) -> Model:
    # Not `open_model`, which ends at the first map that is beyond its limits.
    return model_from_folder(
        bundle.folder,
        bundle.manifest,
        bundle.tensors,
        backend=backend,
        precision=precision,
        threads=None,
        form=form,
    )


def _lines(
    name: str,
    precision: Precision,
    limits: Mapping[str, Limits],
    verdicts: list[Verdict],
    *,
    has_steps: bool,
) -> Iterator[str]:
    flow, others = limits["decode_flow"], limits["encoder"]
    expected = (
        f"{flow}" if flow == others else f"{flow} of the flow, {others} elsewhere"
    )
    yield f"{name}, {precision}: expected {expected} to the golden vectors"
    for verdict in verdicts:
        is_within = verdict.is_within(limits_for(limits, verdict.name))
        end = "" if is_within else "  beyond"
        if verdict.nonfinite:
            end = f"  {verdict.nonfinite} non-finite{end}"
        yield (
            f"  {verdict.name:<20}relative L2 {verdict.rel_l2:.1e}  "
            f"cosine {verdict.cosine:.6f}{end}"
        )
    if not has_steps:
        yield "  steps of the flow: not judged, the bundle is older than their vectors"


def _json(
    name: str,
    precision: Precision,
    limits: Mapping[str, Limits],
    verdicts: list[Verdict],
) -> str:
    own = {one.name: limits_for(limits, one.name) for one in verdicts}
    result = {
        "backend": name,
        "precision": precision,
        # Of the flow; maps in another precision have limits of their own.
        "limits": _told(limits["decode_flow"]),
        # JSON has no infinity: what is not finite is null, and counted.
        "results": {
            verdict.name: {
                "rel_l2": None if verdict.nonfinite else verdict.rel_l2,
                "cosine": None if verdict.nonfinite else verdict.cosine,
                "nonfinite": verdict.nonfinite,
                "limits": _told(own[verdict.name]),
                "is_within": verdict.is_within(own[verdict.name]),
            }
            for verdict in verdicts
        },
    }
    return msgspec.json.encode(result).decode()


def _told(limits: Limits) -> dict[str, float | None]:
    return {"rel_l2": limits.rel_l2, "cosine": limits.cosine}
