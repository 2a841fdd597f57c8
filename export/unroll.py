"""N solver steps as one ONNX graph, by running the solver on symbolic latents.

The solver itself is executed (`runtime.solver.solve`); each evaluation clones the
velocity graph's nodes around the same weights. What the graph computes is therefore
what the solver computes, for every solver that the runtime knows. A step by itself
makes the sum of one solver step too, for whoever drives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import onnx
from jaxtyping import Float64
from onnx import helper

from export.graphs import Array, Graph, clone_node
from runtime.manifest import TensorSpec
from runtime.solver import Direction, Solver, evaluation_times, solve, time_grid

TABLE_ROW: Final = "modulation"
"""Input of the step graph that receives a row of the conditioning table."""
_WEIGHTS: Final = "weights"
_ENDS: Final = {"decode": ("z_n", "z_v"), "encode": ("z_v", "z_n")}


class _Tape:
    """The nodes and weights that symbolic latents leave behind."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = dict(weights)

    def emit(self, op: str, *inputs: str) -> "Symbol":
        name = f"s{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}.{name}"))
        return Symbol(self, name)

    def constant(self, name: str, value: Array) -> str:
        self.weights.setdefault(name, value)
        return name


@final
@dataclass(frozen=True, slots=True)
class Symbol:
    """A latent that is only a name; arithmetic on it writes nodes."""

    tape: _Tape
    name: str

    def __rmul__(self, number: float) -> "Symbol":
        value = np.asarray(number, np.float32)
        # Named by value, so that equal numbers are one weight.
        scale = self.tape.constant(f"c{value.tobytes().hex()}", value)
        return self.tape.emit("Mul", scale, self.name)

    def __add__(self, other: "Symbol") -> "Symbol":
        return self.tape.emit("Add", self.name, other.name)


def unrolled(
    step: Graph,
    table: Float64[np.ndarray, "evaluations modulation"],
    solver: Solver,
    steps: int,
    direction: Direction,
) -> Graph:
    """Return the graph of a whole direction of the flow.

    Args:
        step: The velocity graph, ``(z, modulation) -> velocity``.
        table: A row for each of the solver's evaluations, in order.
        solver: A row of `runtime.solver.SOLVERS`.
        steps: Steps from one end of the path to the other.
        direction: Which end is the input; it names the graph and its ports.
    """
    tape = _Tape(step.weights)
    source, target = _ENDS[direction]
    count = 0

    def velocity(z: Symbol, t: float) -> Symbol:
        nonlocal count
        # Named by time: both directions of a grid share the rows that they share.
        row = tape.constant(f"t{t.hex()}", table[count : count + 1].astype(np.float32))
        prefix = f"e{count}."
        names = {"": "", "z": z.name, TABLE_ROW: row}
        names |= {key: key for key in step.weights}
        for node in step.nodes:
            names |= {output: prefix + output for output in node.output}
            tape.nodes.append(clone_node(node, names, prefix + node.name))
        count += 1
        return Symbol(tape, names["velocity"])

    end = solve(velocity, Symbol(tape, source), time_grid(steps, direction), solver)
    for node in tape.nodes:
        for names_of in (node.input, node.output):
            names_of[:] = [target if key == end.name else key for key in names_of]
    spec = step.outputs[0]
    return Graph(
        f"{direction}_flow",
        tuple(tape.nodes),
        (_renamed(spec, source),),
        (_renamed(spec, target),),
        tape.weights,
        step.precision,
    )


def with_sum(step: Graph) -> Graph:
    """Return the velocity graph with the sum that a solver makes of it.

    Its output, ``state``, is ``weights[0] * z + weights[1] * velocity``, in float32
    whatever the products are in; ``weights`` is the last input. The velocity, for which
    these are 0 and 1, is no output of its own: for two consumers OpenVINO turns it in
    memory, which takes several times as long as the sum.

    Args:
        step: ``(z, modulation) -> velocity``, in any precision.
    """
    by = [f"{_WEIGHTS}.z", f"{_WEIGHTS}.velocity"]
    terms = ["sum.z", "sum.velocity"]
    nodes = [helper.make_node("Split", [_WEIGHTS], by, name=_WEIGHTS, num_outputs=2)]
    for weight, name, term in zip(by, ("z", "velocity"), terms, strict=True):
        nodes.append(helper.make_node("Mul", [weight, name], [term], name=term))
    nodes.append(helper.make_node("Add", terms, ["state"], name="sum"))
    return replace(
        step,
        nodes=(*step.nodes, *nodes),
        inputs=(*step.inputs, TensorSpec(name=_WEIGHTS, shape=(2,))),
        outputs=(_renamed(step.outputs[0], "state"),),
    )


def _renamed(spec: TensorSpec, name: str) -> TensorSpec:
    """Return a tensor of the same shape and dtype under another name."""
    return TensorSpec(name=name, shape=spec.shape, dtype=spec.dtype)


def evaluation_grid(
    solver: Solver, steps: int, direction: Direction
) -> tuple[float, ...]:
    """Return the times of the table's rows."""
    return evaluation_times(solver, time_grid(steps, direction))
