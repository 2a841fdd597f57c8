"""Eight-bit floating-point numbers, E4M3FN: from codes, and rounding to them.

One bit of sign, four of exponent, three of mantissa; no infinity, one NaN of each sign.
Micikevicius et al. (2022), "FP8 formats for deep learning", table 1; "FN" is ONNX's
name: https://onnx.ai/onnx/technical/float8.html
"""

from typing import Final

import numpy as np

from runtime.arrays import Float32, Float64, UInt8

LARGEST: Final = 448.0
_MANTISSA: Final = 3
_LEAST_EXPONENT: Final = -6
"""Of a normal number; below it the steps stay as wide, down to zero."""


def rounded(
    x: Float64[np.ndarray, "*shape"], *, is_saturated: bool = True
) -> Float64[np.ndarray, "*shape"]:
    """Round each number to the nearest that the format has, ties to even.

    Args:
        x: Any numbers; NaN stays NaN.
        is_saturated: What lies beyond the largest, infinity too, becomes the largest of
            its sign; else NaN.
    """
    if is_saturated:
        x = np.clip(x, -LARGEST, LARGEST)
    _, exponent = np.frexp(x)
    # frexp gives 0.5 <= m < 1, where the format's mantissa is 1 <= m < 2.
    step = np.ldexp(1.0, np.maximum(exponent - 1, _LEAST_EXPONENT) - _MANTISSA)
    found = np.rint(x / step) * step
    return np.asarray(np.where(np.abs(found) <= LARGEST, found, np.nan))


def from_codes(codes: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return the numbers that bytes stand for, each exactly a float32."""
    found: Float32[np.ndarray, "*shape"] = _NUMBERS[codes]
    return found


def _numbers() -> Float32[np.ndarray, " codes"]:
    codes = np.arange(256)
    exponent, fraction = codes >> _MANTISSA & 0b1111, codes & 0b111
    # An exponent of zero says that there is no leading one.
    significand = np.where(exponent > 0, 8, 0) + fraction
    power = np.maximum(exponent, 1) - 7 - _MANTISSA
    size = np.ldexp(significand.astype(np.float64), power)
    size[(codes & 0x7F) == 0x7F] = np.nan
    return np.asarray(np.where(codes & 0x80, -size, size), dtype=np.float32)


_NUMBERS: Final = _numbers()
