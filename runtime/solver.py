"""Solvers: how a velocity field is followed from one end of a path to the other.

A step uses only ``number * latent`` and ``latent + latent``. The same statement is
therefore executed with numpy arrays (the reference), torch tensors (training) and the
symbolic latents from which export writes its unrolled graphs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

from runtime.errors import ConfigError

Velocity = Callable[[Any, float], Any]
"""The field: (z, t) to a velocity of z's shape."""
Step = Callable[[Velocity, Any, float, float], Any]
"""One step: (velocity, z, t, t_next) to z at t_next."""
Direction = Literal["encode", "decode"]
"""``encode`` runs z_v (t = 0) to z_n (t = 1); ``decode`` runs back."""


@dataclass(frozen=True, slots=True)
class Solver:
    """A named step with what it promises."""

    name: str
    step: Step
    order: int
    """Order of convergence of the end point in the step size."""
    evaluations: int
    """Velocity evaluations per step (NFE in papers)."""
    only_path: str | None = None
    """The one path on which the step makes sense; None where any will do."""


def _euler(velocity: Velocity, z: Any, t: float, t_next: float) -> Any:
    return z + (t_next - t) * velocity(z, t)


def _rotation(velocity: Velocity, z: Any, t: float, t_next: float) -> Any:
    # On the cos path z_t turns in the plane of (z_t, F), F = (2 / pi) v, by the angle
    # (pi / 2) dt. Holding F for a step is exact for the true conditional velocity, at
    # any step size; one whole step is the posterior mean. It is TrigFlow's step,
    # Lu & Song (2024), "Simplifying, stabilizing and scaling continuous-time
    # consistency models", section 3.
    angle = (math.pi / 2) * (t_next - t)
    return math.cos(angle) * z + (math.sin(angle) * 2 / math.pi) * velocity(z, t)


def _heun(velocity: Velocity, z: Any, t: float, t_next: float) -> Any:
    # Explicit trapezoidal rule; not the two-thirds rule that shares its name.
    dt = t_next - t
    v = velocity(z, t)
    v_next = velocity(z + dt * v, t_next)
    return z + (dt / 2) * v + (dt / 2) * v_next


SOLVERS = MappingProxyType(
    {
        solver.name: solver
        for solver in (
            Solver("euler", _euler, order=1, evaluations=1),
            Solver("rotation", _rotation, order=1, evaluations=1, only_path="cos"),
            Solver("heun", _heun, order=2, evaluations=2),
        )
    }
)
"""The solvers by name."""


def solver_from_name(name: str, path: str) -> Solver:
    """Look a solver up for a path.

    Raises:
        ConfigError: No solver has this name, or it does not fit the path.
    """
    if name not in SOLVERS:
        raise ConfigError(f"solver: expected one of {', '.join(SOLVERS)}, found {name}")
    solver = SOLVERS[name]
    if solver.only_path not in (None, path):
        raise ConfigError(
            f"solver {name}: expected path {solver.only_path}, found {path}. "
            "Choose euler or heun on this path."
        )
    return solver


def time_grid(steps: int, direction: Direction) -> tuple[float, ...]:
    """Return ``steps + 1`` equally spaced times, 0 to 1 to encode and 1 to 0 to decode.

    Raises:
        ConfigError: Fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"steps: expected at least 1, found {steps}")
    times = tuple(i / steps for i in range(steps + 1))
    return times if direction == "encode" else times[::-1]


def evaluation_times(solver: Solver, grid: Sequence[float]) -> tuple[float, ...]:
    """Return the time of every velocity evaluation of `solve`, in order.

    The conditioning of a fixed grid is folded into a table with a row for each.
    """
    times: list[float] = []

    def record(_z: float, t: float) -> float:
        times.append(t)
        return 0.0

    solve(record, 0.0, grid, solver)
    return tuple(times)


def solve(velocity: Velocity, z: Any, grid: Sequence[float], solver: Solver) -> Any:
    """Carry `z` along the velocity from the first time of the grid to the last.

    Args:
        velocity: The field; called ``solver.evaluations`` times per step.
        z: The latent at ``grid[0]``: numpy array, torch tensor or symbolic latent.
        grid: Times, increasing to encode and decreasing to decode.
        solver: A row of `SOLVERS`.

    Returns:
        The latent at ``grid[-1]``, of the type and shape of `z`.
    """
    for state in trajectory(velocity, z, grid, solver):
        z = state
    return z


def trajectory(
    velocity: Velocity, z: Any, grid: Sequence[float], solver: Solver
) -> Iterator[Any]:
    """Yield the latent after each step of `solve`; the last is its result."""
    for t, t_next in pairwise(grid):
        z = solver.step(velocity, z, t, t_next)
        yield z
