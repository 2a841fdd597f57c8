"""The flow as one engine of a step, driven as often as its grid has evaluations."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, final

import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.engine import Array, Engine, allocate, check_inputs, read_only
from runtime.manifest import GraphSpec, Manifest
from runtime.solver import Direction, Solver, solver_from_name, trajectory

State = Float32[np.ndarray, "1 tokens width"]


class Course(NamedTuple):
    """One direction of a bundle's flow."""

    rows: Float32[np.ndarray, "evaluations modulation"]
    """What each evaluation is conditioned on."""
    times: tuple[float, ...]
    solver: Solver


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
    flow = manifest.flow
    return Course(
        tensors[f"conditioning_{direction}"],
        flow.times(direction),
        solver_from_name(flow.solver, flow.path),
    )


def driven(step: Engine, course: Course, z: State) -> Iterator[State]:
    """Yield the state after each step of a flow.

    Args:
        step: Engine of the graph ``step``.
        course: Which way, and how.
        z: Where the flow begins.

    Raises:
        TensorMismatchError: Another shape or dtype.
        BackendError: The engine failed.
    """
    rows, is_single = iter(course.rows), course.solver.evaluations == 1

    def velocity(z: Shaped[np.ndarray, "..."], _t: float) -> State:
        out = step.run({"z": z, "modulation": next(rows)[None]})["velocity"]
        # A copy where a step holds two velocities at once: the engine has one.
        return out if is_single else out.copy()

    return trajectory(velocity, z, course.times, course.solver)


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
