"""How much of a signal quantising leaves: signal-to-noise ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.export.evaluation.preprocess import Floats

#: Of a tensor in one picture or several: the sum of its squares, and that of the squares of its
#: quantised form's errors.
Powers = NDArray[np.float64]


def powers(signal: Floats, quantised: Floats) -> Powers:
    """What `snr_db` needs of two tensors of one shape."""
    exact = signal.astype(np.float64)
    return np.array([np.square(exact).sum(), np.square(quantised - exact).sum()])


def snr_db(parts: Sequence[Powers]) -> float | None:
    """Signal-to-noise ratio over all parts, in decibels; None where either has no power."""
    signal, noise = np.sum(parts, axis=0)
    if not (signal > 0 and noise > 0):
        return None
    return round(10 * math.log10(signal / noise), 2)
