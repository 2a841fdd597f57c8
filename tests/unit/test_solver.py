import math

import numpy as np
import pytest
import torch

from runtime.errors import ConfigError
from runtime.path import PATHS
from runtime.solver import (
    SOLVERS,
    evaluation_times,
    solve,
    solver_from_name,
    time_grid,
)

every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@every_solver
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_the_error_falls_with_the_order_that_the_solver_claims(solver, direction):
    # z' = -z + cos 3t, whose solution is a e^-t + (cos 3t + 3 sin 3t) / 10.
    def velocity(z, t):
        return -z + math.cos(3 * t)

    def solution(t):
        return 0.7 * math.exp(-t) + (math.cos(3 * t) + 3 * math.sin(3 * t)) / 10

    steps = np.array([64, 128, 256, 512])
    errors = []
    for n in steps:
        grid = time_grid(int(n), direction)
        end = solve(velocity, solution(grid[0]), grid, solver)
        errors.append(abs(end - solution(grid[-1])))

    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(solver.order, abs=0.1)


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_solver_makes_the_evaluations_that_it_claims(solver, steps):
    grid = time_grid(steps, "decode")
    times = []

    def velocity(z, t):
        times.append(t)
        return z

    solve(velocity, 1.0, grid, solver)

    assert len(times) == steps * solver.evaluations
    assert evaluation_times(solver, grid) == tuple(times)


# Left Riemann sums of the cos and cos2 paths' velocities.
@pytest.mark.parametrize(
    ("steps", "cos_z_n", "cos_z_v", "cos2_z_n"),
    [
        (1, 1.5708, 1.0, 0.0),
        (4, 1.1835, 0.2092, 0.9481),
        (10, 1.0765, 0.0806, 0.9918),
        (20, 1.0388, 0.0398, 0.9979),
        (50, 1.0156, 0.0158, 0.9997),
    ],
)
def test_euler_ends_beside_the_end_by_the_known_amount(
    steps, cos_z_n, cos_z_v, cos2_z_n
):
    def end(path):
        z_v, z_n = np.eye(2)
        return solve(
            lambda _z, t: path.velocity(z_v, z_n, t),
            z_v,
            time_grid(steps, "encode"),
            SOLVERS["euler"],
        )

    np.testing.assert_allclose(end(PATHS["cos"]), [cos_z_v, cos_z_n], atol=6e-5)
    assert end(PATHS["cos2"])[1] == pytest.approx(cos2_z_n, abs=6e-5)


@every_solver
def test_torch_and_numpy_follow_one_trajectory(solver):
    z = np.random.default_rng(0).standard_normal((2, 3, 4))
    grid = time_grid(5, "decode")

    in_numpy = solve(lambda z, t: np.sin(z) * t, z, grid, solver)
    in_torch = solve(lambda z, t: torch.sin(z) * t, torch.from_numpy(z), grid, solver)

    np.testing.assert_allclose(in_torch, in_numpy, rtol=1e-13, atol=1e-14)


@every_solver
def test_a_step_keeps_float32(solver):
    z = np.ones(3, np.float32)

    end = solve(lambda z, _t: z, z, time_grid(3, "encode"), solver)

    assert end.dtype == np.float32


def test_decoding_runs_the_encoding_grid_backwards():
    assert time_grid(4, "encode") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert time_grid(4, "decode") == time_grid(4, "encode")[::-1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: solver_from_name("midpoint", "cos"),
            "solver: expected one of euler, rotation, heun, found midpoint",
        ),
        (
            lambda: solver_from_name("rotation", "linear"),
            "solver rotation: expected path cos, found linear. "
            "Choose euler or heun on this path.",
        ),
        (
            lambda: time_grid(0, "encode"),
            "steps: expected at least 1, found 0",
        ),
    ],
)
def test_a_wrong_choice_is_refused_in_one_clear_line(call, message):
    with pytest.raises(ConfigError) as caught:
        call()

    assert str(caught.value) == message
