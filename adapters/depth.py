"""Scales samples of any depth to 8 bits, by the range that they use.

A file seldom states its range: microscopes store 12 bits in 16, and floats are 0…1 or 0…255.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNSIGNED = (255.0, 1_023.0, 4_095.0)  # of 8, 10 and 12 bits, stored in more
_SIXTEEN = 65_535.0
MAX_SAMPLE_TAGS = (341, 281)  # TIFF 6.0: the largest value, of any samples and of unsigned ones
_OVERSHOOT = (-0.1, 2.0)  # floats of 0…1 after a filter or an exposure; they are cut to 0…1


def eight_bits(values: NDArray[Any], top: float | None = None) -> NDArray[np.uint8]:
    """Scales to 0…255; all channels by one range.

    The range is 0 to the smallest usual maximum that fits: 1 for floats, else that of 8, 10, 12 or
    16 bits. So 16-bit data that fill a sixteenth of their range, and would look black, are taken
    for 12 bits. Other values, such as negative ones, are scaled from the smallest to the largest.

    Args:
        values: samples of any shape, integers or floats.
        top: the largest value, if the file states it.

    Returns:
        uint8 of the same shape. NaN and infinities become 0.
    """
    real = np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = _range(real, values.dtype, top)
    real -= low
    real *= 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip(real, 0, 255, out=real), out=real).astype(np.uint8)


def _range(
    real: NDArray[np.float32], kind: np.dtype[Any], top: float | None
) -> tuple[float, float]:
    low, high = float(real.min(initial=0)), float(real.max(initial=0))
    if top and low >= 0 and high <= top:
        return 0.0, top
    if kind.kind == "f" and low >= _OVERSHOOT[0] and high <= _OVERSHOOT[1]:
        return 0.0, 1.0
    signed = (float(np.iinfo(np.int16).max),) if kind == np.int16 else ()
    for usual in (*_UNSIGNED, *signed, _SIXTEEN):
        if low >= 0 and high <= usual:
            return 0.0, usual
    return low, high
