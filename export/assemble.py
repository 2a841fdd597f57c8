"""The graphs of the whole model in each precision, written into a folder.

The flow's three graphs of a precision share one weights file, the autoencoder's three
another: two of these are the encoder, with one end or the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import nn

from export.channels_last import channels_last
from export.eight_bits import Ranges, quantised
from export.fold import (
    FoldedEncoder,
    FoldedRetrieval,
    FoldedVelocity,
    VoxelDecoder,
    conditioning_table,
)
from export.graphs import (
    Graph,
    WeightStore,
    graph_from_module,
    with_weights_of,
    write_graph,
)
from export.precision import Half, halved
from export.unroll import TABLE_ROW, evaluation_grid, unrolled, with_sum
from runtime.errors import ConfigError
from runtime.manifest import EightBits, GraphSpec
from runtime.solver import Direction, Solver
from training.neurovae import NeuroVAE
from training.sit import SiT

Precision = Literal["f32"] | Half | EightBits
"""What a bundle's graphs can be written in."""
DIRECTIONS: Final[tuple[Direction, ...]] = ("decode", "encode")
_SEED: Final = 7


def check_precisions(precisions: Sequence[Precision]) -> None:
    """Refuse a choice that would make no bundle.

    Raises:
        ConfigError: Without f32, which every bundle is judged by, or named twice.
    """
    if "f32" not in precisions or len(set(precisions)) != len(precisions):
        raise ConfigError(
            "precisions: expected f32 and each at most once, "
            f"found {' '.join(precisions) or 'none'}"
        )


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


@final
@dataclass(frozen=True, slots=True)
class Flow:
    """A velocity field's step graph in float32 and the grid that it is unrolled on."""

    step: Graph
    ranges: Ranges
    """Of the activations that 8 bits must hold; empty until it has watched."""
    tables: Mapping[Direction, Float64[np.ndarray, "evaluations modulation"]]
    solver: Solver
    steps: Mapping[Direction, int]

    def graphs(self, precision: Precision) -> tuple[Graph, ...]:
        """Return the step and both unrolled directions around the same weights.

        The step makes the solver's sum as well; the others have it in them.
        """
        step = (
            quantised(self.step, self.ranges.of, precision)
            if precision == "int8" or precision == "fp8"
            else in_precision(self.step, precision)
        )
        return (
            with_sum(step),
            *(
                unrolled(
                    step,
                    self.tables[direction],
                    self.solver,
                    self.steps[direction],
                    direction,
                )
                for direction in DIRECTIONS
            ),
        )

    def tensors(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return the tables as the bundle's tensors name them."""
        return {
            f"conditioning_{key}": table.astype(np.float32)
            for key, table in self.tables.items()
        }


def flow_of(
    field: SiT,
    solver: Solver,
    steps: Mapping[Direction, int],
    traced: tuple[SiT, Graph] | None = None,
) -> Flow:
    """Trace a field's step graph and fold the conditioning of its grid into tables.

    Args:
        field: In evaluation mode, float32, on the CPU.
        solver: Of both directions.
        steps: Of each direction.
        traced: Another field of the same sizes, no two of its weights alike, and its
            step graph, which is given this field's weights instead of a second trace.
    """
    tables = {
        direction: conditioning_table(
            field, evaluation_grid(solver, steps[direction], direction)
        ).numpy()
        for direction in DIRECTIONS
    }
    step = (
        with_weights_of(traced[1], FoldedVelocity(traced[0]), FoldedVelocity(field))
        if traced
        else step_graph(field)
    )
    return Flow(step, Ranges(field), tables, solver, steps)


def in_precision(graph: Graph, precision: Literal["f32"] | Half) -> Graph:
    """Return a float32 graph in a floating-point precision."""
    return graph if precision == "f32" else halved(graph, precision)


def write_flow(graphs: Sequence[Graph], folder: Path) -> tuple[GraphSpec, ...]:
    """Write the flow's graphs of one precision around one weights file."""
    return _write_around("flow", graphs, folder)


def _write_around(
    stem: str, graphs: Sequence[Graph], folder: Path
) -> tuple[GraphSpec, ...]:
    """Write graphs into a bundle's folder and return what the manifest says of them."""
    name = f"{stem}{_suffix(graphs[0])}.weights"
    with (folder / "graphs" / name).open("wb") as file:
        store = WeightStore(file, name)
        specs = [
            graph.spec(f"graphs/{graph.name}{_suffix(graph)}.onnx") for graph in graphs
        ]
        for graph, spec in zip(graphs, specs, strict=True):
            write_graph(graph, folder / spec.file, store)
    return tuple(specs)


def _suffix(graph: Graph) -> str:
    return "" if graph.precision == "f32" else f".{graph.precision}"


def write_autoencoder(
    graphs: Sequence[Graph], precisions: Sequence[Precision], folder: Path
) -> tuple[GraphSpec, ...]:
    """Write the autoencoder's graphs, each precision around one weights file.

    Args:
        graphs: In float32; 8 bits use these.
        precisions: What to write.
        folder: The bundle's.
    """
    return tuple(
        spec
        for precision in precisions
        if precision != "int8" and precision != "fp8"
        for spec in _write_around(
            "autoencoder", [in_precision(graph, precision) for graph in graphs], folder
        )
    )


def autoencoder_modules(vae: NeuroVAE) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return what is exported: the encoder, retrieval and the decoder, rewritten."""
    first, last = "features.down.0", "vae.decoder.conv_out"
    decoded = "vae.pre_proj2" if vae.is_compact else "vae.decoder.mid"
    return (
        channels_last(FoldedEncoder(vae), first, "mean"),
        channels_last(FoldedRetrieval(vae), first, "features.norm_out"),
        channels_last(VoxelDecoder(vae), decoded, last),
    )


def autoencoder_graphs(vae: NeuroVAE) -> tuple[Graph, Graph, Graph]:
    """Return voxels to z_n, to the retrieval features, and z_n to voxels, in float32.

    The first two are apart because whoever answers needs the first alone.
    """
    size = vae.config
    voxels = _examples((1, size.voxels))
    encoder, retrieval, decoder = autoencoder_modules(vae)
    return (
        graph_from_module(
            "encoder", encoder, voxels, inputs=["voxels"], outputs=["z_n"]
        ),
        graph_from_module(
            "retrieval", retrieval, voxels, inputs=["voxels"], outputs=["retrieval"]
        ),
        graph_from_module(
            "decoder",
            decoder,
            _examples((1, size.tokens, size.width)),
            inputs=["z_n"],
            outputs=["voxels"],
        ),
    )
