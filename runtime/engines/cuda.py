"""The little of CUDA that an engine needs: memory, one stream, a captured graph.

Over `cuda.bindings.runtime` and nothing else; the module is an argument, so that tests
run without a GPU. Every call is checked: a device that disappears is a `BackendError`.
"""

import ctypes
import importlib
from collections.abc import Callable
from types import MappingProxyType, ModuleType
from typing import Any, Final, final

import numpy as np

from runtime.arrays import UInt8
from runtime.engine import Wait
from runtime.errors import BackendError

_NON_BLOCKING_STREAM: Final = 1
_BLOCKING_EVENT: Final = 1
_TO_DEVICE: Final = "cudaMemcpyHostToDevice"
_TO_HOST: Final = "cudaMemcpyDeviceToHost"


def import_cuda() -> ModuleType:
    """Import the bindings.

    Raises:
        BackendError: They are not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(
            "cuda: expected the library cuda-bindings, found none. "
            "Install the extra gpu."
        ) from error


_SAID: Final = MappingProxyType(
    {
        "cudaErrorInsufficientDriver": "no NVIDIA driver, or one that is too old",
        "cudaErrorNoDevice": "none",
    }
)
"""What a user meets, in words."""


@final
class Cuda:
    """One device, one stream, and all that was taken from it."""

    def __init__(self, runtime: Any, *, wait: Wait = "block") -> None:
        """Open the current device.

        Args:
            runtime: `cuda.bindings.runtime`, or what stands for it.
            wait: spin gives the lowest latency and takes a processor for it.

        Raises:
            BackendError: There is no device, or no driver for it.
        """
        self._runtime, self._wait = runtime, wait
        self._free: list[Callable[[], Any]] = []
        count = self._checked("find a GPU", runtime.cudaGetDeviceCount())
        if not count:
            raise BackendError("cuda: expected a GPU, found none")
        self.stream = self._checked(
            "make a stream", runtime.cudaStreamCreateWithFlags(_NON_BLOCKING_STREAM)
        )
        self._free.append(lambda: runtime.cudaStreamDestroy(self.stream))
        self._done = self._checked(
            "make an event", runtime.cudaEventCreateWithFlags(_BLOCKING_EVENT)
        )
        self._free.append(lambda: runtime.cudaEventDestroy(self._done))

    def _checked(self, what: str, result: Any) -> Any:
        """Return a call's value.

        Raises:
            BackendError: It did not succeed.
        """
        status, *values = result
        if int(status):
            name = getattr(status, "name", str(status))
            said = f"{_SAID[name]} ({name})" if name in _SAID else name
            raise BackendError(f"cuda: expected to {what}, found {said}")
        return values[0] if values else None

    def identity(self) -> str:
        """Return what an engine depends on: device, capability, memory and driver."""
        found = self._checked(
            "describe the GPU", self._runtime.cudaGetDeviceProperties(0)
        )
        driver = self._checked(
            "ask for the driver", self._runtime.cudaDriverGetVersion()
        )
        name = found.name.decode() if isinstance(found.name, bytes) else found.name
        return (
            f"{name} sm{found.major}{found.minor} "
            f"{found.multiProcessorCount} processors {found.totalGlobalMem} bytes "
            f"driver {driver}"
        )

    def device_memory(self, size: int) -> int:
        """Return the address of memory on the device."""
        address = int(
            self._checked(
                f"take {size} bytes on the GPU", self._runtime.cudaMalloc(size)
            )
        )
        self._free.append(lambda: self._runtime.cudaFree(address))
        return address

    def pinned(self, size: int) -> UInt8[np.ndarray, " bytes"]:
        """Return memory of the host that the device copies from without detour.

        It is gone after `close`: whoever holds a view of it must not use it then.
        """
        address = int(
            self._checked(
                f"pin {size} bytes of memory", self._runtime.cudaHostAlloc(size, 0)
            )
        )
        self._free.append(lambda: self._runtime.cudaFreeHost(address))
        memory = (ctypes.c_uint8 * size).from_address(address)
        found = np.ctypeslib.as_array(memory)
        found[:] = 0
        return found

    def to_device(self, target: int, source: UInt8[np.ndarray, " bytes"]) -> None:
        """Put a copy from pinned memory to the device into the stream."""
        self._copy(target, source.ctypes.data, source.nbytes, _TO_DEVICE)

    def to_host(self, target: UInt8[np.ndarray, " bytes"], source: int) -> None:
        """Put a copy from the device to pinned memory into the stream."""
        self._copy(target.ctypes.data, source, target.nbytes, _TO_HOST)

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        self._checked(
            f"copy {size} bytes",
            self._runtime.cudaMemcpyAsync(target, source, size, direction, self.stream),
        )

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into the stream; return what puts it there again.

        Raises:
            BackendError: It cannot be captured; the stream is as it was.
        """
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(
            "begin a capture", runtime.cudaStreamBeginCapture(self.stream, mode)
        )
        try:
            work()
        except BackendError:
            # The capture must end, whatever came of it, and leave no error behind.
            runtime.cudaStreamEndCapture(self.stream)
            runtime.cudaGetLastError()
            raise
        try:
            graph = self._checked(
                "end a capture", runtime.cudaStreamEndCapture(self.stream)
            )
            launchable = self._checked(
                "prepare a graph", runtime.cudaGraphInstantiate(graph, 0)
            )
        except BackendError:
            runtime.cudaGetLastError()
            raise
        self._free.append(lambda: runtime.cudaGraphDestroy(graph))
        self._free.append(lambda: runtime.cudaGraphExecDestroy(launchable))

        def launch() -> None:
            self._checked(
                "launch a graph", runtime.cudaGraphLaunch(launchable, self.stream)
            )

        return launch

    def wait(self) -> None:
        """Return when everything in the stream is done."""
        runtime = self._runtime
        self._checked(
            "record an event", runtime.cudaEventRecord(self._done, self.stream)
        )
        if self._wait == "spin":
            not_ready = runtime.cudaError_t.cudaErrorNotReady
            while (result := runtime.cudaEventQuery(self._done))[0] == not_ready:
                pass
            self._checked("wait for the GPU", result)
        else:
            self._checked("wait for the GPU", runtime.cudaEventSynchronize(self._done))

    def close(self) -> None:
        """Give everything back, last taken first; a lost device is no trouble here."""
        while self._free:
            self._free.pop()()
