"""`neuroflow verify`: the export's gate once more, on this machine, without torch."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from runtime.bundle import Bundle, open_bundle
from runtime.engine import Precision
from runtime.golden import (
    STATES,
    Limits,
    Verdict,
    limits_of,
    map_verdicts,
    step_verdicts,
)
from runtime.graphs import Form, graph_of
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
        graph = graph_of(bundle.manifest, "step", backend, precision)
        limits = limits_of(graph.precision, precision)
        name, verdicts = _judged(bundle, backend, precision)
        has_steps = any(key in bundle.golden() for key in STATES.values())
    if as_json:
        print(_json(name, precision, limits, verdicts))
    else:
        for line in _lines(name, precision, limits, verdicts, has_steps=has_steps):
            print(line)
    for verdict in verdicts:
        verdict.require(limits, "Choose another backend or precision on this machine")


def _judged(
    bundle: Bundle, backend: str, precision: Precision
) -> tuple[str, list[Verdict]]:
    """Judge the form that is served; where that is one graph, the steps apart."""
    golden = bundle.golden()
    with _model(bundle, backend, precision, None) as model:
        name = model.backend
        verdicts = list(map_verdicts(model.maps(), golden))
        if model.form == "step":
            return name, verdicts + list(step_verdicts(model, golden))
    with _model(bundle, backend, precision, "step") as model:
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
    limits: Limits,
    verdicts: list[Verdict],
    *,
    has_steps: bool,
) -> Iterator[str]:
    yield f"{name}, {precision}: expected {limits} to the golden vectors"
    for verdict in verdicts:
        end = "" if verdict.is_within(limits) else "  beyond"
        if verdict.nonfinite:
            end = f"  {verdict.nonfinite} non-finite{end}"
        yield (
            f"  {verdict.name:<20}relative L2 {verdict.rel_l2:.1e}  "
            f"cosine {verdict.cosine:.6f}{end}"
        )
    if not has_steps:
        yield "  steps of the flow: not judged, the bundle is older than their vectors"


def _json(
    name: str, precision: Precision, limits: Limits, verdicts: list[Verdict]
) -> str:
    result = {
        "backend": name,
        "precision": precision,
        "limits": {"rel_l2": limits.rel_l2, "cosine": limits.cosine},
        # JSON has no infinity: what is not finite is null, and counted.
        "results": {
            verdict.name: {
                "rel_l2": None if verdict.nonfinite else verdict.rel_l2,
                "cosine": None if verdict.nonfinite else verdict.cosine,
                "nonfinite": verdict.nonfinite,
                "is_within": verdict.is_within(limits),
            }
            for verdict in verdicts
        },
    }
    return msgspec.json.encode(result).decode()
