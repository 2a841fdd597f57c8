"""The numbers of an ONNX file's constants as numpy arrays."""

from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from runtime.arrays import Shaped
from runtime.errors import BundleError
from runtime.float8 import from_codes
from runtime.onnx_tensor import Tensor

_STORED: Final = MappingProxyType(
    {
        "float32": "<f4",
        "float64": "<f8",
        "float16": "<f2",
        "bfloat16": "<u2",
        "float8e4m3fn": "<u1",
        "uint8": "<u1",
        "int8": "<i1",
        "int32": "<i4",
        "int64": "<i8",
        "uint32": "<u4",
        "uint64": "<u8",
        "bool": "?",
    }
)


def tensor_values(tensor: Tensor, folder: Path, what: str) -> Shaped[np.ndarray, "..."]:
    """Return a constant's numbers, bfloat16 and float8 as float32.

    Args:
        tensor: A constant that `runtime.onnx_guard` let pass.
        folder: Folder of the graph, beside which its weights lie.
        what: The graph's file in an error.

    Raises:
        BundleError: An element type that numpy has not, or a file that cannot be read.
    """
    if tensor.dtype not in _STORED:
        raise BundleError(
            f"{what}: {tensor.name}: expected one of {', '.join(_STORED)}, "
            f"found {tensor.dtype}"
        )
    dtype = np.dtype(_STORED[tensor.dtype])
    if tensor.external is not None:
        try:
            flat = np.fromfile(
                folder / tensor.external.location,
                dtype,
                tensor.elements,
                offset=tensor.external.offset,
            )
        except OSError as error:
            raise BundleError(
                f"{what}: {tensor.name}: expected a readable file, "
                f"found {error.strerror}"
            ) from error
    elif isinstance(tensor.typed, tuple):
        # The typed field holds a half's bits as an integer.
        bits = np.dtype("<u2") if tensor.dtype == "float16" else dtype
        flat = np.array(tensor.typed, np.int64).astype(bits).view(dtype)
    else:
        data = tensor.raw if tensor.raw is not None else tensor.typed
        flat = np.frombuffer(b"" if data is None else data, dtype)
    if tensor.dtype == "bfloat16":
        # The upper half of a float32.
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    if tensor.dtype == "float8e4m3fn":
        flat = from_codes(flat)
    return flat.reshape(tensor.shape)
