"""The stages of a bundle in one of the runtime's engines, each as a call."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, final

import msgspec
import numpy as np

from runtime.arrays import Float32
from runtime.bench.result import Who
from runtime.buffers import Array, Inputs, Outputs
from runtime.bundle import Bundle
from runtime.engine import Engine, Precision
from runtime.errors import UsageError
from runtime.estimator import BetaEstimator, ExternalEstimator
from runtime.gallery import Gallery
from runtime.golden import check_golden
from runtime.graphs import Form, Part, map_limits, open_engines
from runtime.heads import Retrieval
from runtime.manifest import GraphSpec, Manifest
from runtime.model import Model
from runtime.preprocess import VoxelMask
from runtime.rows import Latent, Latents, Rows, are_in_8_bits, query_of, rows_by
from runtime.solver import solver_from_name, time_grid
from verbs.bench_orders import Job
from verbs.bench_volume import Volumes

Call = Callable[[], object]
SERVED: Final[tuple[Part, ...]] = ("encoder", "decoder", "decode_flow")
"""The maps whose stages are measured, in the form in which a server runs them."""


def _no_library(_name: str, _memory: Array) -> None:
    """Bind nothing."""


@final
class Silent:
    """An engine that takes its inputs, computes nothing and gives its outputs."""

    name, version, keeps_last = "silent", "0", True

    def __init__(self, graph: GraphSpec) -> None:
        self._inputs, self._outputs = Inputs(graph.inputs), Outputs(graph)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Take the inputs; see `runtime.engine.Engine.run`."""
        self._inputs.take(inputs, _no_library)
        self._outputs.offer(_no_library)
        return self._outputs.turn()

    def close(self) -> None:
        """Do nothing."""


@final
class SilentRows:
    """An engine that searches: it takes its query, computes nothing and finds 0."""

    def __init__(self, latents: Latents, mean: Latent) -> None:
        self._inputs = query_of(mean.size)
        self._items = len(latents)

    def cosines(self, z_v: Latent) -> Float32[np.ndarray, " items"]:
        """Take the query; see `runtime.rows.Rows`."""
        self._inputs.take({"z_v": z_v.reshape(1, -1)}, _no_library)
        return np.zeros(self._items, np.float32)


@final
@dataclass(frozen=True, slots=True)
class Stages:
    """What a process can be asked to do."""

    calls: Mapping[str, Call]
    flow: Callable[[int], Call]
    """A flow of so many evaluations, one by one."""
    close: Call
    before: Mapping[str, Call] = field(default_factory=dict)
    """What has to happen before each call of a stage, and is not measured."""


def with_evaluations(manifest: Manifest, evaluations: int) -> Manifest:
    """Return a manifest whose decode direction has this many evaluations.

    Raises:
        UsageError: They are no whole number of the solver's steps.
    """
    flow = manifest.flow
    each = solver_from_name(flow.solver, flow.path).evaluations
    steps, rest = divmod(evaluations, each)
    if rest or not steps:
        raise UsageError(
            f"evaluations: expected a multiple of {each}, which a step of "
            f"{flow.solver} makes, found {evaluations}"
        )
    changed = msgspec.structs.replace(
        flow,
        decode_times=time_grid(steps, "decode"),
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
    with ExitStack() as stack:

        def opened(form: Form | None, parts: Collection[Part]) -> dict[str, Engine]:
            engines = open_engines(
                bundle.folder,
                manifest,
                backend=who.peer,
                precision=precision,
                threads=who.threads,
                form=form,
                parts=parts,
            )
            stack.enter_context(Model(manifest, engines, tensors))
            for name, engine in engines.items():
                _judge(bundle, who, name, engine)
            return engines

        served = opened(None, SERVED)
        steps = served if "step" in served else opened("step", SERVED[2:])
        close = stack.pop_all().close
    rows_of = rows_by(who.peer, precision, who.threads)
    model = Model(manifest, served, tensors, rows_of=rows_of)

    def silent_rows(latents: Latents, mean: Latent) -> Rows:
        is_engine = are_in_8_bits(who.peer, precision, latents.size)
        return SilentRows(latents, mean) if is_engine else rows_of(latents, mean)

    silent = Model(
        manifest,
        {name: Silent(manifest.graph(name)) for name in served},
        tensors,
        rows_of=silent_rows,
    )
    volumes = volumes_of(bundle, silent, job.gallery)
    calls = _calls(bundle, model, silent, job.gallery)
    return Stages(
        calls | {name: one.take for name, one in volumes.items()},
        lambda n: _flow(bundle, steps, n),
        close,
        {name: one.prepare for name, one in volumes.items()},
    )


def _judge(bundle: Bundle, who: Who, name: str, engine: Engine) -> None:
    """Hold one graph's maps to what its own precision must keep.

    Raises:
        ParityError: A map does not give its golden vectors.
    """
    precision: Precision = msgspec.convert(who.precision, Precision)
    limits = map_limits(bundle.manifest, who.peer, precision)
    model = Model(bundle.manifest, {name: engine}, bundle.tensors)
    check_golden(model, bundle.golden(), limits, str(who))


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


def volumes_of(bundle: Bundle, silent: Model, items: int) -> dict[str, Volumes]:
    """Return the stages of whole volumes; a bundle that is never served has none."""
    estimator, mean = bundle.manifest.estimator, bundle.latent_mean
    if isinstance(estimator, ExternalEstimator):
        return {}
    names = tuple(map(str, range(items)))
    # Every item the same: heads make rows of their own of it.
    one = np.random.default_rng(0).standard_normal(mean.shape, dtype=np.float32)
    latents = np.broadcast_to(one, (items, *mean.shape))
    gallery = Gallery(names, names, latents, None, None, sha256="0" * 64)
    kinds = {"volume": False, "volume due": True}
    if not isinstance(estimator, BetaEstimator):
        del kinds["volume"]
    return {
        name: Volumes(bundle, silent, gallery, is_due=is_due)
        for name, is_due in kinds.items()
    }


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
        rows_of=model.rows_of,
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
        "served flow": lambda: model.decode_latent(golden["z_n"]),
        "decoder": lambda: model.predict_voxels(golden["z_n"]),
        "decode": lambda: retrieval.answer(decode(model)),
        # What of `decode` is ours, but the heads, around engines that take no time.
        "outside": lambda: decode(silent),
    }
