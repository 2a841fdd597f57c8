"""The graphs of the whole model, written into a folder.

The flow's three graphs share one weights file; the autoencoder's two hold their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from export.fold import FoldedEncoder, FoldedVelocity, VoxelDecoder, conditioning_table
from export.graphs import Graph, WeightStore, graph_from_module, write_graph
from export.unroll import TABLE_ROW, evaluation_grid, unrolled
from runtime.manifest import GraphSpec
from runtime.solver import Direction, Solver
from training.neurovae import NeuroVAE
from training.sit import SiT

FLOW_WEIGHTS: Final = "flow.weights"
DIRECTIONS: Final[tuple[Direction, ...]] = ("decode", "encode")
_SEED: Final = 7


@final
@dataclass(frozen=True, slots=True)
class FlowFiles:
    """The flow's graphs and the tables that its step graph is driven with."""

    graphs: tuple[GraphSpec, ...]
    tables: Mapping[Direction, Float32[np.ndarray, "evaluations modulation"]]

    def tables_by_name(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return the tables as the bundle's tensors name them."""
        return {f"conditioning_{key}": table for key, table in self.tables.items()}


def _examples(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(_SEED)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def step_graph(field: SiT) -> Graph:
    """Return the velocity graph, ``(z, modulation) -> velocity``."""
    folded = FoldedVelocity(field).eval()
    m, d = field.config.tokens, field.config.width
    return graph_from_module(
        "step",
        folded,
        _examples((1, m, d), (1, sum(folded.sizes))),
        inputs=["z", TABLE_ROW],
        outputs=["velocity"],
    )


def write_flow(
    field: SiT, solver: Solver, steps: Mapping[Direction, int], folder: Path
) -> FlowFiles:
    """Write the step graph and both unrolled directions around one weights file."""
    step = step_graph(field)
    tables = {
        direction: conditioning_table(
            field, evaluation_grid(solver, steps[direction], direction)
        ).numpy()
        for direction in DIRECTIONS
    }
    graphs = [step] + [
        unrolled(step, tables[direction], solver, steps[direction], direction)
        for direction in DIRECTIONS
    ]
    with (folder / "graphs" / FLOW_WEIGHTS).open("wb") as file:
        store = WeightStore(file, FLOW_WEIGHTS)
        specs = tuple(_write(graph, folder, store) for graph in graphs)
    rounded = {key: table.astype(np.float32) for key, table in tables.items()}
    return FlowFiles(specs, rounded)


def _write(graph: Graph, folder: Path, store: WeightStore | None = None) -> GraphSpec:
    file = f"graphs/{graph.name}.onnx"
    write_graph(graph, folder / file, store)
    return graph.spec(file)


def write_autoencoder(vae: NeuroVAE, folder: Path) -> tuple[GraphSpec, ...]:
    """Write the voxel encoder and the voxel decoder."""
    size = vae.config
    encoder = graph_from_module(
        "encoder",
        FoldedEncoder(vae).eval(),
        _examples((1, size.voxels)),
        inputs=["voxels"],
        outputs=["z_n", "retrieval"],
    )
    decoder = graph_from_module(
        "decoder",
        VoxelDecoder(vae).eval(),
        _examples((1, size.tokens, size.width)),
        inputs=["z_n"],
        outputs=["voxels"],
    )
    return tuple(_write(graph, folder) for graph in (encoder, decoder))
