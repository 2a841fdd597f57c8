import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.path import PATHS
from runtime.solver import SOLVERS, solve, time_grid
from training.config import config_from_preset
from training.flow import (
    decode_latents,
    encode_latents,
    flow_matching_loss,
    sample_times,
)
from training.sit import SiT

seeds = st.integers(0, 2**31)
steps = st.integers(1, 40)


def latents(seed):
    return np.random.default_rng(seed).standard_normal((2, 2, 3, 4))


@given(seeds, steps)
def test_rotation_is_exact_for_the_true_velocity_at_any_step_count(seed, n):
    path = PATHS["cos"]
    z_v, z_n = latents(seed)

    def velocity(_z, t):
        return path.velocity(z_v, z_n, t)

    for start, end, direction in ((z_v, z_n, "encode"), (z_n, z_v, "decode")):
        reached = solve(velocity, start, time_grid(n, direction), SOLVERS["rotation"])

        # At most 40 steps of a few roundings each, on numbers of a few units.
        np.testing.assert_allclose(reached, end, rtol=0, atol=1e-13)


@given(seeds, steps)
def test_a_straight_flow_is_exact_on_any_grid(seed, n):
    path = PATHS["linear"]
    z_v, z_n = latents(seed)
    for name in ("euler", "heun"):
        reached = solve(
            lambda _z, t: path.velocity(z_v, z_n, t),
            z_v,
            time_grid(n, "encode"),
            SOLVERS[name],
        )

        np.testing.assert_allclose(reached, z_n, rtol=0, atol=1e-13)


@given(seeds, st.floats(0, 1), st.sampled_from(sorted(PATHS)))
def test_the_loss_is_zero_for_the_true_velocity_and_only_for_it(seed, t, name):
    path = PATHS[name]
    z_v, z_n = (torch.from_numpy(z) for z in latents(seed))
    times = torch.full((2,), t, dtype=torch.float64)
    true = path.velocity(z_v, z_n, t, _Scalars)

    exact = flow_matching_loss(lambda _z, _t: true, z_v, z_n, times, path)
    off = flow_matching_loss(lambda _z, _t: true + 0.5, z_v, z_n, times, path)

    assert float(exact) < 1e-28
    assert math.isclose(float(off), 0.25, rel_tol=1e-12)


class _Scalars:
    cos, sin = staticmethod(math.cos), staticmethod(math.sin)


@given(seeds, st.sampled_from(["uniform", "lognormal"]))
def test_times_lie_between_the_ends_and_follow_the_seed(seed, law):
    first, again = (
        sample_times(50, law, torch.Generator().manual_seed(seed)) for _ in range(2)
    )

    assert torch.equal(first, again)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_lognormal_times_are_symmetric_and_denser_in_the_middle():
    t = sample_times(20_000, "lognormal", torch.Generator().manual_seed(0))

    # P(0.25 < t < 0.75) = P(|normal| < ln tan(3 pi / 8)) = 0.6219; 5 standard errors.
    inside = float(((t > 0.25) & (t < 0.75)).float().mean())
    assert abs(inside - 0.6219) < 5 * 0.0035
    assert abs(float(t.mean()) - 0.5) < 0.01


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(1, 5), st.sampled_from(["euler", "rotation", "heun"]))
def test_a_field_that_is_zero_is_followed_as_the_solver_says(seed, n, name):
    field = SiT(config_from_preset("tiny").flow)
    z = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(seed))

    ends = [
        follow(field, z, n, SOLVERS[name], PATHS["cos"])
        for follow in (encode_latents, decode_latents)
    ]

    # Rotation turns by pi / 2 in all; the others stay.
    factor = math.cos(math.pi / 2 / n) ** n if name == "rotation" else 1.0
    for end in ends:
        assert end.dtype == torch.float64
        torch.testing.assert_close(end, z.double() * factor, rtol=0, atol=1e-14)
