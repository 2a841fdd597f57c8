"""Measures the engines of this rig on a bundle's own golden samples.

The thin edge around `runtime.engines.choice`: opens one candidate after another, so
that two models are never in memory at once.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from runtime.bundle import Bundle
from runtime.engine import Precision
from runtime.engines.cache import EngineCache
from runtime.engines.choice import Candidate, Choice, Measured, choose
from runtime.errors import BackendError, BundleError, ParityError
from runtime.graphs import SERVED, flow_graphs, graph_of
from runtime.manifest import Manifest
from runtime.model import Model, open_model

CANDIDATES: Final = (
    Candidate("openvino", "f32"),
    Candidate("ort", "f32"),
    Candidate("tensorrt", "f32"),
    Candidate("ort_cuda", "f32"),
    Candidate("ort", "f16"),
    Candidate("tensorrt", "f16"),
    Candidate("ort_cuda", "f16"),
    Candidate("openvino", "bf16"),
    Candidate("tensorrt", "bf16"),
    Candidate("ort_cuda", "bf16"),
    Candidate("openvino", "int8"),
    Candidate("ort", "int8"),
    Candidate("tensorrt", "int8"),
    Candidate("tensorrt", "fp8"),
)
"""The more exact before the faster, so that equal times take the more exact."""
_BY_HINT: Final = Candidate("openvino", "bf16")
"""Computed from the float32 graph, which every bundle has."""
WARM_UPS: Final = 2
SAMPLES: Final = 7


def candidates_of(manifest: Manifest) -> tuple[Candidate, ...]:
    """Return the candidates whose precision a bundle's graphs are written in."""
    written = {graph.precision for graph in manifest.graphs}
    return tuple(
        one for one in CANDIDATES if one.precision in written or one == _BY_HINT
    )


def choose_engine(
    bundle: Bundle,
    *,
    threads: int | None,
    clock: Callable[[], int],
    cache: EngineCache | None = None,
    candidates: Sequence[Candidate] | None = None,
    opened: Callable[..., Model] = open_model,
) -> Choice:
    """Measure each candidate that gives the golden vectors here.

    Args:
        bundle: An open bundle.
        threads: Of one evaluation; None leaves the choice to the library.
        clock: Monotonic nanoseconds.
        cache: Where compiled engines are kept, so that the one taken is not built
            twice; None keeps none.
        candidates: What to measure, in order of preference among equals; None takes
            what the bundle is written in.
        opened: Opens a model, or raises; `runtime.model.open_model`.

    Raises:
        BackendError: No candidate can be taken.
    """
    measured = []
    for one in candidates_of(bundle.manifest) if candidates is None else candidates:
        trouble = _absent(bundle.manifest, one)
        if trouble:
            measured.append(Measured(candidate=one, trouble=trouble))
            continue
        try:
            model = opened(
                bundle, one.backend, one.precision, threads, cache=cache, parts=SERVED
            )
        except (BackendError, ParityError) as error:
            measured.append(Measured(candidate=one, trouble=str(error)))
            continue
        try:
            median_s = _median_s(model, bundle, clock)
        except BackendError as error:
            measured.append(Measured(candidate=one, trouble=str(error)))
        else:
            measured.append(Measured(candidate=one, median_s=median_s))
        finally:
            model.close()
    return choose(measured)


def _absent(manifest: Manifest, one: Candidate) -> str:
    """Say which graph a candidate would lack; empty where it has all.

    A graph that is there and not sound is no reason to take another: it is raised.
    """
    precision = msgspec.convert(one.precision, Precision)
    try:
        for name in ("encoder", *flow_graphs(one.backend, parts=SERVED)):
            graph_of(manifest, name, one.backend, precision)
    except (BackendError, BundleError) as error:
        return str(error)
    return ""


def _median_s(model: Model, bundle: Bundle, clock: Callable[[], int]) -> float:
    voxels = bundle.golden()["voxels"]
    durations = []
    for i in range(WARM_UPS + SAMPLES):
        before_ns = clock()
        model.decode_latent(model.encode_voxels(voxels[i % len(voxels)]))
        durations.append(1e-9 * (clock() - before_ns))
    return statistics.median(durations[WARM_UPS:])
