"""The flow as one engine of a step, driven as often as its grid has evaluations."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple, final

import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.buffers import Array, allocate, check_inputs, read_only
from runtime.engine import Engine
from runtime.manifest import GraphSpec, Manifest
from runtime.solver import Direction, Solver, solver_from_name

State = Float32[np.ndarray, "1 tokens width"]
_BLOCK: Final = 2**16
"""Numbers of a sum that are computed at a time: three arrays of so many stay in a
core's second cache, where one latent of the published size does not."""


class Course(NamedTuple):
    """One direction of a bundle's flow."""

    rows: Float32[np.ndarray, "evaluations modulation"]
    """What each evaluation is conditioned on."""
    times: tuple[float, ...]
    solver: Solver
    weights: Float32[np.ndarray, "evaluations 2"] | None = None
    """Given to a step graph that makes sums, for each evaluation; None: it makes none.
    """


def course_of(
    manifest: Manifest,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    direction: Direction,
) -> Course:
    """Return one direction of the flow of a bundle.

    Args:
        manifest: The bundle's.
        tensors: The bundle's: the tables of the conditioning among them.
        direction: Which way.
    """
    flow, times = manifest.flow, manifest.flow.times(direction)
    solver = solver_from_name(flow.solver, flow.path)
    # All alike, as `runtime.coherence` sees to.
    steps = [graph for graph in manifest.graphs if graph.name == "step"]
    is_summed = any(port.name == "weights" for step in steps for port in step.inputs)
    return Course(
        tensors[f"conditioning_{direction}"],
        times,
        solver,
        sum_weights(solver, times) if is_summed else None,
    )


def sum_weights(
    solver: Solver, times: tuple[float, ...]
) -> Float32[np.ndarray, "evaluations 2"]:
    """Return what a step's state is of z and of the velocity, by each evaluation.

    The solver's own step says it of a basis. Of a solver whose step has several
    evaluations no graph makes the sum: each is asked for the velocity alone.
    """
    z, found = np.eye(2)
    if solver.evaluations > 1:
        return np.tile(found, (solver.evaluations * (len(times) - 1), 1)).astype(
            np.float32
        )
    steps = [solver.step(lambda _z, _t: found, z, *pair) for pair in pairwise(times)]
    return np.array(steps, np.float32)


@final
class Terms:
    """A sum of states by numbers, of which a solver makes a step; not computed yet.

    Computed block by block its products stay in the cache. Every number comes out as
    that of the same statement on arrays, bit for bit.
    """

    def __init__(self, *terms: tuple[float | None, State]) -> None:
        """Put a sum together of states, each with what it is multiplied by, if any."""
        self._terms = terms

    def __rmul__(self, number: float) -> "Terms":
        """Multiply a state."""
        return Terms((number, self.state()))

    def __add__(self, other: "Terms") -> "Terms":
        """Add on the right."""
        return Terms(*self._terms, *other._terms)

    def state(self, out: State | None = None) -> State:
        """Return the sum: an array of its own, or the one state that it is of.

        Args:
            out: Written and returned instead; may be the sum's first state.
        """
        if len(self._terms) == 1 and self._terms[0][0] is None:
            return self._terms[0][1]
        if out is None:
            out = np.empty_like(self._terms[0][1], order="C")
        end, work = out.reshape(-1), np.empty(min(_BLOCK, out.size), out.dtype)
        (first_by, first), *others = [(by, z.reshape(-1)) for by, z in self._terms]
        for start in range(0, end.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            total, product = end[block], work[: end[block].size]
            found = _product(first_by, first[block], total)
            for by, z in others:
                found = np.add(found, _product(by, z[block], product), out=total)
        return out


def _product(by: float | None, z: Array, out: Array) -> Array:
    return z if by is None else np.multiply(z, by, out=out)


def driven(step: Engine, course: Course, z: State) -> Iterator[State]:
    """Yield the state after each step of a flow; valid until the step's next call.

    Args:
        step: Engine of the graph ``step``.
        course: Which way, and how.
        z: Where the flow begins.

    Raises:
        TensorMismatchError: Another shape or dtype.
        BackendError: The engine failed.
    """
    evaluated, is_single = _evaluated(step, course), course.solver.evaluations == 1
    end = np.empty_like(z, order="C")
    if is_single and course.weights is not None:
        for _ in pairwise(course.times):
            z = evaluated(z)
            if not step.keeps_last:
                np.copyto(end, z)
                z = end
            yield z
        return

    def velocity(z: Terms, _t: float) -> Terms:
        out = evaluated(z.state())
        # A copy where a step holds two velocities at once: the engine has one.
        return Terms((None, out if is_single else out.copy()))

    for t, t_next in pairwise(course.times):
        z = course.solver.step(velocity, Terms((None, z)), t, t_next).state(end)
        yield z


def _evaluated(step: Engine, course: Course) -> Callable[[State], State]:
    """Return what makes a course's evaluations, one by one, where the engine has it."""
    given = [{"modulation": row[None]} for row in course.rows]
    output = "velocity"
    if course.weights is not None:
        output = "state"
        for inputs, weights in zip(given, course.weights, strict=True):
            inputs["weights"] = weights
    following = iter(given)
    return lambda z: step.run({"z": z, **next(following)})[output]


@final
class SteppedFlow:
    """An engine that stands for a graph of the whole flow, and has one step's weights.

    For a library that keeps a copy of the weights for each unrolled step.
    """

    def __init__(self, step: Engine, graph: GraphSpec, course: Course) -> None:
        """Put a step in the place of a flow.

        Args:
            step: Closed with this engine.
            graph: What the manifest says of the flow's graph.
            course: Of the flow.
        """
        self.name, self.version = step.name, step.version
        self.keeps_last = False
        self._step, self._course = step, course
        self._inputs = allocate(graph.inputs)
        self._buffers = allocate(graph.outputs)
        self._outputs = read_only(self._buffers)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the flow; see `Engine.run`."""
        check_inputs(self._inputs, inputs)
        (z,), (end,) = inputs.values(), self._buffers.values()
        for state in driven(self._step, self._course, z):
            last = state
        np.copyto(end, last)
        return self._outputs

    def close(self) -> None:
        """Close the step's engine."""
        self._step.close()
