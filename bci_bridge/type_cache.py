"""Give back what the interpreter's cache of type attributes has come to hold.

CPython keeps the name of every attribute that a type was asked for, in 4,096 places by
the name's address. Names in code are always the same strings; extension modules make
one for each question (numpy's ``dtype.name``; pybind11, so ONNX Runtime, for every
argument), and the cache fills with copies: half a MiB over a day, which looks like a
leak and hides one. Asking again after the cache is emptied costs microseconds.
"""

import sys


def clear_type_cache() -> None:
    """Empty the cache; do nothing where the interpreter has another way."""
    clear = getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
