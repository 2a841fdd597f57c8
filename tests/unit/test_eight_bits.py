"""8-bit products are what numbers of a stated scale give; all else of them is exact."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export import eight_bits
from export.eight_bits import Ranges, Seen, quantised, smoothing
from export.graphs import Graph, write_graph
from runtime.engine import open_engine
from runtime.errors import ParityError
from runtime.manifest import EIGHT_BITS, TensorSpec
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


def seen(x) -> Seen:
    return Seen(x.min(axis=0), x.max(axis=0), x.mean(axis=0))


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


def half_levels(scaled, precision, levels):
    """How far each scaled number can be from the nearest that 8 bits have."""
    if precision == "int8":
        return np.full_like(scaled, np.abs(scaled).max() / levels / 2)
    # Three bits of mantissa, and below the smallest normal number even steps.
    return np.maximum(
        np.abs(scaled) * 2.0**-4, np.abs(scaled).max() / levels * 2.0**-10
    )


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(EIGHT_BITS), st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_no_product_is_further_off_than_half_a_level_of_each_factor(
    tmp_path_factory, precision, seed, outlier
):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, 4)).astype(np.float32)
    x = rng.normal(size=(2, 6)).astype(np.float32)
    x[:, 2] *= outlier
    path = tmp_path_factory.mktemp("g") / "g.onnx"

    found = by_ort(quantised(product(weight), lambda _: seen(x), precision), path, x)

    centre = x.mean(axis=0) if precision == "fp8" else np.zeros(6, np.float32)
    sizes = seen(x).sizes(centre)
    smooth = smoothing(sizes, weight).astype(np.float64)
    rows, smoothed = weight * smooth[:, None], (x - centre) / smooth
    levels = {"int8": (127, 63), "fp8": (224, 448)}[precision]
    of_x = half_levels(smoothed, precision, levels[0])
    of_w = np.stack([half_levels(r, precision, levels[1]) for r in rows.T], axis=1)
    bound = of_x @ (np.abs(rows) + of_w) + np.abs(smoothed) @ of_w
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    size = np.abs(x) @ np.abs(weight)
    assert (np.abs(found - exact) <= 1.001 * bound + 1e-6 * size).all()


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_the_float64_reference_computes_the_numbers_that_engines_compute(
    tmp_path, precision
):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(24, 16)).astype(np.float32)
    x = rng.normal(size=(2, 24)).astype(np.float32)
    graph = quantised(product(weight), lambda _: seen(x), precision)
    path = tmp_path / "g.onnx"
    wanted = by_ort(graph, path, x)

    for backend in ("reference", "ort"):
        engine = open_engine(backend, path, graph.spec("g.onnx"), threads=1)
        found = engine.run({"x": x})["y"]

        # The levels are the same, or one of an input, 1 %, would show.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        engine.close()


def test_two_products_fit_the_sixteen_bits_that_some_processors_add_them_in():
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    ones = np.ones(8, np.float32)

    graph = quantised(product(weight), lambda _: Seen(-ones, ones, 0 * ones), "int8")

    largest = np.abs(graph.weights["w.q"].astype(int)).max(axis=0)
    np.testing.assert_array_equal(largest, 63)
    assert 2 * 255 * largest.max() < 2**15


def test_floating_point_of_weights_reaches_its_end_and_of_activations_half_of_it(
    tmp_path,
):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 4)).astype(np.float32)
    x = rng.normal(size=(50, 8)).astype(np.float32)
    shape = TensorSpec(name="x", shape=x.shape)
    whole = replace(product(weight), inputs=(shape,), outputs=(
        TensorSpec(name="y", shape=(50, 4)),
    ))  # fmt: skip

    graph = quantised(whole, lambda _: seen(x[:40]), "fp8")

    largest = np.abs(graph.weights["w.q"].astype(np.float32)).max(axis=0)
    np.testing.assert_array_equal(largest, 448)
    # What lies twice as far out as anything that was seen is as exact as the rest.
    far = x.mean(axis=0) + 1.9 * (x - x.mean(axis=0))
    for one in (x, far):
        found, exact = by_ort(graph, tmp_path / "g.onnx", one), one @ weight
        assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def test_a_mean_is_not_rounded_away_with_the_number(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(64, 16)).astype(np.float32)
    x = (rng.normal(size=(2, 64)) + rng.normal(0, 30, size=64)).astype(np.float32)
    exact = x @ weight
    centre = Seen(x.min(axis=0), x.max(axis=0), x.mean(axis=0))

    def error():
        graph = quantised(product(weight), lambda _: centre, "fp8")
        found = by_ort(graph, tmp_path / "g.onnx", x)
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    centred = error()
    kind = eight_bits._KINDS["fp8"]._replace(is_centred=False)
    monkeypatch.setitem(eight_bits._KINDS, "fp8", kind)
    assert 10 * centred < error()


def test_what_is_no_number_comes_out_as_none(tmp_path):
    weight = np.ones((3, 2), np.float32)
    x = np.array([[1, np.nan, 1], [1, 1, 1]], np.float32)
    ones = np.ones(3, np.float32)
    graph = quantised(product(weight), lambda _: Seen(-ones, ones, 0 * ones), "fp8")

    found = by_ort(graph, tmp_path / "g.onnx", x)

    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_smoothing_keeps_a_loud_channel_from_taking_the_scale(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(64, 16)).astype(np.float32)
    x = rng.normal(size=(2, 64)).astype(np.float32)
    x[:, 5] *= 100
    weight[5] /= 100
    exact = x @ weight

    def error():
        graph = quantised(product(weight), lambda _: seen(x), "int8")
        found = by_ort(graph, tmp_path / "g.onnx", x)
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    smooth = error()
    monkeypatch.setattr(eight_bits, "smoothing", lambda sizes, _: np.ones_like(sizes))
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
    met = []
    layer = field.blocks[1].mlp.fc2
    layer.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))

    for t in (0.0, 1.0):
        ranges.watch(z, [t] * 3)

    rows = torch.cat(met).flatten(0, 1).detach().numpy()
    found = ranges.of(layer.weight.detach().numpy().T)
    np.testing.assert_array_equal(found.low, rows.min(axis=0))
    np.testing.assert_array_equal(found.high, rows.max(axis=0))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    size = np.abs(rows).max(axis=0)
    np.testing.assert_array_equal(found.sizes(np.zeros_like(size)), size)


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
        quantised(graph, lambda _: seen(np.ones((1, 3), np.float32)), "fp8")
