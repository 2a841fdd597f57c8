"""Which engines judge which precision before a bundle ships, and the gates they give.

float32 is judged by the engines that will run it. A half graph is judged by a float32
twin that rounds where the graph says (`export.precision.rounded_in_float32`): an engine
without half arithmetic hides what the graph would overflow. ONNX Runtime, which opens
float16 graphs, is held to its own result as well. It judges 8-bit floating point too:
on the CPU it rounds to it as the graph says, and adds the products in float32.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from export.assemble import (
    Flow,
    Precision,
    in_precision,
    write_autoencoder,
    write_flow,
)
from export.graphs import Graph
from export.parity import Array, verdicts_of_model
from export.precision import Half, rounded_in_float32
from export.retrieval import Task
from runtime.golden import Verdict
from runtime.graphs import FORMS, Form
from runtime.manifest import EIGHT_BITS, GateSpec, Manifest
from runtime.model import Model, model_from_folder

_ENGINES: Final[Mapping[Precision, tuple[tuple[str, Form], ...]]] = {
    "f32": (("ort", "unrolled"), ("ort", "step"), ("openvino", "step")),
    "f16": (("ort", "unrolled"), ("ort", "step")),
    "bf16": (),
    "int8": (("ort", "unrolled"), ("ort", "step"), ("openvino", "step")),
    "fp8": (("ort", "unrolled"), ("ort", "step")),
}
"""Of the graphs as they are written. Step and unrolled must agree."""
_FORMS: Final[tuple[Form, ...]] = ("unrolled", "step")


def gates_of_flow(
    flow: Flow,
    autoencoder: Sequence[Graph],
    draft: Manifest,
    tensors: Mapping[str, Array],
    golden: Mapping[str, Array],
    folder: Path,
    precisions: Sequence[Precision],
    label: str,
    retrieval: Task | None = None,
) -> tuple[Manifest, tuple[GateSpec, ...]]:
    """Write a field's graphs in each precision and judge the whole model.

    Args:
        flow: The field's step graph and its grid.
        autoencoder: Its graphs in float32.
        draft: A manifest with the autoencoder's graphs, which are in `folder`.
        tensors: The bundle's tensors that engines are driven with.
        golden: From `export.parity.golden_vectors`.
        folder: The bundle's; the flow's files are written over.
        precisions: What to write.
        label: What the gates' names begin with.
        retrieval: What 8-bit engines must still find; None asks nothing of them.

    Returns:
        The manifest with the flow's graphs, and a gate for each metric of each result.

    Raises:
        ParityError: A map, a step or a whole direction is beyond its limits.
    """
    specs = [write_flow(flow.graphs(p), folder) for p in precisions]
    manifest = msgspec.structs.replace(
        draft, graphs=draft.graphs + tuple(spec for group in specs for spec in group)
    )
    gates: list[GateSpec] = []
    for precision in precisions:
        for backend, form in _ENGINES[precision]:
            start = f"{label}.{precision}.{backend}.{form}"
            with _opened(folder, manifest, tensors, backend, precision, form) as model:
                gates += _gates(verdicts_of_model(model, golden), start, precision)
                is_served = form == FORMS[backend]
                if precision in EIGHT_BITS and retrieval is not None and is_served:
                    found = retrieval.change_by(model.decode_latent)
                    gates.append(found.gate(f"{start}.ranks", precision))
        if precision in ("f16", "bf16"):
            for form, verdicts in _rounded(
                flow, autoencoder, manifest, tensors, golden, folder, precision
            ):
                start = f"{label}.{precision}.rounded.{form}"
                gates += _gates(verdicts, start, precision)
    return manifest, tuple(gates)


def _gates(
    verdicts: Sequence[Verdict], start: str, precision: Precision
) -> Iterator[GateSpec]:
    for verdict in verdicts:
        yield from replace(verdict, name=f"{start}.{verdict.name}").gates(precision)


def _rounded(
    flow: Flow,
    autoencoder: Sequence[Graph],
    manifest: Manifest,
    tensors: Mapping[str, Array],
    golden: Mapping[str, Array],
    folder: Path,
    precision: Half,
) -> Iterator[tuple[Form, list[Verdict]]]:
    """Judge the float32 twin of a half precision, from files that are not kept."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        (scratch / "graphs").mkdir()
        coders = [in_precision(graph, precision) for graph in autoencoder]
        specs = [
            *write_autoencoder(list(map(rounded_in_float32, coders)), ["f32"], scratch),
            *write_flow(list(map(rounded_in_float32, flow.graphs(precision))), scratch),
        ]
        twin = msgspec.structs.replace(manifest, graphs=tuple(specs))
        for form in _FORMS:
            with _opened(scratch, twin, tensors, "ort", "f32", form) as model:
                yield form, verdicts_of_model(model, golden)


def _opened(
    folder: Path,
    manifest: Manifest,
    tensors: Mapping[str, Array],
    backend: str,
    precision: Precision,
    form: Form,
) -> Model:
    return model_from_folder(
        folder,
        manifest,
        tensors,
        backend=backend,
        precision=precision,
        threads=None,
        form=form,
    )
