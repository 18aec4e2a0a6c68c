"""Scales at which no value of LOGISTIC lies in the middle between two int8 values.

There it takes the last bit of an exponential to tell which one is nearer, and TensorFlow Lite's
kernels, TensorFlow Lite Micro's and the table that Vela makes for an NPU decide differently: of one
int8 file a board would then give other outputs than the host. A network has thousands of values in
such tables, so now and then one of them is such a value. One was seen 3e-6 from the middle, and
changed a tenth of an output. A scale that is a little larger or smaller has none. It costs nothing.
"""

from __future__ import annotations

import numpy as np

from stages.export.models.tflite_editor import Graph, silu_outputs

#: So near the middle, in parts of an int8 value, all are kept away from; kernels err by less than a
#: tenth of it.
MARGIN = 5e-4
#: Scales are tried in steps of this part; each moves the values by some MARGINs.
_STEP = 2.0**-13
_MOST_STEPS = 64
#: What TFLite fixes for the output: 256 values from 0 to 1.
_VALUES = 256


def avoid_ties(model: bytes) -> bytes:
    """The int8 model with other scales of SiLU's inputs where a value would be in the middle.

    SiLU's input is used by nothing else, and so no other tensor has to have its scale.
    """
    graph = Graph(model)
    for tensor in silu_outputs(graph.operators):
        scale = graph.scale(tensor)
        settled = settle(scale, graph.zero_point(tensor))
        if settled != scale:
            graph.set_scale(tensor, settled)
    return graph.to_bytes()


def settle(scale: float, zero_point: int) -> float:
    """The nearest float32 scale that keeps the margin."""
    steps = [0, *(sign * step for step in range(1, _MOST_STEPS) for sign in (1, -1))]
    tried = [float(np.float32(scale * (1 + step * _STEP))) for step in steps]
    return next((each for each in tried if nearest_tie(each, zero_point) >= MARGIN), scale)


def nearest_tie(scale: float, zero_point: int) -> float:
    """How near LOGISTIC's values come to the middle between two int8 values, in parts of one."""
    codes = np.arange(-128, 128)
    values = _VALUES / (1 + np.exp(-(codes - zero_point) * scale))
    # What would be rounded to 256 is limited to 255.
    values = values[values < _VALUES - 1]
    return float(np.abs(values - np.floor(values) - 0.5).min())
