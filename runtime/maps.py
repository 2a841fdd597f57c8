"""The model as a rig uses it: five maps on single samples, torch nowhere."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import final

import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.closing import Closing
from runtime.engine import Engine
from runtime.engines.standby import Opener, StandbyEngine
from runtime.errors import TensorMismatchError, UsageError
from runtime.golden import Map
from runtime.graphs import PARTS, Form, Part
from runtime.manifest import Manifest
from runtime.rows import RowsOf, WholeRows
from runtime.solver import Direction
from runtime.stepped import Course, course_of, driven

Latent = Float32[np.ndarray, "tokens width"]
Voxels = Float32[np.ndarray, " voxels"]


@final
class Model(Closing):
    """The engines of a bundle; not for use by two threads at once.

    Arrays that are returned belong to the caller.
    """

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        tensors: Mapping[str, Shaped[np.ndarray, "..."]],
        parts: Collection[Part] = PARTS,
        rows_of: RowsOf = WholeRows,
    ) -> None:
        """Put a model together.

        Args:
            manifest: Of the bundle.
            engines: By the names of their graphs; closed with this model. It has the
                maps of those that are here.
            tensors: The bundle's: tables of the conditioning and the latents' mean.
            parts: The maps that will be called, of those that the engines compute: one
                step engine computes the flow in either direction.
            rows_of: What searches a gallery for it.
        """
        self.rows_of = rows_of
        self.manifest, self.parts = manifest, frozenset(parts)
        self.latent_mean: Latent = tensors["latent_mean"]
        """Mean of z_v over the training images; read-only."""
        self._engines = dict(engines)
        self._is_closed = False
        self._courses: Mapping[Direction, Course] = {
            "decode": course_of(manifest, tensors, "decode"),
            "encode": course_of(manifest, tensors, "encode"),
        }

    @property
    def form(self) -> Form:
        """Whether the flow runs as one unrolled graph or step by step."""
        return "step" if "step" in self._engines else "unrolled"

    @property
    def backend(self) -> str:
        """Backend and its version, as an outcome cites it."""
        engine = next(iter(self._engines.values()))
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
            UsageError: The model is closed, or was opened without this map.
        """
        self._require_voxels(voxels)
        return self._run("encoder", "voxels", voxels, "z_n")

    def project_voxels(self, voxels: Voxels) -> Latent:
        """Return the retrieval features of normalised voxels, a projection to z_v.

        Raises:
            TensorMismatchError: Another number of voxels or dtype.
            BackendError: The engine failed.
            UsageError: The model is closed, or was opened without this map.
        """
        self._require_voxels(voxels)
        return self._run("retrieval", "voxels", voxels, "retrieval")

    def decode_latent(self, z_n: Latent) -> Latent:
        """Carry z_n to the visual latent z_v.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
            UsageError: The model is closed, or was opened without this map.
        """
        self._require_latent("z_n", z_n)
        z_v = self._flow(z_n, "decode")
        if self.manifest.flow.is_centred:
            z_v += self.latent_mean
        return z_v

    def encode_latent(self, z_v: Latent) -> Latent:
        """Carry z_v to the neural latent z_n.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
            UsageError: The model is closed, or was opened without this map.
        """
        # Before the mean is taken off, which would make a latent of whatever fits it.
        self._require_latent("z_v", z_v)
        is_centred = self.manifest.flow.is_centred
        return self._flow(z_v - self.latent_mean if is_centred else z_v, "encode")

    def lend_latent(self, voxels: Voxels) -> Latent:
        """Return `encode_voxels` where the engine has it, as `InPlace` does."""
        self._require_voxels(voxels)
        out = self._engine("encoder").run({"voxels": voxels[None]})
        z_n: Latent = out["z_n"][0]
        return z_n

    def predict_voxels(self, z_n: Latent) -> Voxels:
        """Return the normalised voxels that z_n implies.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: The engine failed.
            UsageError: The model is closed, or was opened without this map.
        """
        self._require_latent("z_n", z_n)
        return self._run("decoder", "z_n", z_n, "voxels")

    def _run(
        self, graph: str, source: str, array: Float32[np.ndarray, "..."], target: str
    ) -> Float32[np.ndarray, "..."]:
        out = self._engine(graph).run({source: array[None]})
        # A copy: the engine's buffer is written again by the next call.
        return np.array(out[target][0])

    def _engine(self, graph: str) -> Engine:
        if self._is_closed:
            raise UsageError("model: expected one that is open, found it closed")
        if graph not in self._engines:
            raise UsageError(
                f"{graph}: expected a model that was opened with it, found one with "
                f"{', '.join(self._engines)}"
            )
        return self._engines[graph]

    def _require_voxels(self, voxels: Voxels) -> None:
        require_array("voxels", voxels, (self.manifest.voxels.count,))

    def _require_latent(self, name: str, z: Latent) -> None:
        latent = self.manifest.latent
        require_array(name, z, (latent.tokens, latent.width))

    def maps(self) -> Mapping[str, tuple[Map, str, str]]:
        """Return each map with the golden vectors that are its input and output.

        Those that will be called and whose engines are here: a model of one engine
        judges that one.
        """
        found: dict[str, tuple[Map, str, str]] = {}
        if self._has("encoder"):
            found["encoder"] = self.encode_voxels, "voxels", "z_n"
        if self._has("retrieval"):
            found["retrieval"] = self.project_voxels, "voxels", "retrieval"
        if self._has("decode_flow", "step"):
            found["decode_flow"] = self.decode_latent, "z_n", "z_v"
        if self._has("encode_flow", "step"):
            found["encode_flow"] = self.encode_latent, "z_v", "z_n_encoded"
        if self._has("decoder"):
            found["decoder"] = self.predict_voxels, "z_n_encoded", "voxels_predicted"
        return found

    def _has(self, part: Part, *graphs: str) -> bool:
        is_here = any(graph in self._engines for graph in (part, *graphs))
        return is_here and part in self.parts

    def _flow(self, z: Latent, direction: Direction) -> Latent:
        """Return the flow's end in an array of its own."""
        source, target = ("z_n", "z_v") if direction == "decode" else ("z_v", "z_n")
        if f"{direction}_flow" in self._engines or "step" not in self._engines:
            return self._run(f"{direction}_flow", source, z, target)
        for state in self._trajectory(z, direction):
            end = state
        # A copy: the step's buffer is written again by the next flow.
        return np.array(end[0])

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
        self._require_latent("z_n" if direction == "decode" else "z_v", z)
        if direction == "encode" and self.manifest.flow.is_centred:
            z = z - self.latent_mean
        return np.concatenate([z.copy() for z in self._trajectory(z, direction)])

    def _trajectory(
        self, z: Latent, direction: Direction
    ) -> Iterator[Float32[np.ndarray, "1 tokens width"]]:
        return driven(self._engine("step"), self._courses[direction], z[None])

    def close(self) -> None:
        """Close every engine; a second time changes nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        for engine in self._engines.values():
            engine.close()


@final
class InPlace:
    """A model for one who is done with a z_n before the next: it stays in the engine.

    It cannot be written to, and is valid until the next that is asked for. One of the
    published size takes 1.7 MB, and whoever decodes it at once needs no copy.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    def encode_voxels(self, voxels: Voxels) -> Latent:
        """Return z_n; see `Model.encode_voxels`."""
        return self._model.lend_latent(voxels)

    def decode_latent(self, z_n: Latent) -> Latent:
        """Return z_v, in an array of its own; see `Model.decode_latent`."""
        return self._model.decode_latent(z_n)


def require_array(
    name: str, array: Shaped[np.ndarray, "..."], shape: tuple[int, ...]
) -> None:
    """Refuse an array that is not float32 of exactly a shape.

    Raises:
        TensorMismatchError: Another shape or dtype, or no array at all.
    """
    is_array = isinstance(array, np.ndarray)
    if not is_array or array.shape != shape or array.dtype != np.float32:
        raise TensorMismatchError(
            name,
            expected=f"float32 {list(shape)}",
            found=(
                f"{array.dtype.name} {list(array.shape)}"
                if is_array
                else type(array).__name__
            ),
        )
