"""An unrolled graph is the solver, whatever the solver, around one set of weights."""

import copy
import io
import time
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from export.assemble import Flow, flow_of, step_graph, write_flow
from export.eight_bits import Ranges
from export.fold import FoldedVelocity, conditioning_table
from export.graphs import WeightStore, with_weights_of, write_graph
from export.precision import halved, rounded_in_float32
from export.unroll import evaluation_grid, unrolled
from runtime.engine import open_engine
from runtime.errors import ParityError
from runtime.golden import judge
from runtime.sealed import WEIGHTS_MAGIC
from runtime.solver import SOLVERS, solve, time_grid
from runtime.stepped import sum_weights
from tests.models import random_model
from training.config import SiTConfig
from training.sit import SiT

CAPABILITIES = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

# An export stands behind them, and most of it is torch's exporter.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def field():
    return random_model().field


@pytest.fixture(scope="module")
def step(field):
    return step_graph(field)


def test_a_graph_with_anothers_weights_is_the_others_graph(step, field):
    other = random_model(seed=3).field

    found = with_weights_of(step, FoldedVelocity(field), FoldedVelocity(other))

    wanted = step_graph(other)
    assert found.nodes == wanted.nodes
    assert found.weights.keys() == wanted.weights.keys()
    for key, array in wanted.weights.items():
        np.testing.assert_array_equal(found.weights[key], array)
        assert found.weights[key].flags.c_contiguous
    assert any((found.weights[key] != step.weights[key]).any() for key in step.weights)


def test_weights_that_are_alike_or_of_another_shape_are_not_exchanged(step, field):
    zeroed = copy.deepcopy(field)
    for layer in (zeroed.blocks[0].attn.proj, zeroed.blocks[1].mlp.fc2):
        torch.nn.init.zeros_(layer.bias)
    traced = FoldedVelocity(zeroed)
    zero = {"w2": traced.field.blocks[0].attn.proj.bias.detach().numpy()}
    alike = replace(step, weights=dict(step.weights) | zero)

    with pytest.raises(
        ParityError, match=r"found those of \S+proj.bias and \S+fc2.bias"
    ):
        with_weights_of(alike, traced, FoldedVelocity(field))
    config = SiTConfig(tokens=8, width=12, depth=1, heads=3, frequencies=16)
    other = FoldedVelocity(SiT(config))
    with pytest.raises(ParityError, match="expected two modules of the same shape"):
        with_weights_of(step, FoldedVelocity(field), other)


def graph_of(step, field, solver, steps, direction):
    table = conditioning_table(field, evaluation_grid(solver, steps, direction))
    return unrolled(step, table.numpy(), solver, steps, direction)


def _adds(graph, node, weight):
    """Whether a node adds the bias to the product with a weight."""
    made = {n.output[0]: n for n in graph.nodes}
    return node.op_type == "Add" and weight in getattr(
        made.get(node.input[0]), "input", ()
    )


def run(graph, path, z):
    write_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {graph.inputs[0].name: z})[0]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_unrolled_graph_is_the_solver_in_float64(
    step, field, tmp_path, solver, direction, steps
):
    z = np.random.default_rng(0).normal(size=(1, 8, 12)).astype(np.float32)
    wide = copy.deepcopy(field).double()
    with torch.no_grad():
        wanted = solve(
            lambda z, t: wide(z, torch.tensor([t], dtype=torch.float64)),
            torch.from_numpy(z).double(),
            time_grid(steps, direction),
            solver,
        ).numpy()

    found = run(graph_of(step, field, solver, steps, direction), tmp_path / "g", z)

    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_steps_add_nodes_and_rows_but_no_weights(step, field):
    few, many = (graph_of(step, field, SOLVERS["euler"], n, "decode") for n in (1, 20))
    rows = {key for key in many.weights if key not in step.weights}

    assert len(many.nodes) == 20 * len(few.nodes)
    assert {k: v for k, v in many.weights.items() if k in step.weights} == step.weights
    assert sum(key.startswith("t") for key in rows) == 20


def test_both_directions_and_the_step_share_one_weights_file(field, tmp_path):
    (tmp_path / "graphs").mkdir()
    steps = {"decode": 20, "encode": 20}

    flow = flow_of(field, SOLVERS["euler"], steps)
    specs = write_flow(flow.graphs("f32"), tmp_path)

    stored = (tmp_path / "graphs/flow.weights").stat().st_size
    row = flow.tables["decode"].shape[1] * 4
    weights = sum(p.numel() * 4 for p in field.parameters())
    assert stored < weights + 21 * (row + 64) + 8192
    assert {spec.name for spec in specs} == {
        "step",
        "decode_flow",
        "encode_flow",
    }


@pytest.fixture(scope="module")
def written(field, tmp_path_factory):
    """What a manifest says of the graphs of each precision, and their folder."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "graphs").mkdir()
    flow = flow_of(field, SOLVERS["rotation"], {"decode": 2, "encode": 2})
    z = np.random.default_rng(1).normal(size=(4, 8, 12))
    flow.ranges.watch(z, [0.0, 0.5, 0.75, 1.0])
    names = "f32", "f16", "bf16", "int8", "fp8"
    specs = {name: write_flow(flow.graphs(name), folder) for name in names}
    return {key: (folder, *found) for key, found in specs.items()}


@pytest.mark.parametrize("solver", [SOLVERS["euler"], SOLVERS["rotation"]])
@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize(
    ("backend", "written_in", "told"),
    [
        ("ort", "f32", "f32"),
        ("ort", "f16", "f32"),
        ("ort", "int8", "f32"),
        ("ort", "fp8", "f32"),
        ("openvino", "f32", "f32"),
        pytest.param(
            "openvino",
            "f32",
            "bf16",
            marks=pytest.mark.skipif(
                "BF16" not in CAPABILITIES, reason="not run: no bfloat16 here"
            ),
        ),
        ("openvino", "int8", "int8"),
        ("reference", "f32", "f32"),
        ("reference", "bf16", "f32"),
    ],
)
def test_a_step_makes_the_solvers_sum_in_float32(
    written, solver, direction, backend, written_in, told
):
    folder, spec, *_ = written[written_in]
    path = folder / spec.file
    engine = open_engine(backend, path, spec, precision=told, threads=1)
    rng = np.random.default_rng(2)
    z = rng.normal(size=(1, 8, 12)).astype(np.float32)
    row = rng.normal(size=(1, 168)).astype(np.float32)

    def state(*weights):
        told = np.array(weights, np.float32)
        return engine.run({"z": z, "modulation": row, "weights": told})["state"].copy()

    velocity = state(0, 1)
    np.testing.assert_array_equal(state(1, 0), z)
    for by_z, by_velocity in sum_weights(solver, time_grid(3, direction)):
        wanted = by_z * z + by_velocity * velocity
        assert np.abs(by_velocity * velocity).max() > 0.1
        found = state(by_z, by_velocity)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    engine.close()


def test_the_sum_leaves_the_velocity_as_it_was(step, written, tmp_path):
    folder, spec, *_ = written["f32"]
    rng = np.random.default_rng(2)
    z = rng.normal(size=(1, 8, 12)).astype(np.float32)
    row = rng.normal(size=(1, 168)).astype(np.float32)
    inputs = {"z": z, "modulation": row}
    write_graph(step, tmp_path / "g.onnx")
    plain = open_engine("ort", tmp_path / "g.onnx", step.spec("g.onnx"), threads=1)
    summing = open_engine("ort", folder / spec.file, spec, threads=1)

    weights = np.array([0, 1], np.float32)
    found = summing.run(inputs | {"weights": weights})["state"]

    np.testing.assert_array_equal(found, plain.run(inputs)["velocity"])


def test_every_step_says_what_it_takes_and_gives_and_the_whole_flow_has_it_inside(
    written,
):
    for _, step, *whole in written.values():
        assert [port.name for port in step.inputs] == ["z", "modulation", "weights"]
        assert [port.name for port in step.outputs] == ["state"]
        assert step.outputs[0].shape == step.inputs[0].shape
        for graph in whole:
            assert (len(graph.inputs), len(graph.outputs)) == (1, 1)


@pytest.fixture(scope="module")
def wide_field():
    """A block so wide that its weights outweigh its nodes, as the published ones do."""
    config = SiTConfig(tokens=4, width=1024, depth=1, heads=8, frequencies=8)
    return SiT(config).eval()


def test_twenty_steps_take_the_space_of_one_in_half_precision_too(wide_field, tmp_path):
    sizes = {}
    step = step_graph(wide_field)
    for steps in (1, 20):
        grids = {
            way: evaluation_grid(SOLVERS["euler"], steps, way)
            for way in ("decode", "encode")
        }
        tables = {
            way: conditioning_table(wide_field, grid).numpy()
            for way, grid in grids.items()
        }
        counts = dict.fromkeys(grids, steps)
        flow = Flow(step, Ranges(wide_field), tables, SOLVERS["euler"], counts)
        folder = tmp_path / str(steps)
        (folder / "graphs").mkdir(parents=True)
        write_flow(flow.graphs("f16"), folder)
        sizes[steps] = sum(p.stat().st_size for p in (folder / "graphs").iterdir())

    products = 13 * 1024**2
    assert 2 * products < sizes[1] < sizes[20] <= 1.05 * sizes[1]


def test_a_half_step_that_overflows_is_refused(step, tmp_path):
    """Equal in float32: one layer a million times larger, the next as much smaller."""
    products = [
        node.input[1]
        for node in step.nodes
        if node.op_type == "MatMul" and node.input[1] in step.weights
    ]
    value, output = products[0], products[1]
    weights = dict(step.weights)
    weights[value] = weights[value] * np.float32([1] * 24 + [1e6] * 12)
    bias = next(n.input[1] for n in step.nodes if _adds(step, n, value))
    weights[bias] = weights[bias] * np.float32([1] * 24 + [1e6] * 12)
    weights[output] = weights[output] * np.float32(1e-6)
    loud = replace(step, weights=weights)
    z = np.random.default_rng(0).normal(size=(1, 8, 12)).astype(np.float32)
    row = np.ones((1, 168), np.float32)

    def velocity(graph):
        write_graph(graph, tmp_path / "g.onnx")
        session = onnxruntime.InferenceSession(
            str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"z": z, "modulation": row})[0]

    wanted = velocity(step)
    assert judge("f32", wanted, velocity(loud)).rel_l2 < 1e-5
    judge("f16", wanted, velocity(rounded_in_float32(halved(step, "f16")))).gates("f16")
    found = judge("f16", wanted, velocity(rounded_in_float32(halved(loud, "f16"))))
    assert found.nonfinite == wanted.size
    with pytest.raises(ParityError, match=r"f16: expected .*, 96 non-finite$"):
        found.gates("f16")


def test_nothing_of_the_exporting_machine_is_in_a_graph(step, tmp_path):
    write_graph(step, tmp_path / "step.onnx")

    data = (tmp_path / "step.onnx").read_bytes()

    for trace in (b".py", b"stack_trace", b"torch", b"site-packages", b"attn"):
        assert trace not in data
    model = onnx.load_from_string(data)
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)
    assert [p.name for p in model.graph.input] == ["z", "modulation"]


def test_equal_arrays_are_stored_once_and_aligned():
    file = io.BytesIO()
    store = WeightStore(file, "x.weights")

    places = [store.place(np.full(5, i % 2, np.float32)) for i in range(4)]

    assert places[:2] == places[2:]
    assert all(offset % 64 == 0 for offset, _ in places)
    assert file.getvalue().startswith(WEIGHTS_MAGIC)


def test_twelve_blocks_by_twenty_steps_unroll_in_seconds(tmp_path):
    field = SiT(SiTConfig(tokens=4, width=8, depth=12, heads=2, frequencies=8)).eval()
    step = step_graph(field)

    # Of the processor: what else the machine does meanwhile is not unrolling.
    start = time.process_time()
    graph = graph_of(step, field, SOLVERS["heun"], 20, "decode")
    write_graph(graph, tmp_path / "g.onnx")
    elapsed_s = time.process_time() - start

    assert len(graph.nodes) > 40 * 12 * 20
    assert elapsed_s < 10  # the stated bound; torch's own exporter takes minutes
