"""Interpolants between the visual latent (t = 0) and the neural latent (t = 1).

A path mixes the two ends as ``z_t = alpha(t) z_v + sigma(t) z_n``; the velocity that a
field learns is its time derivative. Knows nothing of networks or solvers.

Every coefficient takes the namespace that computes it (`numpy`, or `torch` in
training), so that one statement serves both sides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from runtime.errors import ConfigError

Coefficient = Callable[[Any, Any], Any]
"""A function of (t, namespace); t is a float or an array of the namespace."""

_HALF_PI = math.pi / 2


@dataclass(frozen=True, slots=True)
class Path:
    """One interpolant: alpha, sigma and their derivatives with respect to t."""

    name: str
    alpha: Coefficient
    sigma: Coefficient
    d_alpha: Coefficient
    d_sigma: Coefficient

    def interpolate(self, z_v: Any, z_n: Any, t: Any, xp: Any = np) -> Any:
        """Return ``z_t``, the point of the path at time `t`."""
        return self.alpha(t, xp) * z_v + self.sigma(t, xp) * z_n

    def velocity(self, z_v: Any, z_n: Any, t: Any, xp: Any = np) -> Any:
        """Return ``d z_t / d t``, the conditional velocity that a field regresses on.

        Lipman et al. (2023), "Flow matching for generative modeling", section 3.
        """
        return self.d_alpha(t, xp) * z_v + self.d_sigma(t, xp) * z_n


PATHS = MappingProxyType(
    {
        path.name: path
        for path in (
            # The path of the published code; TrigFlow (Lu & Song, 2024), GVP in SiT.
            Path(
                "cos",
                alpha=lambda t, xp: xp.cos(_HALF_PI * t),
                sigma=lambda t, xp: xp.sin(_HALF_PI * t),
                d_alpha=lambda t, xp: -_HALF_PI * xp.sin(_HALF_PI * t),
                d_sigma=lambda t, xp: _HALF_PI * xp.cos(_HALF_PI * t),
            ),
            # The path as summaries of the paper state it. Its velocity vanishes at both
            # ends, so that one step cannot leave either of them.
            Path(
                "cos2",
                alpha=lambda t, xp: xp.cos(_HALF_PI * t) ** 2,
                sigma=lambda t, xp: xp.sin(_HALF_PI * t) ** 2,
                d_alpha=lambda t, xp: -_HALF_PI * xp.sin(math.pi * t),
                d_sigma=lambda t, xp: _HALF_PI * xp.sin(math.pi * t),
            ),
            # Rectified flow (Liu et al., 2023).
            Path(
                "linear",
                alpha=lambda t, _xp: 1 - t,
                sigma=lambda t, _xp: t,
                d_alpha=lambda t, _xp: -1 + 0 * t,
                d_sigma=lambda t, _xp: 1 + 0 * t,
            ),
        )
    }
)
"""The paths by name."""


def path_from_name(name: str) -> Path:
    """Look a path up.

    Raises:
        ConfigError: No path has this name.
    """
    if name not in PATHS:
        raise ConfigError(f"path: expected one of {', '.join(PATHS)}, found {name}")
    return PATHS[name]
