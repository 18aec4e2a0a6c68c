"""The approximations by which the firmware turns scores of raw detect heads into percents.

Source: Seeed-Studio/SSCMA-Micro, branch 1.0.x, core/algorithm/el_algorithm_yolo_world.cpp. They err
by up to 0.76 points of a score; all other forms use the exact functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.export.models.preprocess import Floats

_EXPONENT_BITS = 23
_EXPONENT_BIAS = 127
_LEAST, _INFINITY = np.float32(8388608), np.float32(2139095040)


def fast_sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) with an exponential that is linear between powers of two."""
    bits = (12102203.1608621 * -logits.astype(np.float64) + 1064986823.01029).astype(np.float32)
    bits = np.where(bits < _LEAST, np.float32(0), np.minimum(bits, _INFINITY))
    exponential: Floats = bits.astype(np.uint32).view(np.float32)
    return np.float32(1) / (np.float32(1) + exponential)


def highest_thresholds(logits: Floats, quantum: float) -> NDArray[np.int64]:
    """The highest score threshold, 0 to 100 percent, that lets each logit through; ``quantum`` is
    the scale of the output.

    The firmware takes the logarithm of the threshold and floors it to a multiple of the quantum, so
    it lets through what is up to one quantum below.
    """
    with np.errstate(divide="ignore"):  # 0 percent: infinity, of which it takes the bits too
        odds = np.float32(100) / np.arange(101, dtype=np.float32) - np.float32(1)
    floors = np.floor(-_fast_ln(odds) / np.float32(quantum))
    quanta = np.rint(logits / quantum)
    return np.searchsorted(floors, quanta, side="right") - 1


def _fast_ln(values: Floats) -> Floats:
    bits = values.view(np.uint32)
    exponent = (bits >> _EXPONENT_BITS).astype(np.int64) - _EXPONENT_BIAS
    fraction = bits & np.uint32((1 << _EXPONENT_BITS) - 1)
    one = np.uint32(_EXPONENT_BIAS << _EXPONENT_BITS)
    x = (fraction | one).view(np.float32).astype(np.float64)
    logarithm = -1.49278 + (2.11263 + (-0.729104 + 0.10969 * x) * x) * x + 0.6931471806 * exponent
    return logarithm.astype(np.float32)
