"""Calibration: the range over which each activation tensor is quantised.

A range from the least to the largest value ever seen spends most of the 256 levels on values that
hardly occur. The range chosen here is the one with the least mean squared error on the calibration
images; if x * sigmoid(x) follows (SiLU), the error is taken after it: far below zero SiLU gives
nearly 0 for any x, so levels there are of no use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.export.models.parallel import on_all_cores, worker_count
from stages.export.models.preprocess import Pixels, as_float
from stages.export.models.tflite_editor import PASS_THROUGH, Graph, Operator, Range, silu_outputs
from stages.export.models.tflite_interpreter import MOST_WITH_ALL_TENSORS, TFLiteModel

Values = NDArray[np.float64]
#: How often each float16 occurs in a tensor, by its bit pattern [65536].
Counts = NDArray[np.int64]

#: The firmware's input has this range, on any calibration images.
PIXELS: Range = (0.0, 1.0)
#: TFLite fixes the ranges of the outputs of these.
FIXED = frozenset({"LOGISTIC", "TANH", "SOFTMAX", "L2_NORMALIZATION"})
#: The least upper end of a score's range (a logit): a probability of 0.95 can be represented even
#: for what is rare in the calibration images, a class or a size.
LEAST_SCORE_END = float(np.log(0.95 / 0.05))

#: About so many values an image of a larger tensor are counted.
_SAMPLES = 1 << 14
_LEVELS = 255
_PATTERNS = 1 << 16
_BINS = 1024
#: The ends of a range that are tried, in parts of the furthest value from 0.
_PARTS = np.linspace(0.1, 1, 46)


def choose_ranges(
    model: bytes,
    images: Pixels,
    *,
    scores: Sequence[int],
    progress: Callable[[int], None],
) -> bytes:
    """The float model with a range for every activation, as TensorFlow's quantiser takes it.

    ``scores``: positions of the outputs that hold scores (logits). ``progress`` is called with the
    number of images done.
    """
    graph = Graph(model)
    operators = graph.operators
    variable = {*graph.inputs, *(tensor for each in operators for tensor in each.outputs)}
    measured = [
        tensor
        for each in operators
        for tensor in each.outputs
        if not (each.type in FIXED or (each.type in PASS_THROUGH and each.inputs[0] in variable))
    ]
    counts = observe(model, images, measured, progress)
    score_tensors = {_origin(graph.outputs[position], operators) for position in scores}
    ranges = dict.fromkeys(graph.inputs, PIXELS)
    _add_ranges(ranges, operators, counts, score_tensors)
    for tensor, limits in ranges.items():
        graph.set_range(tensor, limits)
    return graph.to_bytes()


def observe(
    model: bytes, images: Pixels, tensors: Sequence[int], progress: Callable[[int], None]
) -> dict[int, Counts]:
    """How often each value occurs in the tensors over all images; sums of integers, so their order
    does not matter."""

    def count(worker: tuple[TFLiteModel, dict[int, Counts]], number: int) -> None:
        opened, counts = worker
        opened.run(as_float(images[number : number + 1]))
        for tensor in tensors:
            some = _sample(opened.tensor(tensor))
            with np.errstate(over="ignore"):
                patterns = some.astype(np.float16).view(np.uint16)
            counts[tensor] += np.bincount(patterns, minlength=_PATTERNS)

    workers = [
        (
            TFLiteModel(model, kernels="builtin", keep_all=True),
            {tensor: np.zeros(_PATTERNS, np.int64) for tensor in tensors},
        )
        for _ in range(worker_count(MOST_WITH_ALL_TENSORS))
    ]
    for done, _ in enumerate(on_all_cores(workers, count, len(images)), start=1):
        progress(done)
    return {tensor: np.sum([counts[tensor] for _, counts in workers], 0) for tensor in tensors}


def best_range(counts: Counts, through: Callable[[Values], Values]) -> Range:
    """The range with the least mean squared error of ``through(x)``: the low end is chosen first,
    then the high end, and each a second time."""
    values, weights, (low, high) = _condense(counts)
    if low == high:
        return 0.0, 1.0
    exact = through(values)

    def least(ranges: list[Range]) -> Range:
        limits = np.array(ranges)
        rounded = _quantised(values, limits[:, :1], limits[:, 1:])
        errors = np.square(through(rounded) - exact) @ weights
        return ranges[int(errors.argmin())]

    lows, highs = ([float(end * part) for part in _PARTS] for end in (low, high))
    for _ in range(2):
        low, high = least([(each, high) for each in lows])
        low, high = least([(low, each) for each in highs])
    return low, high


def _add_ranges(
    ranges: dict[int, Range],
    operators: Sequence[Operator],
    counts: Mapping[int, Counts],
    score_tensors: set[int],
) -> None:
    """Add the ranges of all operators' outputs to those of the graph's inputs."""
    silu = silu_outputs(operators)
    for operator in operators:
        for tensor in operator.outputs:
            if operator.type in FIXED:
                ranges[tensor] = (-1, 1)
            elif operator.type in PASS_THROUGH and operator.inputs[0] in ranges:
                ranges[tensor] = ranges[operator.inputs[0]]
            else:
                low, high = best_range(counts[tensor], _silu if tensor in silu else _same)
                least = LEAST_SCORE_END if tensor in score_tensors else high
                ranges[tensor] = (low, max(high, least))


def _sample(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values at even distances over a tensor, the same number from every channel."""
    distance = max(1, tensor.size // _SAMPLES)
    while math.gcd(distance, tensor.shape[-1]) > 1:
        distance += 1
    return tensor.ravel()[::distance]


def _origin(tensor: int, operators: Sequence[Operator]) -> int:
    """The tensor from which the values of another one are passed on."""
    makers = {output: each for each in operators for output in each.outputs}
    while tensor in makers and makers[tensor].type in PASS_THROUGH:
        tensor = makers[tensor].inputs[0]
    return tensor


def _condense(counts: Counts) -> tuple[Values, Values, Range]:
    """Values [n], how often each occurs, and the least and the largest of the values and 0."""
    patterns = np.flatnonzero(counts).astype(np.uint16)
    values = np.nan_to_num(patterns.view(np.float16).astype(np.float64), nan=0.0, posinf=65504.0)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    weights, edges = np.histogram(values, _BINS, (low, high), weights=counts[patterns])
    centres = (edges[:-1] + edges[1:]) / 2
    kept = weights > 0
    return centres[kept], weights[kept].astype(np.float64), (low, high)


def _quantised(values: Values, low: Values, high: Values) -> Values:
    """Values [n] quantised and dequantised over ranges [m,1] that contain 0: [m,n]."""
    scale = (high - low) / _LEVELS
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, _LEVELS) - zero) * scale


def _silu(x: Values) -> Values:
    return x / (1 + np.exp(-np.clip(x, -60, None)))


def _same(x: Values) -> Values:
    return x
