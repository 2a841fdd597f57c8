"""A graph for OpenVINO whose products with weights are convolutions of one tap.

They compute the same: a row of a product is a position, its columns are channels. On a
processor with AVX-512's bfloat16 and no AMX the library's convolutions come within a
few percent of what the processor multiplies, its products to five sixths of that (the
figures are in docs/latency.md). The layout that convolutions ask for, channels last, is
that of a product's rows, so that the transpositions written here vanish when the graph
is compiled.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from runtime.engines.openvino_weights import Half, put

LEAST_ROWS: Final = 16
"""Rows of a product that pays; one of fewer waits for its weights."""
_TURNED: Final = [0, 2, 1]


def convolve(library: Any, model: Any, weights: list[Half]) -> list[Half]:
    """Write the products of a graph as convolutions, in place.

    Those whose large weights were rounded, and those of 8-bit integers.

    Args:
        library: The module `openvino`.
        model: Whose large weights were rounded.
        weights: As `halve` gave them.

    Returns:
        The weights again; those of convolutions are turned.
    """
    ops = library.opset13
    halves = {half.convert.get_friendly_name(): half for half in weights}

    def kernel_of(product: Any) -> Any:
        """Return the weight of a product as a convolution has it, or None."""
        source = product.input_value(1).get_node()
        is_turned = bool(product.get_attributes()["transpose_b"])
        half = halves.get(source.get_friendly_name())
        if half is None:
            return None if is_turned else _of_integers(ops, source)
        if half.bits.ndim != 2 or len(source.output(0).get_target_inputs()) != 1:
            return None
        bits = half.bits if is_turned else half.bits.T
        name = source.get_friendly_name()
        halves[name] = put(library, source, np.ascontiguousarray(bits)[:, :, None])
        source.constructor_validate_and_infer_types()
        return source

    _write(ops, model, kernel_of)
    return list(halves.values())


def _write(ops: Any, model: Any, kernel_of: Callable[[Any], Any]) -> None:
    ours: set[str] = set()
    for product in list(model.get_ordered_ops()):
        if product.get_type_name() != "MatMul" or not _pays(product):
            continue
        kernel = kernel_of(product)
        if kernel is None:
            continue
        rows = product.input_value(0)
        if rows.get_node().get_friendly_name() in ours:
            # As the convolution before left them.
            channels = rows.get_node().input_value(0)
        else:
            channels = ops.transpose(rows, _TURNED).output(0)
        out = ops.convolution(channels, kernel, [1], [0], [0], [1])
        last, out = _with_what_follows(ops, product, out)
        turned = ops.transpose(out, _TURNED)
        ours.add(turned.get_friendly_name())
        for consumer in list(last.output(0).get_target_inputs()):
            consumer.replace_source_output(turned.output(0))
    model.validate_nodes_and_infer_types()


def _pays(product: Any) -> bool:
    shape = product.input_value(0).get_partial_shape()
    if product.get_attributes()["transpose_a"] or not shape.is_static:
        return False
    rows = list(shape.to_shape())
    return len(rows) == 3 and rows[0] == 1 and rows[1] >= LEAST_ROWS


def _of_integers(ops: Any, source: Any) -> Any:
    """Return weights of 8 bits, around zero with a scale for each column, turned.

    None of anything else. An ONNX `DequantizeLinear` is read as a difference, from a
    zero for each column, times the scales.
    """
    if source.get_type_name() != "Multiply":
        return None
    difference, scales = (value.get_node() for value in source.input_values())
    if difference.get_type_name() != "Subtract":
        return None
    convert, zeros = (value.get_node() for value in difference.input_values())
    matrix, scale, zero = map(_constant_behind, (convert, scales, zeros))
    if matrix is None or scale is None or zero is None:
        return None
    if matrix.dtype != np.int8 or matrix.ndim != 2 or zero.any():
        return None
    if scale.size != matrix.shape[1]:
        return None
    kernel = ops.constant(np.ascontiguousarray(matrix.T)[:, :, None])
    return ops.multiply(
        ops.convert(kernel, "f32"), ops.constant(scale.reshape(-1, 1, 1))
    )


def _constant_behind(node: Any) -> Any:
    """Return the numbers that conversions and new shapes are made of, or None."""
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _with_what_follows(ops: Any, product: Any, out: Any) -> tuple[Any, Any]:
    """Take along the bias and the activation, which a convolution does in passing."""
    last = product
    while True:
        consumers = list(last.output(0).get_target_inputs())
        if len(consumers) != 1:
            return last, out
        node, place = consumers[0].get_node(), consumers[0].get_index()
        kind = node.get_type_name()
        if kind == "Add":
            bias = node.input_value(1 - place).get_node()
            if bias.get_type_name() != "Constant" or len(bias.get_output_shape(0)) != 1:
                return last, out
            column = np.ascontiguousarray(bias.data)[None, :, None]
            out = ops.add(out, ops.constant(column))
        elif kind == "Gelu":
            mode = node.get_attributes()["approximation_mode"].lower()
            out = ops.gelu(out, mode)
        else:
            return last, out
        last = node
