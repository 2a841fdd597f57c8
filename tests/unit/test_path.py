import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.path import PATHS, path_from_name

paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@paths
def test_a_path_starts_at_z_v_and_ends_at_z_n(path):
    for t, alpha, sigma in ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0)):
        # cos(pi / 2) in float64 is 6e-17.
        assert path.alpha(t, np) == pytest.approx(alpha, abs=1e-15)
        assert path.sigma(t, np) == pytest.approx(sigma, abs=1e-15)


@paths
@given(st.floats(0, 1))
def test_a_derivative_is_the_slope_of_its_coefficient(path, t):
    h = 1e-5
    for f, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        difference = (f(t + h, np) - f(t - h, np)) / (2 * h)

        # Central differences: h^2 f''' / 6 plus rounding, eps / h; f''' <= 16.
        assert slope(t, np) == pytest.approx(difference, abs=5e-9)


@paths
def test_the_velocity_is_the_derivative_of_the_point(path):
    rng = np.random.default_rng(0)
    z_v, z_n = rng.standard_normal((2, 3, 4))
    h = 1e-5

    difference = (
        path.interpolate(z_v, z_n, 0.3 + h) - path.interpolate(z_v, z_n, 0.3 - h)
    ) / (2 * h)

    np.testing.assert_allclose(path.velocity(z_v, z_n, 0.3), difference, atol=1e-8)


@paths
def test_torch_and_numpy_compute_one_path(path):
    t = np.linspace(0, 1, 11)
    for name in ("alpha", "sigma", "d_alpha", "d_sigma"):
        f = getattr(path, name)

        np.testing.assert_allclose(
            f(torch.from_numpy(t), torch), f(t, np), rtol=0, atol=1e-14
        )


def test_an_unknown_path_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        path_from_name("cosine")

    assert str(caught.value) == (
        "path: expected one of cos, cos2, linear, found cosine"
    )
