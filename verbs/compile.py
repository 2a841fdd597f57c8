"""`neuroflow compile`: the engines of a bundle, built before anybody waits for them."""

import os
import sys
import time
from pathlib import Path

import msgspec

from runtime.bundle import Bundle, open_bundle
from runtime.engine import Precision, open_engine
from runtime.engines.cache import EngineCache, user_cache
from runtime.errors import ArtifactError
from runtime.graphs import (
    AUTOENCODER,
    check_threads,
    flow_graphs,
    graph_of,
    kept_engine,
    told_precision,
)
from runtime.model import open_model


class CompiledGraph(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one graph."""

    graph: str
    seconds: float
    from_cache: bool
    """It had been built before, and was loaded."""


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a bundle."""

    backend: str
    precision: str
    cache: str
    graphs: tuple[CompiledGraph, ...]
    unstored: int
    """Engines that could not be kept and are built again at each start."""


def compile_bundle(
    folder: Path,
    *,
    backend: str,
    precision: Precision,
    threads: int | None,
    as_json: bool,
) -> None:
    """Build a bundle's engines into this user's cache, then hold them against golden.

    Args:
        folder: A bundle.
        backend: One whose engines can be kept.
        precision: Of the arithmetic.
        threads: Of one evaluation; part of what an engine is built for.
        as_json: Print JSON.

    Raises:
        BundleError: The folder is not exactly what its manifest lists.
        BackendError: The library or a device is missing, or a graph does not compile.
        ParityError: What was built does not give the golden vectors.
        UsageError: Fewer than one thread.
        ArtifactError: An engine was built and judged, but could not be kept.
    """
    check_threads(threads)

    def say(line: str) -> None:
        print(f"neuroflow: {line}", file=sys.stderr, flush=True)

    cache = EngineCache(user_cache(os.environ), say)
    graphs = []
    with open_bundle(folder) as bundle:
        names = (*AUTOENCODER, *flow_graphs(backend))
        for i, name in enumerate(names):
            say(f"compile {i + 1} of {len(names)}: {name} for {backend} {precision}")
            graphs.append(_compiled(bundle, name, backend, precision, threads, cache))
        unstored = cache.counts.unstored
        # From the cache now: what is kept is what was judged.
        with open_model(bundle, backend, precision, threads, cache=cache) as model:
            version = model.backend
    result = Compiled(
        backend=version,
        precision=precision,
        cache=str(cache.folder),
        graphs=tuple(graphs),
        unstored=unstored,
    )
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        for one in result.graphs:
            how = "loaded from the cache" if one.from_cache else "built"
            print(f"{one.graph:<12}{how} in {one.seconds:.2f} s")
        kept = "not all kept" if unstored else "kept"
        said = f"{version} {precision}: gives the golden vectors; {kept}"
        print(f"{said} in {cache.folder}")
    if unstored:
        raise ArtifactError(
            f"{cache.folder}: expected to keep {len(names)} engines, found {unstored} "
            "that could not be. Each start builds them; see why above."
        )


def _compiled(
    bundle: Bundle,
    name: str,
    backend: str,
    precision: Precision,
    threads: int | None,
    cache: EngineCache,
) -> CompiledGraph:
    graph = graph_of(bundle.manifest, name, backend, precision)
    built = cache.counts.built
    before_s = time.perf_counter()
    open_engine(
        backend,
        bundle.folder / graph.file,
        graph,
        precision=told_precision(graph, backend, precision),
        threads=threads,
        kept=kept_engine(cache, bundle.manifest, graph, precision),
    ).close()
    return CompiledGraph(
        graph=name,
        seconds=time.perf_counter() - before_s,
        from_cache=cache.counts.built == built,
    )
