"""Signal-to-noise ratios of quantised tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.export.models.preprocess import Floats

#: Of a tensor in one or more images: the sum of its squares, and the sum of the squares of the
#: errors of its quantised form.
Powers = NDArray[np.float64]


def powers(signal: Floats, quantised: Floats) -> Powers:
    """The powers of signal and error of two tensors of one shape."""
    exact = signal.astype(np.float64)
    return np.array([np.square(exact).sum(), np.square(quantised - exact).sum()])


def snr_db(parts: Sequence[Powers]) -> float | None:
    """Signal-to-noise ratio over all parts, in decibels; None if either has no power."""
    signal, noise = np.sum(parts, axis=0)
    if not (signal > 0 and noise > 0):
        return None
    return round(10 * math.log10(signal / noise), 2)
