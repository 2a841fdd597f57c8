"""A bundle's model, opened: its engines are believed only after they are judged.

Each map must give the bundle's golden vectors before `open_model` returns, and those of
an engine that takes over later before it answers.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from runtime.arrays import Shaped, is_whole
from runtime.bundle import Bundle
from runtime.engine import Engine, Precision, Waiting, open_engine
from runtime.engines.cache import EngineCache
from runtime.engines.standby import Opener
from runtime.errors import UsageError
from runtime.golden import LIMITS, check_golden
from runtime.graphs import (
    FORMS,
    PARTS,
    UNROLLED,
    Form,
    Part,
    check_behind,
    map_limits,
    open_engines,
)
from runtime.manifest import GraphSpec, Manifest
from runtime.maps import Model
from runtime.rows import rows_by
from runtime.stepped import SteppedFlow, course_of

__all__ = ["SAMPLES", "Model", "model_from_folder", "open_model"]

SAMPLES: Final = 1
"""Golden samples that a server's engines are judged by: it has to start, or to go on in
the middle of a run. `compile` and `verify` take all."""


def open_model(
    bundle: Bundle,
    backend: str = "ort",
    precision: Precision = "f32",
    threads: int | None = None,
    form: Form | None = None,
    cache: EngineCache | None = None,
    behind: Sequence[str] = (),
    waiting: Waiting | None = None,
    samples: int | None = None,
    parts: Collection[Part] = PARTS,
) -> Model:
    """Compile a bundle's graphs and hold them against its golden vectors.

    Args:
        bundle: Stays open for as long as the model.
        backend: Engine library; a key of `runtime.graphs.FORMS`.
        precision: Of the arithmetic. OpenVINO computes float32 graphs in what it is
            told; ONNX Runtime computes what a graph says, and on the CPU no bf16.
        threads: Threads of one evaluation; None leaves the choice to the library.
        form: Run the flow as one unrolled graph or step by step; None takes what
            suits the backend.
        cache: Where compiled engines are kept between starts; None keeps none.
        behind: Backends that take over, in f32, where an engine fails later on; each
            runs the flow as suits itself.
        waiting: How TensorRT waits; None takes its defaults, or is another backend.
        samples: How many golden samples to judge by; None takes all. An engine that is
            wrong is wrong at the first: it has the same weights for each.
        parts: The maps that will be called; the model has no others.

    Raises:
        BackendError: The library is missing, lacks the precision or refuses a graph.
        ParityError: A map does not give its golden vectors.
        UsageError: Threads, samples, a form, parts, a cache or a way of waiting that
            there cannot be.
    """
    check_behind(behind)
    if samples is not None and not (is_whole(samples) and samples >= 1):
        raise UsageError(f"samples: expected at least 1, or None, found {samples}")
    engines = open_engines(
        bundle.folder,
        bundle.manifest,
        backend=backend,
        precision=precision,
        threads=threads,
        form=form,
        cache=cache,
        waiting=waiting,
        parts=parts,
    )
    rows_of = rows_by(backend, precision, threads)
    model = Model(bundle.manifest, engines, bundle.tensors, parts, rows_of)
    if behind:
        model.put_behind(
            {name: _standbys(bundle, name, behind, threads) for name in model.graphs},
            functools.partial(_judge_alone, bundle, parts),
        )
    try:
        limits = map_limits(bundle.manifest, backend, precision)
        check_golden(model, bundle.golden(), limits, model.backend, samples)
    except BaseException:
        model.close()
        raise
    return model


def _standbys(
    bundle: Bundle, name: str, behind: Sequence[str], threads: int | None
) -> list[Opener]:
    return [functools.partial(_standby, bundle, name, one, threads) for one in behind]


def _standby(bundle: Bundle, name: str, backend: str, threads: int | None) -> Engine:
    """Open another engine of a graph, in the form that suits its backend.

    Raises:
        BackendError: The library is missing or refuses the graph.
    """
    manifest = bundle.manifest

    def opened(graph: GraphSpec) -> Engine:
        return open_engine(backend, bundle.folder / graph.file, graph, threads=threads)

    graph = manifest.graph(name)
    direction = UNROLLED.get(name)
    if direction is None or FORMS.get(backend) != "step":
        return opened(graph)
    step = opened(manifest.graph("step"))
    return SteppedFlow(step, graph, course_of(manifest, bundle.tensors, direction))


def _judge_alone(
    bundle: Bundle, parts: Collection[Part], name: str, engine: Engine
) -> None:
    """Hold one graph's engine, which computes in f32, against the golden vectors.

    Raises:
        ParityError: A map that is asked of the graph does not give them.
        BackendError: The engine failed.
    """
    model = Model(bundle.manifest, {name: engine}, bundle.tensors, parts)
    check_golden(model, bundle.golden(), LIMITS["f32"], f"{engine.name} f32", SAMPLES)


def model_from_folder(
    folder: Path,
    manifest: Manifest,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    *,
    backend: str,
    precision: Precision,
    threads: int | None,
    form: Form | None,
) -> Model:
    """Compile graphs without judging them, as the export's judge and `verify` do.

    Raises:
        BackendError: The library is missing, lacks the precision or refuses a graph.
    """
    engines = open_engines(
        folder,
        manifest,
        backend=backend,
        precision=precision,
        threads=threads,
        form=form,
    )
    return Model(manifest, engines, tensors)
