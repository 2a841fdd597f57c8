"""The model as a rig uses it: four maps on single samples, torch nowhere.

Opens the engines of a bundle and believes none of them: each map must give the
bundle's golden vectors before `open_model` returns.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Literal, final

import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.bundle import Bundle
from runtime.engine import Engine, Precision, open_engine
from runtime.engines.cache import EngineCache, KeptEngine
from runtime.engines.standby import Opener, StandbyEngine
from runtime.errors import BackendError, UsageError
from runtime.golden import BY_HINT, LIMITS, Map, check_golden
from runtime.manifest import GraphSpec, Manifest
from runtime.solver import Direction, Solver, solver_from_name, trajectory

Latent = Float32[np.ndarray, "tokens width"]
Voxels = Float32[np.ndarray, " voxels"]
Form = Literal["unrolled", "step"]

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


@final
class Model:
    """The engines of a bundle; not for use by two threads at once.

    Arrays that are returned belong to the caller.
    """

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        tables: Mapping[Direction, Float32[np.ndarray, "evaluations modulation"]],
        latent_mean: Latent,
    ) -> None:
        flow = manifest.flow
        self.manifest = manifest
        self.latent_mean = latent_mean
        """Mean of z_v over the training images; read-only."""
        self._engines = dict(engines)
        self._tables = tables
        self._solver: Solver = solver_from_name(flow.solver, flow.path)

    @property
    def form(self) -> Form:
        """Whether the flow runs as one unrolled graph or step by step."""
        return "step" if "step" in self._engines else "unrolled"

    @property
    def backend(self) -> str:
        """Backend and its version, as an outcome cites it."""
        engine = self._engines["encoder"]
        return f"{engine.name} {engine.version}"

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs that it computes with."""
        return tuple(self._engines)

    def put_behind(
        self,
        standbys: Mapping[str, Sequence[Opener]],
        judge: Callable[[str, Engine], None],
    ) -> None:
        """Put engines behind those that compute, to take over where one fails.

        Args:
            standbys: For each graph, what opens another engine of it.
            judge: Given a graph's name and an engine that is to take over; see
                `StandbyEngine`.
        """
        for name, openers in standbys.items():
            self._engines[name] = StandbyEngine(
                name, self._engines[name], openers, functools.partial(judge, name)
            )

    @property
    def troubles(self) -> tuple[str, ...]:
        """A line for every engine that failed and was replaced by another."""
        return tuple(
            line
            for engine in self._engines.values()
            if isinstance(engine, StandbyEngine)
            for line in engine.troubles
        )

    def encode_voxels(self, voxels: Voxels) -> Latent:
        """Return the neural latent z_n of normalised voxels (the posterior's mode).

        Raises:
            TensorMismatchError: Another number of voxels or dtype.
            BackendError: The engine failed.
        """
        return self._run("encoder", "voxels", voxels, "z_n")

    def encode_voxels_for_retrieval(self, voxels: Voxels) -> tuple[Latent, Latent]:
        """Return z_n and the retrieval features, which one evaluation gives.

        Raises:
            TensorMismatchError: Another number of voxels or dtype.
            BackendError: The engine failed.
        """
        out = self._engines["encoder"].run({"voxels": voxels[None]})
        return out["z_n"][0].copy(), out["retrieval"][0].copy()

    def decode_latent(self, z_n: Latent) -> Latent:
        """Carry z_n to the visual latent z_v.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
        """
        z_v = self._flow(z_n, "decode")
        return z_v + self.latent_mean if self.manifest.flow.is_centred else z_v

    def encode_latent(self, z_v: Latent) -> Latent:
        """Carry z_v to the neural latent z_n.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
        """
        is_centred = self.manifest.flow.is_centred
        return self._flow(z_v - self.latent_mean if is_centred else z_v, "encode")

    def predict_voxels(self, z_n: Latent) -> Voxels:
        """Return the normalised voxels that z_n implies.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
        """
        return self._run("decoder", "z_n", z_n, "voxels")

    def _run(
        self, graph: str, source: str, array: Float32[np.ndarray, "..."], target: str
    ) -> Float32[np.ndarray, "..."]:
        out = self._engines[graph].run({source: array[None]})
        # A copy: the engine's buffer is written again by the next call.
        return np.array(out[target][0])

    def maps(self) -> Mapping[str, tuple[Map, str, str]]:
        """Return each map with the golden vectors that are its input and output.

        Those whose engines are here: a model of one engine judges that one.
        """
        found: dict[str, tuple[Map, str, str]] = {}
        if "encoder" in self._engines:
            found["encoder"] = self.encode_voxels, "voxels", "z_n"
            found["retrieval"] = self._retrieval, "voxels", "retrieval"
        if self._engines.keys() & {"step", "decode_flow"}:
            found["decode_flow"] = self.decode_latent, "z_n", "z_v"
        if self._engines.keys() & {"step", "encode_flow"}:
            found["encode_flow"] = self.encode_latent, "z_v", "z_n_encoded"
        if "decoder" in self._engines:
            found["decoder"] = self.predict_voxels, "z_n_encoded", "voxels_predicted"
        return found

    def _retrieval(self, voxels: Voxels) -> Latent:
        return self.encode_voxels_for_retrieval(voxels)[1]

    def _flow(self, z: Latent, direction: Direction) -> Latent:
        source, target = ("z_n", "z_v") if direction == "decode" else ("z_v", "z_n")
        if f"{direction}_flow" in self._engines:
            return self._run(f"{direction}_flow", source, z, target)
        for state in self._trajectory(z, direction):
            end = state
        return np.ascontiguousarray(end[0])

    def states(
        self, z: Latent, direction: Direction
    ) -> Float32[np.ndarray, "steps tokens width"]:
        """Return the flow's state after each step, as golden vectors keep it.

        The end at t = 0 lacks `latent_mean` where the flow is centred.

        Args:
            z: z_n to decode, z_v to encode.
            direction: Which way.

        Raises:
            UsageError: The flow was opened as one graph, which shows its end alone.
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
        """
        if self.form != "step":
            raise UsageError("form: expected step, to see each state; found unrolled")
        if direction == "encode" and self.manifest.flow.is_centred:
            z = z - self.latent_mean
        return np.concatenate(list(self._trajectory(z, direction)))

    def _trajectory(
        self, z: Latent, direction: Direction
    ) -> Iterator[Float32[np.ndarray, "1 tokens width"]]:
        step, rows = self._engines["step"], iter(self._tables[direction])

        def velocity(
            z: Shaped[np.ndarray, "..."], _t: float
        ) -> Float32[np.ndarray, "1 tokens width"]:
            out = step.run({"z": z, "modulation": next(rows)[None]})["velocity"]
            # A copy where a step holds two velocities at once: the engine has one.
            return out if self._solver.evaluations == 1 else out.copy()

        grid = self.manifest.flow.times(direction)
        return trajectory(velocity, z[None], grid, self._solver)

    def close(self) -> None:
        """Close every engine."""
        for engine in self._engines.values():
            engine.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_model(
    bundle: Bundle,
    backend: str = "ort",
    precision: Precision = "f32",
    threads: int | None = None,
    form: Form | None = None,
    cache: EngineCache | None = None,
    behind: Sequence[str] = (),
) -> Model:
    """Compile a bundle's graphs and hold them against its golden vectors.

    Args:
        bundle: Stays open for as long as the model.
        backend: ``ort`` or ``openvino``.
        precision: Of the arithmetic. OpenVINO computes float32 graphs in what it is
            told; ONNX Runtime computes what a graph says, and on the CPU no bf16.
        threads: Threads of one evaluation; None leaves the choice to the library.
        form: Run the flow as one unrolled graph or step by step; None takes what
            suits the backend.
        cache: Where compiled engines are kept between starts; None keeps none.
        behind: Backends that take over, in f32, where an engine fails later on.

    Raises:
        BackendError: The library is missing, lacks the precision or refuses a graph.
        ParityError: A map does not give its golden vectors.
    """
    model = model_from_folder(
        bundle.folder,
        bundle.manifest,
        bundle.tensors,
        backend=backend,
        precision=precision,
        threads=threads,
        form=form,
        cache=cache,
    )
    if behind:
        model.put_behind(
            {name: _standbys(bundle, name, behind, threads) for name in model.graphs},
            functools.partial(_judge_alone, bundle),
        )
    try:
        graph = graph_of(bundle.manifest, "step", backend, precision)
        is_written = graph.precision == precision
        limits = LIMITS[precision] if is_written else BY_HINT
        check_golden(model, bundle.golden(), limits, model.backend)
    except BaseException:
        model.close()
        raise
    return model


def _standbys(
    bundle: Bundle, name: str, behind: Sequence[str], threads: int | None
) -> list[Opener]:
    graph = bundle.manifest.graph(name)
    return [
        functools.partial(
            open_engine, one, bundle.folder / graph.file, graph, threads=threads
        )
        for one in behind
    ]


def _judge_alone(bundle: Bundle, name: str, engine: Engine) -> None:
    """Hold one graph's engine, which computes in f32, against the golden vectors.

    Raises:
        ParityError: A map that the graph computes does not give them.
        BackendError: The engine failed.
    """
    model = Model(
        bundle.manifest, {name: engine}, _tables(bundle.tensors), bundle.latent_mean
    )
    check_golden(model, bundle.golden(), LIMITS["f32"], f"{engine.name} f32")


def graph_of(
    manifest: Manifest, name: str, backend: str, precision: Precision
) -> GraphSpec:
    """Return the graph that a backend opens for a precision.

    It is the one that is written in this precision, or else the float32 graph, which
    the backend may be told to compute in another. OpenVINO always takes the latter for
    half precision: it types a graph anew, whatever casts are in it.

    Raises:
        BundleError: The bundle has no such graph.
    """
    is_told = backend == "openvino" and precision in ("f16", "bf16")
    written = {(graph.name, graph.precision) for graph in manifest.graphs}
    if precision == "int8" and ("step", precision) not in written:
        # The other graphs of this precision are in float32, and would hide it.
        return manifest.graph("step", precision)
    is_written = (name, precision) in written and not is_told
    return manifest.graph(name, precision if is_written else "f32")


def model_from_folder(
    folder: Path,
    manifest: Manifest,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    *,
    backend: str,
    precision: Precision,
    threads: int | None,
    form: Form | None,
    cache: EngineCache | None = None,
) -> Model:
    """Compile graphs without judging them; `open_model` and the export's judge do.

    Raises:
        BackendError: The library is missing, lacks the precision or refuses a graph.
    """
    chosen = form or FORMS.get(backend)
    if chosen is None:
        raise BackendError(
            f"backend: expected one of {', '.join(FORMS)}, found {backend}"
        )
    flows = flow_graphs(backend, chosen)
    engines: dict[str, Engine] = {}
    try:
        for name in ("encoder", "decoder", *flows):
            graph = graph_of(manifest, name, backend, precision)
            kept = (
                None
                if cache is None
                else kept_engine(cache, manifest, graph, precision)
            )
            engines[name] = open_engine(
                backend,
                folder / graph.file,
                graph,
                precision=told_precision(graph, backend, precision),
                threads=threads,
                kept=kept,
            )
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return Model(manifest, engines, _tables(tensors), tensors["latent_mean"])


def _tables(
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
) -> dict[Direction, Float32[np.ndarray, "evaluations modulation"]]:
    return {
        "decode": tensors["conditioning_decode"],
        "encode": tensors["conditioning_encode"],
    }


def told_precision(graph: GraphSpec, backend: str, precision: Precision) -> Precision:
    """Return what an engine is told: not what the graph itself says."""
    is_said = precision == "int8" or (backend == "ort" and graph.precision == "f16")
    return "f32" if is_said else precision


def flow_graphs(backend: str, form: Form | None = None) -> tuple[str, ...]:
    """Return the names of the graphs that a backend runs the flow with."""
    is_step = (form or FORMS.get(backend)) == "step"
    return ("step",) if is_step else ("decode_flow", "encode_flow")


def kept_engine(
    cache: EngineCache, manifest: Manifest, graph: GraphSpec, precision: Precision
) -> KeptEngine:
    """Return where a graph's engine is kept: by what was verified of its files."""
    files = {spec.path: spec.sha256 for spec in manifest.files}
    weights = [one for path, one in files.items() if path.endswith(".weights")]
    digest = hashlib.sha256(" ".join([files[graph.file], *sorted(weights)]).encode())
    return KeptEngine(cache, digest.hexdigest(), graph.name, precision)
