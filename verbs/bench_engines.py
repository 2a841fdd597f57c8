"""The stages of a bundle in one of the runtime's engines, each as a call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import msgspec
import numpy as np

from runtime.arrays import Float32
from runtime.bundle import Bundle
from runtime.engine import Array, Engine, Inputs, Precision, allocate, read_only
from runtime.golden import check_golden, limits_of
from runtime.graphs import graph_of, open_engines
from runtime.heads import Retrieval
from runtime.manifest import GraphSpec, Manifest
from runtime.model import Model
from runtime.preprocess import VoxelMask
from runtime.solver import solver_from_name, time_grid
from verbs.bench_orders import Job

Call = Callable[[], object]


@final
class Silent:
    """An engine that takes its inputs, computes nothing and gives its outputs."""

    name, version = "silent", "0"

    def __init__(self, graph: GraphSpec) -> None:
        self._inputs = Inputs(graph.inputs, lambda _name, _memory: None)
        self._outputs = read_only(allocate(graph.outputs))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Take the inputs; see `runtime.engine.Engine.run`."""
        self._inputs.take(inputs)
        return self._outputs

    def close(self) -> None:
        """Do nothing."""


@final
@dataclass(frozen=True, slots=True)
class Stages:
    """What a process can be asked to do."""

    calls: Mapping[str, Call]
    flow: Callable[[int], Call]
    """A flow of so many evaluations."""
    close: Call


def with_evaluations(manifest: Manifest, evaluations: int) -> Manifest:
    """Return a manifest whose decode direction has this many evaluations."""
    flow = manifest.flow
    steps = evaluations // solver_from_name(flow.solver, flow.path).evaluations
    changed = msgspec.structs.replace(
        flow,
        decode_times=time_grid(max(steps, 1), "decode"),
        decode_evaluations=evaluations,
    )
    return msgspec.structs.replace(manifest, flow=changed)


def open_stages(bundle: Bundle, job: Job) -> Stages:
    """Compile a bundle's graphs and return its stages.

    Raises:
        BackendError: The library is missing or refuses.
        ParityError: The engine does not compute the golden vectors.
    """
    who, manifest, tensors = job.who, bundle.manifest, bundle.tensors
    precision: Precision = msgspec.convert(who.precision, Precision)
    engines = open_engines(
        bundle.folder,
        manifest,
        backend=who.peer,
        precision=precision,
        threads=who.threads,
        form="step",
    )
    model = Model(manifest, engines, tensors)
    graph = graph_of(manifest, "step", who.peer, precision)
    limits = limits_of(graph.precision, precision)
    check_golden(model, bundle.golden(), limits, str(who))
    silent = {name: Silent(manifest.graph(name)) for name in engines}
    return Stages(
        _calls(bundle, model, Model(manifest, silent, tensors), job.gallery),
        lambda n: _flow(bundle, engines, n),
        model.close,
    )


def _flow(bundle: Bundle, engines: Mapping[str, Engine], evaluations: int) -> Call:
    # What the rows say does not matter here: they all cost the same.
    rows = bundle.tensors["conditioning_decode"]
    table = np.resize(rows, (evaluations, rows.shape[1]))
    model = Model(
        with_evaluations(bundle.manifest, evaluations),
        engines,
        {**bundle.tensors, "conditioning_decode": table},
    )
    z_n = bundle.golden()["z_n"][0]
    return lambda: model.decode_latent(z_n)


def _calls(
    bundle: Bundle, model: Model, silent: Model, gallery: int
) -> dict[str, Call]:
    rng = np.random.default_rng(0)
    space, mask = bundle.feature_space(), VoxelMask.from_volume(bundle.mask)
    volume = rng.standard_normal(mask.shape, dtype=np.float32)
    selected = np.empty(mask.voxels, np.float32)
    shape = (gallery, *bundle.latent_mean.shape)
    names = [str(i) for i in range(gallery)]
    retrieval = Retrieval(
        rng.standard_normal(shape, dtype=np.float32),
        names,
        names,
        mean=bundle.latent_mean,
        temperature=0.1,
    )
    golden = {name: array[0] for name, array in bundle.golden().items()}

    def front() -> Float32[np.ndarray, " voxels"]:
        mask.select(volume, out=selected)
        return space.to_model(selected)

    def decode(with_model: Model) -> Float32[np.ndarray, "tokens width"]:
        return with_model.decode_latent(with_model.encode_voxels(front()))

    return {
        "front": front,
        "encoder": lambda: model.encode_voxels(golden["voxels"]),
        "heads": lambda: retrieval.answer(golden["z_v"]),
        "decoder": lambda: model.predict_voxels(golden["z_n"]),
        "decode": lambda: retrieval.answer(decode(model)),
        # All that is ours but the heads, around engines that take no time.
        "outside": lambda: decode(silent),
    }
