"""A graph for OpenVINO whose weights of matrix products lie in bfloat16.

Told to compute a float32 graph in bfloat16, the library rounds its weights when the
graph is compiled, and keeps what it rounded beside what it packed: twice what it needs,
and an engine on disk that holds them in float32. Rounded beforehand, and marked as
compressed, they are packed from where they are. They are the same weights.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, final

import numpy as np

from runtime.arrays import Float32, Shaped

LEAST: Final = 65_536
"""Numbers of a weight that pays; what is smaller stays as it is."""
_AT_ONCE: Final = 1 << 22
"""Numbers rounded at a time: the memory that it takes is that of these."""
_INFINITE: Final = 0x7F80_0000
_NAN: Final = 0x7FC0


def rounded(
    values: Float32[np.ndarray, "..."],
) -> Shaped[np.ndarray, "..."]:
    """Round to bfloat16, to the nearest and to even between two, as processors do.

    By numpy alone: a rig has no `ml_dtypes`, with which `export` rounds.

    Returns:
        The bits, uint16 of the same shape; what is no number stays none.
    """
    out = np.empty(values.shape, np.uint16)
    bits, flat = (
        np.ascontiguousarray(values).reshape(-1).view(np.uint32),
        out.reshape(-1),
    )
    for at in range(0, flat.size, _AT_ONCE):
        piece = bits[at : at + _AT_ONCE]
        odd = (piece >> 16) & 1
        half = (piece + odd + 0x7FFF) >> 16
        # All ones in the exponent and more: rounding could carry into the sign.
        is_nan = (piece & 0x7FFF_FFFF) > _INFINITE
        flat[at : at + _AT_ONCE] = np.where(is_nan, _NAN, half)
    return out


@final
class Half(NamedTuple):
    """A weight in bfloat16, which lives as long as the model that it is in."""

    convert: Any
    """The node that makes float32 of it; its consumers are products."""
    bits: Shaped[np.ndarray, "..."]
    memory: object
    """What of the library's lies in the same memory."""


def halve(library: Any, model: Any) -> list[Half]:
    """Round a graph's large weights to bfloat16, in place.

    Args:
        library: The module `openvino`.
        model: As it was read, in float32.

    Returns:
        The weights that were rounded.
    """
    try:
        from openvino._offline_transformations import compress_model_transformation
    except ImportError:
        # Not of its public interface: without it an engine is larger, and no other.
        return []

    before = {
        node.get_friendly_name(): node
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    }
    # To float16: of it we want the marks alone, which there is no other way to set.
    compress_model_transformation(model)
    kept: list[Half] = []
    for convert in _compressed(model):
        whole = before.get(convert.get_friendly_name())
        if whole is None:
            # One that the graph had before.
            continue
        consumers = convert.output(0).get_target_inputs()
        if whole.data.size >= LEAST and all(map(_is_weight, consumers)):
            kept.append(put(library, convert, rounded(whole.data)))
        else:
            for consumer in consumers:
                consumer.replace_source_output(whole.output(0))
    return kept


def put(library: Any, convert: Any, bits: Shaped[np.ndarray, "..."]) -> Half:
    """Make a weight of bits that are bfloat16, behind a node that converts it."""
    tensor = library.Tensor(bits, bits.shape, library.Type.bf16)
    half = library.op.Constant(tensor, shared_memory=True)
    convert.input(0).replace_source_output(half.output(0))
    return Half(convert, bits, (tensor, half))


def _compressed(model: Any) -> Iterator[Any]:
    for node in list(model.get_ops()):
        if node.get_type_name() == "Convert":
            source = node.input(0).get_source_output().get_node()
            if source.get_type_name() == "Constant":
                yield node


def _is_weight(consumer: Any) -> bool:
    kind: str = consumer.get_node().get_type_name()
    return kind == "MatMul" and int(consumer.get_index()) == 1
