"""The calling thread's floating point: subnormal numbers as zero, and back again.

ONNX Runtime switches subnormal numbers off in its own threads, and in the one that
makes the process's first session: for good, and for every thread that is started from
there. So the arithmetic of a whole program would change, and a thread that only runs a
session would not have them off, though it takes its part of the work.

It does so on x86 alone. On other processors nothing happens here either: where its
threads keep subnormal numbers, the caller's part must keep them too.
"""

import ctypes
import platform
import sys
from typing import Any, Final, final

_Environment = ctypes.c_uint32 * 8
"""`fenv_t` on x86-64, glibc's and musl's."""
_CONTROL: Final = 7
"""Where MXCSR stands in it, after what the x87 has."""
_AS_ZERO: Final = 1 << 15 | 1 << 6
"""Bits of MXCSR: subnormal results become zero (FTZ), and operands count as it (DAZ).
"""


def _libm() -> Any:
    """Return the C library's `fenv.h`, or None where there is nothing to do with it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    # The process's own names, where one library is all of C, as musl is.
    for name in ("libm.so.6", None):
        try:
            # Keeps the interpreter's lock: letting go of it takes longer than the call.
            library = ctypes.PyDLL(name)
            _ = library.fegetenv, library.fesetenv
        except (OSError, AttributeError):
            continue
        return library
    return None


_LIBM: Final = _libm()


@final
class SubnormalsAsZero:
    """A block in which this thread takes subnormal numbers for zero, and not after it.

    For one thread at a time, and not within itself. It costs about a microsecond.
    """

    def __init__(self) -> None:
        """Keep this thread's environment as it is, but for subnormal numbers."""
        self._kept, self._within = _Environment(), _Environment()
        if _LIBM is not None:
            _LIBM.fegetenv(self._within)
            self._within[_CONTROL] |= _AS_ZERO

    def __enter__(self) -> None:
        if _LIBM is not None:
            _LIBM.fegetenv(self._kept)
            _LIBM.fesetenv(self._within)

    def __exit__(self, *_: object) -> None:
        if _LIBM is not None:
            _LIBM.fesetenv(self._kept)
