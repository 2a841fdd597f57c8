"""A bundle's flow held against itself: solver, grids, tables and graphs fit together.

Each is written down by itself, and what one alone says wrongly would show in the middle
of an evaluation, if at all. Pure.
"""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from runtime.arrays import Shaped
from runtime.errors import BundleError, ConfigError
from runtime.manifest import MANIFEST, TENSORS, Manifest
from runtime.path import path_from_name
from runtime.solver import Direction, Solver, solver_from_name


def check_flow(
    manifest: Manifest, tensors: Mapping[str, Shaped[np.ndarray, "..."]]
) -> None:
    """Refuse a bundle whose statements about the flow contradict each other.

    Args:
        manifest: Of the bundle.
        tensors: Content of its `tensors.safetensors`.

    Raises:
        BundleError: A graph listed twice, an unknown solver or path, a grid that is
            none, evaluations that neither the grid nor the table has, or steps that
            sum in one precision alone.
    """
    listed = Counter((graph.name, graph.precision) for graph in manifest.graphs)
    for (name, precision), times in listed.items():
        if times > 1:
            raise BundleError(
                f"{MANIFEST}: graphs: expected {name} {precision} once, found it "
                f"{times} times"
            )
    _check_sums(manifest)
    try:
        path_from_name(manifest.flow.path)
        solver = solver_from_name(manifest.flow.solver, manifest.flow.path)
    except ConfigError as error:
        raise BundleError(f"{MANIFEST}: flow.{error}") from error
    _check_direction(manifest, tensors, solver, "decode")
    _check_direction(manifest, tensors, solver, "encode")


def _check_sums(manifest: Manifest) -> None:
    """Refuse steps that take weights and give no state, or are not all alike."""
    found: dict[str, tuple[object, object]] = {}
    for graph in manifest.graphs:
        if graph.name == "step":
            shapes = {port.name: port.shape for port in (*graph.inputs, *graph.outputs)}
            is_like_z = "state" in shapes and shapes["state"] == shapes.get("z")
            state = "like z" if is_like_z else shapes.get("state")
            found[graph.precision] = shapes.get("weights"), state
    if not any(
        set(found.values()) <= {one} for one in (((2,), "like z"), (None, None))
    ):
        shown = (
            f"{precision} with {_side(weights)} and {_side(state)}"
            for precision, (weights, state) in found.items()
        )
        raise BundleError(
            f"{MANIFEST}: graphs: expected each step with weights [2] and a state like "
            f"z, or each with none and none, found {', '.join(shown)}"
        )


def _side(shape: object) -> str:
    """Return a shape as a message shows it."""
    return str(list(shape) if isinstance(shape, tuple) else shape or "none")


def _check_direction(
    manifest: Manifest,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    solver: Solver,
    direction: Direction,
) -> None:
    times = manifest.flow.times(direction)
    start, end = (1.0, 0.0) if direction == "decode" else (0.0, 1.0)
    is_grid = (
        len(times) >= 2
        and (times[0], times[-1]) == (start, end)
        and all(math.isfinite(t) for t in times)
        and all((b - a) * (end - start) > 0 for a, b in pairwise(times))
    )
    if not is_grid:
        raise BundleError(
            f"{MANIFEST}: flow.{direction}_times: expected times from {start:g} to "
            f"{end:g} in order, found {_shown(times)}"
        )
    steps = len(times) - 1
    wanted = steps * solver.evaluations
    said = (
        manifest.flow.decode_evaluations
        if direction == "decode"
        else manifest.flow.encode_evaluations
    )
    if said != wanted:
        raise BundleError(
            f"{MANIFEST}: flow.{direction}_evaluations: expected {wanted}, which "
            f"{solver.name} takes for {steps} steps, found {said}"
        )
    name = f"conditioning_{direction}"
    widths = {
        port.shape[-1]
        for graph in manifest.graphs
        if graph.name == "step"
        for port in graph.inputs
        if port.name == "modulation"
    }
    table = tensors.get(name)
    is_table = table is not None and table.ndim == 2 and len(table) == wanted
    if table is None or not is_table or (widths and widths != {table.shape[1]}):
        width = ", ".join(str(one) for one in sorted(widths)) or "any"
        raise BundleError(
            f"{TENSORS}: {name}: expected shape [{wanted}, {width}], a row for each "
            f"evaluation, found {'none' if table is None else list(table.shape)}"
        )


def _shown(times: tuple[float, ...]) -> str:
    some = ", ".join(f"{t:g}" for t in times[:8])
    return f"{some}{', ...' if len(times) > 8 else ''}" or "none"
