"""A graph for OpenVINO whose products with weights are convolutions of one tap.

They compute the same: a row of a product is a position, its columns are channels. On a
processor with AVX-512's bfloat16 and no AMX the library's convolutions come within a
few percent of what the processor multiplies, its products to five sixths of that (the
figures are in docs/latency.md). The layout that convolutions ask for, channels last, is
that of a product's rows, so that the transpositions written here vanish when the graph
is compiled.
"""

from typing import Any, Final

import numpy as np

from runtime.engines.openvino_weights import Half, put

LEAST_ROWS: Final = 16
"""Rows of a product that pays; one of fewer waits for its weights."""
_TURNED: Final = [0, 2, 1]


def convolve(library: Any, model: Any, weights: list[Half]) -> list[Half]:
    """Write the products of a graph as convolutions, in place.

    Args:
        library: The module `openvino`.
        model: Whose large weights were rounded.
        weights: As `halve` gave them.

    Returns:
        The weights again; those of convolutions are turned.
    """
    ops = library.opset13
    by_name = {half.convert.get_friendly_name(): half for half in weights}
    ours: set[str] = set()
    for product in list(model.get_ordered_ops()):
        convert = _weight_of(product)
        half = by_name.get(convert.get_friendly_name()) if convert else None
        if half is None or not _pays(product, half):
            continue
        bits = half.bits if product.get_attributes()["transpose_b"] else half.bits.T
        kernel = np.ascontiguousarray(bits)[:, :, None]
        by_name[half.convert.get_friendly_name()] = put(library, convert, kernel)
        convert.constructor_validate_and_infer_types()
        rows = product.input_value(0)
        if rows.get_node().get_friendly_name() in ours:
            # As the convolution before left them.
            channels = rows.get_node().input_value(0)
        else:
            channels = ops.transpose(rows, _TURNED).output(0)
        out = ops.convolution(channels, convert, [1], [0], [0], [1])
        last, out = _with_what_follows(ops, product, out)
        turned = ops.transpose(out, _TURNED)
        ours.add(turned.get_friendly_name())
        for consumer in list(last.output(0).get_target_inputs()):
            consumer.replace_source_output(turned.output(0))
    model.validate_nodes_and_infer_types()
    return list(by_name.values())


def _weight_of(node: Any) -> Any:
    """Return what converts the weight of a product; None of any other node."""
    if node.get_type_name() != "MatMul":
        return None
    source = node.input_value(1).get_node()
    return source if source.get_type_name() == "Convert" else None


def _pays(product: Any, half: Half) -> bool:
    rows = product.input_value(0).get_partial_shape()
    is_alone = len(half.convert.output(0).get_target_inputs()) == 1
    return (
        is_alone
        and half.bits.ndim == 2
        and rows.is_static
        and len(rows) == 3
        and rows.to_shape()[0] == 1
        and rows.to_shape()[1] >= LEAST_ROWS
        and not product.get_attributes()["transpose_a"]
    )


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
