"""Give signals their ordinary stack back after a library took it.

On processors with AMX, OpenVINO 2026.4 gives the calling thread an alternative signal
stack and later frees its memory while it is still registered. Python's handlers ask for
that stack, so the next SIGTERM or Ctrl-C ended the process with a segmentation fault,
before anything could be drained or cleaned up (seen with gdb; the kernel has nowhere to
put the signal's frame).
"""

import ctypes
import sys
from typing import Final

SS_DISABLE: Final = 2


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux: address, flags, size."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


def signal_stack_bytes() -> int:
    """Return the size of this thread's alternative signal stack; 0 where none is."""
    if not sys.platform.startswith("linux"):
        return 0
    now = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now))
    return 0 if now.flags & SS_DISABLE else int(now.size)


def use_ordinary_signal_stack() -> None:
    """Unregister this thread's alternative signal stack, if it has one."""
    if sys.platform.startswith("linux"):
        off = _Stack(None, SS_DISABLE, 0)
        ctypes.CDLL(None).sigaltstack(ctypes.byref(off), None)
