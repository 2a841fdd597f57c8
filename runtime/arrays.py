"""Array types with dtype and shape, for readers, type checkers and tests.

They are jaxtyping's wherever that is loaded already: tests load it first and hold every
call to its shapes. A rig never looks at them, and each worker that it starts would
spend a quarter of its imports on them; there they are plain arrays.
"""

import sys
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int16 as Int16
    from jaxtyping import Int64 as Int64
    from jaxtyping import Shaped as Shaped
    from jaxtyping import UInt8 as UInt8
else:

    class _PlainArray:
        def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:
            return array_and_shape[0]

    Bool = Float32 = Float64 = Int16 = Int64 = Shaped = UInt8 = _PlainArray


def is_whole(number: object) -> bool:
    """Say whether a number that a caller gave is whole, one of numpy's included."""
    return isinstance(number, Integral)


def is_number(number: object) -> bool:
    """Say whether what a caller gave is a real number, one of numpy's included.

    Also one in an array without axes, as `numpy.nditer` gives each.
    """
    if isinstance(number, np.ndarray):
        return number.ndim == 0 and number.dtype.kind in "iuf"
    return isinstance(number, Real)
