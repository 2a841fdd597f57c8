"""8-bit products are what integers of a stated scale give, and smoothing is exact."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export import int8
from export.graphs import Graph, write_graph
from export.int8 import Ranges, quantised, smoothing
from runtime.engine import open_engine
from runtime.errors import ParityError
from runtime.manifest import TensorSpec
from tests.models import random_model


def product(weight) -> Graph:
    rows, columns = weight.shape
    return Graph(
        "small",
        (helper.make_node("MatMul", ["x", "w"], ["y"]),),
        (TensorSpec(name="x", shape=(2, rows)),),
        (TensorSpec(name="y", shape=(2, columns)),),
        {"w": weight},
    )


def by_ort(graph, path, x):
    """As the nodes say, not as an optimiser would fuse them."""
    write_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_no_product_is_further_off_than_half_a_level_of_each_factor(
    tmp_path_factory, seed, outlier
):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, 4)).astype(np.float32)
    x = rng.normal(size=(2, 6)).astype(np.float32)
    x[:, 2] *= outlier
    sizes = np.abs(x).max(axis=0)
    path = tmp_path_factory.mktemp("g") / "g.onnx"

    found = by_ort(quantised(product(weight), lambda _: sizes), path, x)

    smooth = smoothing(sizes, weight).astype(np.float64)
    rows, smoothed = weight * smooth[:, None], np.abs(x / smooth)
    of_x = smoothed.max() / 127 / 2
    of_w = np.abs(rows).max(axis=0) / 63 / 2
    bound = of_x * np.abs(rows).sum(axis=0) + of_w * smoothed.sum(axis=1).max()
    bound += len(rows) * of_x * of_w
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    assert (np.abs(found - exact) <= 1.001 * bound + 1e-6).all()


def test_the_float64_reference_computes_the_integers_that_engines_compute(tmp_path):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(24, 16)).astype(np.float32)
    x = rng.normal(size=(2, 24)).astype(np.float32)
    graph = quantised(product(weight), lambda _: np.abs(x).max(axis=0))
    path = tmp_path / "g.onnx"
    wanted = by_ort(graph, path, x)

    engine = open_engine("reference", path, graph.spec("g.onnx"))
    found = engine.run({"x": x})["y"]

    # The integers are the same, or a level of an input, 1 %, would show.
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_two_products_fit_the_sixteen_bits_that_some_processors_add_them_in():
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)

    graph = quantised(product(weight), lambda _: np.ones(8, np.float32))

    largest = np.abs(graph.weights["w.q"].astype(int)).max(axis=0)
    np.testing.assert_array_equal(largest, 63)
    assert 2 * 255 * largest.max() < 2**15


def test_smoothing_keeps_a_loud_channel_from_taking_the_scale(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(64, 16)).astype(np.float32)
    x = rng.normal(size=(2, 64)).astype(np.float32)
    x[:, 5] *= 100
    weight[5] /= 100
    exact = x @ weight

    def error():
        graph = quantised(product(weight), lambda _: np.abs(x).max(axis=0))
        found = by_ort(graph, tmp_path / "g.onnx", x)
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    smooth = error()
    monkeypatch.setattr(int8, "smoothing", lambda sizes, _: np.ones_like(sizes))
    assert 10 * smooth < error()


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=5))
def test_smoothing_is_finite_and_positive_whatever_a_channel_does(sizes):
    weight = np.zeros((len(sizes), 2), np.float32)
    weight[::2] = 1e-6

    smooth = smoothing(np.array(sizes, np.float32), weight)

    assert np.isfinite(smooth).all()
    assert (smooth > 0).all()
    assert (smooth[1::2] == 1).all()


def test_ranges_are_those_of_the_layer_that_has_the_weight():
    field = random_model().field
    ranges = Ranges(field)
    z = np.random.default_rng(0).normal(size=(3, 8, 12))
    seen = []
    layer = field.blocks[1].mlp.fc2
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    for t in (0.0, 1.0):
        ranges.watch(z, [t] * 3)

    wanted = torch.cat(seen).abs().amax(dim=(0, 1)).detach().numpy()
    found = ranges.of(layer.weight.detach().numpy().T)
    np.testing.assert_array_equal(found, wanted)


def test_a_layer_that_was_not_calibrated_is_refused():
    with pytest.raises(ParityError) as caught:
        Ranges(random_model().field).of(np.zeros((3, 4), np.float32))

    assert str(caught.value) == (
        "weight [3, 4]: expected a linear layer that was calibrated, found none with it"
    )


def test_a_graph_without_weights_to_quantise_is_refused():
    graph = replace(
        product(np.ones((3, 4), np.float32)),
        nodes=(helper.make_node("Identity", ["x"], ["y"]),),
    )

    with pytest.raises(ParityError, match="small: expected products with weights"):
        quantised(graph, lambda _: np.ones(3, np.float32))
