"""Payloads as arrays: volumes that come in, and named arrays that go out.

Apart from `bci_bridge.wire`, so that a process which only passes messages on loads no
numerical library: it starts again in a fraction of the time.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from bci_bridge.header import VoxelType
from bci_bridge.messages import ITEM_BYTES, Volume
from bci_bridge.wire import Envelope
from runtime.arrays import Shaped
from runtime.errors import PeerError

_DTYPES: Final[dict[VoxelType, np.dtype[Any]]] = {
    name: np.dtype(f"<{name}") for name in ITEM_BYTES
}


def volume_from(envelope: Envelope) -> Shaped[np.ndarray, "x y z"]:
    """View the payload of a VOLUME as x, y, z; read-only, shares the frame's bytes."""
    record = cast("Volume", envelope.record)
    flat = np.frombuffer(envelope.payload, dtype=_DTYPES[record.dtype])
    return flat.reshape(record.shape)


def bytes_from_arrays(arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> bytes:
    """Encode named arrays as safetensors; nothing at all where there are none."""
    if not arrays:
        return b""
    held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(held)


def arrays_from_bytes(payload: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Decode what `bytes_from_arrays` wrote.

    Raises:
        PeerError: If the payload is not safetensors.
    """
    if not payload:
        return {}
    try:
        return safetensors.numpy.load(payload)
    except (SafetensorError, KeyError, ValueError) as error:
        raise PeerError("BAD_HEADER", f"payload: {str(error)[:200]}") from error
