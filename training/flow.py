"""The flow between z_v and z_n in torch: its loss, and following it both ways.

Paths and solvers are those of `runtime`. Knows nothing of optimisers, data or files.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from runtime.path import Path
from runtime.solver import Direction, Solver, solve, solver_from_name, time_grid
from training.sit import Latent, SiT, Times

Field = Callable[[Latent, Times], Latent]
"""A velocity field: latents and one time per latent to velocities."""
TimeLaw = Literal["uniform", "lognormal", "arcsine"]


def sample_times(n: int, law: TimeLaw, generator: torch.Generator) -> Times:
    """Draw flow times.

    Args:
        n: How many.
        law: ``uniform`` on [0, 1); ``lognormal``, ``(2 / pi) atan(exp(normal))``, Lu &
            Song (2024), section 4; or ``arcsine``, ``sin(pi u / 2)^2`` of a uniform u.
        generator: Draws them, on its own device.
    """
    device = generator.device
    if law != "lognormal":
        u = torch.rand(n, generator=generator, device=device)
        return u if law == "uniform" else torch.sin(u * (math.pi / 2)) ** 2
    normal = torch.randn(n, generator=generator, device=device)
    return torch.atan(torch.exp(normal)) * (2 / math.pi)


def flow_matching_loss(
    field: Field,
    z_v: Latent,
    z_n: Latent,
    t: Times,
    path: Path,
    *,
    seen: Latent | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the velocity on the path between two latents.

    Lipman et al. (2023), "Flow matching for generative modeling", equation 9.

    Args:
        field: The velocity field that learns.
        z_v: Visual latents, the path's end at t = 0.
        z_n: Neural latents of the same trials, the end at t = 1.
        t: One time in [0, 1] per trial.
        path: The interpolant.
        seen: z_n as the point on the path is made of it, where that is not z_n itself:
            with tokens missing, for instance. The velocity is that of z_n in any case.
    """
    times = t[:, None, None]
    z_t = path.interpolate(z_v, z_n if seen is None else seen, times, torch)
    wanted = path.velocity(z_v, z_n, times, torch)
    return F.mse_loss(field(z_t, t), wanted)


def encode_latents(
    field: SiT,
    z_v: Latent,
    steps: int,
    solver: Solver,
    path: Path,
    state_dtype: torch.dtype = torch.float64,
) -> Latent:
    """Carry visual latents to neural ones, t = 0 to 1; see `decode_latents`."""
    return _follow(field, z_v, steps, solver, path, state_dtype, "encode")


def decode_latents(
    field: SiT,
    z_n: Latent,
    steps: int,
    solver: Solver,
    path: Path,
    state_dtype: torch.dtype = torch.float64,
) -> Latent:
    """Carry neural latents to visual ones, t = 1 to 0.

    Args:
        field: The velocity field; it computes in the dtype of its own weights.
        z_n: Where the flow starts.
        steps: Equal steps of the time grid.
        solver: A row of `runtime.solver.SOLVERS`.
        path: The path that the field was trained on.
        state_dtype: In which the state is summed; float64 as published.

    Returns:
        Latents of `state_dtype`.

    Raises:
        ConfigError: The solver does not fit the path, or there is no step.
    """
    return _follow(field, z_n, steps, solver, path, state_dtype, "decode")


@torch.no_grad()
def _follow(
    field: SiT,
    z: Latent,
    steps: int,
    solver: Solver,
    path: Path,
    state_dtype: torch.dtype,
    direction: Direction,
) -> Latent:
    solver_from_name(solver.name, path.name)
    own = next(field.parameters()).dtype

    def velocity(state: Latent, t: float) -> Latent:
        # One row for the whole batch: the modulation depends on t alone.
        times = torch.tensor([t], dtype=torch.float64, device=state.device)
        return field.velocity(state.to(own), field.modulations(times)).to(state_dtype)

    grid = time_grid(steps, direction)
    end: Latent = solve(velocity, z.to(state_dtype), grid, solver)
    return end
