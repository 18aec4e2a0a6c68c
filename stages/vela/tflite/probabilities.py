"""Whether the firmware would read probabilities out of a classifier's output."""

from __future__ import annotations

from stages.vela.tflite.file import Tensor

#: Largest accepted distance of the ends of the output's range from 0 and 1.
ENDS_TOLERANCE = 0.02


def probabilities_help(output: Tensor) -> str:
    """What helps if the firmware would not read probabilities out of an output; "" if it would.

    It takes values for parts of 1 if their scale is under 0.1, else for percent, and compares them
    with a threshold in percent (el_algorithm_imcls.cpp).
    """
    assert output.scale is not None
    assert output.zero_point is not None
    ends = [output.scale * (end - output.zero_point) for end in (-128, 127)]
    if all(abs(end - ideal) <= ENDS_TOLERANCE for end, ideal in zip(ends, (0, 1), strict=True)):
        return ""
    return "export it with its softmax: the firmware takes its output for probabilities, 0 to 1"
