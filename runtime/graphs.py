"""Which of a bundle's graphs a backend opens, and their engines.

A bundle writes a graph in several precisions, and the flow both unrolled and step by
step; what suits a backend is decided here and nowhere else.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from runtime.arrays import is_whole
from runtime.engine import Engine, Precision, Waiting, open_engine
from runtime.engines.cache import EngineCache, KeptEngine
from runtime.errors import BackendError, UsageError
from runtime.golden import Limits, limits_of
from runtime.manifest import EIGHT_BITS, GraphSpec, Manifest
from runtime.solver import Direction

Form = Literal["unrolled", "step"]
Part = Literal["encoder", "retrieval", "decoder", "decode_flow", "encode_flow"]
"""One of a model's five maps, whatever graph computes it."""

AUTOENCODER: Final[tuple[Part, ...]] = ("encoder", "retrieval", "decoder")
"""Maps that have a graph of their own, whichever form the flow has."""
PARTS: Final[tuple[Part, ...]] = (*AUTOENCODER, "decode_flow", "encode_flow")
"""The whole model."""
BOTH_WAYS: Final[tuple[Part, ...]] = (
    "encoder",
    "decoder",
    "decode_flow",
    "encode_flow",
)
"""From voxels to z_v and back; an evaluation alone asks for the retrieval features."""
SERVED: Final[tuple[Part, ...]] = ("encoder", "decode_flow")
"""What a server answers with; the others predict, which it is never asked to."""
FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {
        "ort": "unrolled",
        "ort_cuda": "unrolled",
        "openvino": "step",
        "reference": "unrolled",
        "tensorrt": "unrolled",
    }
)
"""How a backend runs the flow. OpenVINO keeps a copy of the weights per unrolled step.
"""
UNROLLED: Final[Mapping[str, Direction]] = MappingProxyType(
    {"decode_flow": "decode", "encode_flow": "encode"}
)
"""Graphs that have all steps of the flow, and which way they go."""
_MOST_THREADS: Final = 4096
_FP8: Final = ("tensorrt", "ort", "reference")
"""What computes 8-bit floating point as a graph says it. OpenVINO 2026.4 makes NaN a
number there; of ONNX Runtime on a GPU nobody knows, and TensorRT is the faster one."""


def graph_of(
    manifest: Manifest, name: str, backend: str, precision: Precision
) -> GraphSpec:
    """Return the graph that a backend opens for a precision.

    It is the one that is written in this precision, or else the float32 graph, which
    the backend may be told to compute in another. OpenVINO always takes the latter for
    bfloat16: it types a graph anew, whatever casts are in it.

    Raises:
        BackendError: The backend does not compute what 8-bit floating point is.
        BundleError: The bundle has no such graph, or none of the flow's in 8 bits where
            they are asked for: the one in float32 does not take its place.
    """
    if precision == "fp8" and backend not in _FP8:
        raise BackendError(
            f"fp8: expected one of the backends {', '.join(_FP8)}, found {backend}. "
            "Choose tensorrt, or another precision."
        )
    is_told = backend == "openvino" and precision == "bf16"
    written = {(graph.name, graph.precision) for graph in manifest.graphs}
    if precision in EIGHT_BITS:
        # The other graphs of this precision are in float32, and would hide it.
        flow = name if name in ("step", *UNROLLED) else "step"
        if (flow, precision) not in written:
            return manifest.graph(flow, precision)
    is_written = (name, precision) in written and not is_told
    return manifest.graph(name, precision if is_written else "f32")


def map_limits(
    manifest: Manifest, backend: str, precision: Precision
) -> Mapping[str, Limits]:
    """Return what each map of a model must keep, by its name.

    In 8 bits a bundle has the flow alone: its other maps are computed in float32, and
    held to that, but by OpenVINO in bfloat16 where the processor has it.

    Raises:
        BackendError: The backend does not compute what 8-bit floating point is.
        BundleError: The bundle has not the graphs of this precision.
    """

    def limits(name: str) -> Limits:
        written = graph_of(manifest, name, backend, precision).precision
        if precision not in EIGHT_BITS:
            return limits_of(written, precision)
        is_told = backend == "openvino" and written == "f32"
        return limits_of(written, "bf16" if is_told else written)

    # Whether it runs unrolled or not, the flow computes in the precision of a step. The
    # retrieval features are written in the encoder's; bundles of before have no graph
    # of them, and are served all the same.
    encoder, decoder, flow = (limits(name) for name in ("encoder", "decoder", "step"))
    return {
        "encoder": encoder,
        "retrieval": encoder,
        "decode_flow": flow,
        "encode_flow": flow,
        "decoder": decoder,
    }


def open_engines(
    folder: Path,
    manifest: Manifest,
    *,
    backend: str,
    precision: Precision,
    threads: int | None,
    form: Form | None = None,
    cache: EngineCache | None = None,
    waiting: Waiting | None = None,
    parts: Collection[Part] = PARTS,
) -> dict[str, Engine]:
    """Compile the graphs of a model; nobody has judged them yet.

    Args:
        folder: Where the graphs lie; a bundle's private copy.
        manifest: Of the bundle.
        backend: Engine library.
        precision: Of the arithmetic.
        threads: Threads of one evaluation; None leaves the choice to the library.
        form: How the flow runs; None takes what suits the backend.
        cache: Where compiled engines are kept between starts; None keeps none.
        waiting: How TensorRT waits; None for other backends. One graph is enough to
            keep a GPU warm: the flow's that is called for every answer.
        parts: Which maps are asked for; the graphs of others stay closed.

    Returns:
        The engine of each graph, by name.

    Raises:
        BackendError: The library is missing, lacks the precision or refuses a graph.
        BundleError: The bundle has no such graph, or its file is not sound.
        TensorMismatchError: A file's inputs or outputs differ from the manifest's.
        UsageError: A number of threads, a form, parts, a cache or a way of waiting that
            there cannot be.
    """
    check_threads(threads)
    check_parts(parts)
    check_cache(cache)
    check_waiting(waiting)
    if form is not None and form not in FORMS.values():
        raise UsageError(f"form: expected unrolled or step, found {form}")
    if backend not in FORMS:
        raise BackendError(
            f"backend: expected one of {', '.join(FORMS)}, found {backend}"
        )
    engines: dict[str, Engine] = {}
    flow = flow_graphs(backend, form, parts)
    names = (*(name for name in AUTOENCODER if name in parts), *flow)
    try:
        for name in names:
            graph = graph_of(manifest, name, backend, precision)
            engines[name] = open_engine(
                backend,
                folder / graph.file,
                graph,
                precision=told_precision(graph, backend, precision),
                threads=threads,
                kept=(
                    None
                    if cache is None
                    else kept_engine(cache, manifest, graph, precision)
                ),
                waiting=(
                    waiting
                    if waiting is None or name in flow[:1]
                    else waiting._replace(keep_warm=False)
                ),
            )
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return engines


def check_threads(threads: int | None) -> None:
    """Refuse what libraries take for a choice of their own: 0, some any below it.

    Raises:
        UsageError: Fewer than one thread, more than any machine has, or a fraction.
    """
    if threads is None:
        return
    if not is_whole(threads):
        raise UsageError(f"threads: expected a whole number, found {threads}")
    if threads < 1:
        raise UsageError(f"threads: expected at least 1, found {threads}")
    if threads > _MOST_THREADS:
        raise UsageError(f"threads: expected at most {_MOST_THREADS}, found {threads}")


def check_parts(parts: Collection[Part]) -> None:
    """Refuse a model of nothing, or of what no model has.

    Raises:
        UsageError: Naming what a model has.
    """
    unknown = [str(part) for part in parts if part not in PARTS]
    if isinstance(parts, str) or not parts or unknown:
        found = f"the text {parts}" if isinstance(parts, str) else ", ".join(unknown)
        raise UsageError(
            f"parts: expected some of {', '.join(PARTS)}, found {found or 'none'}"
        )


def check_cache(cache: EngineCache | None) -> None:
    """Refuse what keeps no engines, be it a folder that could.

    Raises:
        UsageError: With what to make of it.
    """
    if cache is not None and not isinstance(cache, EngineCache):
        raise UsageError(
            f"cache: expected an EngineCache, found {type(cache).__name__}. "
            "Write EngineCache(folder)."
        )


def check_waiting(waiting: Waiting | None) -> None:
    """Refuse what says of no library how it waits.

    Raises:
        UsageError: With what to write instead.
    """
    if waiting is not None and not isinstance(waiting, Waiting):
        raise UsageError(
            f"waiting: expected a Waiting, found {type(waiting).__name__}. "
            'Write Waiting("spin") or Waiting("block").'
        )


def check_behind(behind: Sequence[str]) -> None:
    """Refuse standbys that nobody could open, while there is time to choose others.

    Raises:
        UsageError: A text where several are expected.
        BackendError: An unknown backend.
    """
    if isinstance(behind, str):
        raise UsageError(
            f"behind: expected a list of backends, found the text {behind}. "
            f"Write [{behind!r}]."
        )
    if unknown := [str(one) for one in behind if one not in FORMS]:
        raise BackendError(
            f"behind: expected some of {', '.join(FORMS)}, found {', '.join(unknown)}"
        )


def told_precision(graph: GraphSpec, backend: str, precision: Precision) -> Precision:
    """Return what an engine is told: not what the graph itself says."""
    if backend in ("tensorrt", "ort_cuda"):
        # Strongly typed: a graph is opened as what it is written in, or not at all. Of
        # 8 bits the bundle has the flow alone, and its other graphs are in float32.
        return graph.precision if precision in EIGHT_BITS else precision
    if backend == "openvino" and precision in EIGHT_BITS:
        # It chooses itself what it computes the rest in.
        return precision
    is_said = precision in EIGHT_BITS or (
        graph.precision == precision
        and (backend == "reference" or (backend == "ort" and precision == "f16"))
    )
    return "f32" if is_said else precision


def flow_graphs(
    backend: str, form: Form | None = None, parts: Collection[Part] = PARTS
) -> tuple[str, ...]:
    """Return the names of the graphs that a backend runs the flow with.

    Args:
        backend: Engine library.
        form: How the flow runs; None takes what suits the backend.
        parts: Which maps are asked for. One step graph is enough for both directions.
    """
    unrolled = tuple(name for name in UNROLLED if name in parts)
    is_step = (form or FORMS.get(backend)) == "step"
    return ("step",) if is_step and unrolled else unrolled


def kept_engine(
    cache: EngineCache, manifest: Manifest, graph: GraphSpec, precision: Precision
) -> KeptEngine:
    """Return where a graph's engine is kept: by what was verified of its files."""
    files = {spec.path: spec.sha256 for spec in manifest.files}
    weights = [one for path, one in files.items() if path.endswith(".weights")]
    digest = hashlib.sha256(" ".join([files[graph.file], *sorted(weights)]).encode())
    return KeptEngine(cache, digest.hexdigest(), graph.name, precision)
