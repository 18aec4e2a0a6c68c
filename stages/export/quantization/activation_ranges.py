"""Between which values each tensor is quantised, from what it holds on the calibration images.

A range from the least to the largest value ever seen spends most of the 256 levels on values that
hardly occur. The range taken here is the one that leaves the least mean squared error, and where
x * sigmoid(x) follows (SiLU), the error after it: far below zero SiLU gives nearly 0 whatever x
is, so levels there are of no use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.export.evaluation.parallel import on_all_cores, worker_count
from stages.export.evaluation.preprocess import Pixels, as_float
from stages.export.quantization.probe import MOST_PROBES, Probe
from stages.export.quantization.tflite_editor import MOVES, Graph, Operator, Range, activated

Values = NDArray[np.float64]
#: How often each float16 occurs in a tensor, by its bit pattern [65536].
Counts = NDArray[np.int64]

#: What the firmware writes into the input, whatever the calibration images hold.
PIXELS: Range = (0.0, 1.0)
#: The format itself says between which values these are quantised.
FIXED = frozenset({"LOGISTIC", "TANH", "SOFTMAX", "L2_NORMALIZATION"})
#: Every score must be able to come up to a probability of 0.95, whatever the calibration images
#: show: else what is rare in them, a class or a size, never could.
SURE = float(np.log(0.95 / 0.05))

#: Of larger tensors about so many values an image are counted.
_ENOUGH = 1 << 14
_LEVELS = 255
_PATTERNS = 1 << 16
_BINS = 1024
#: What part of the way from 0 to its furthest value an end of a range may be set to.
_PARTS = np.linspace(0.1, 1, 46)


def choose_ranges(
    model: bytes,
    images: Pixels,
    *,
    scores: Sequence[int],
    progress: Callable[[int], None],
) -> bytes:
    """The float model with a range for every tensor, as the quantiser wants it.

    ``scores``: the positions of the outputs that hold scores (logits).
    """
    graph = Graph(model)
    operators = graph.operators
    variable = {*graph.inputs, *(tensor for each in operators for tensor in each.outputs)}
    measured = [
        tensor
        for each in operators
        for tensor in each.outputs
        if not (each.type in FIXED or (each.type in MOVES and each.inputs[0] in variable))
    ]
    counts = observe(model, images, measured, progress)
    sure = {_origin(graph.outputs[position], operators) for position in scores}
    ranges = dict.fromkeys(graph.inputs, PIXELS)
    _add_ranges(ranges, operators, counts, sure)
    for tensor, limits in ranges.items():
        graph.set_range(tensor, limits)
    return graph.to_bytes()


def observe(
    model: bytes, images: Pixels, tensors: Sequence[int], progress: Callable[[int], None]
) -> dict[int, Counts]:
    """What the tensors hold over all images; whole numbers, so the order of adding is no matter."""

    def look(worker: tuple[Probe, dict[int, Counts]], number: int) -> None:
        probe, counts = worker
        probe.run(as_float(images[number : number + 1]))
        for tensor in tensors:
            some = _sample(probe.tensor(tensor))
            with np.errstate(over="ignore"):
                patterns = some.astype(np.float16).view(np.uint16)
            counts[tensor] += np.bincount(patterns, minlength=_PATTERNS)

    workers = [
        (Probe(model), {tensor: np.zeros(_PATTERNS, np.int64) for tensor in tensors})
        for _ in range(worker_count(MOST_PROBES))
    ]
    for done, _ in enumerate(on_all_cores(workers, look, len(images)), start=1):
        progress(done)
    return {tensor: np.sum([counts[tensor] for _, counts in workers], 0) for tensor in tensors}


def best_range(counts: Counts, through: Callable[[Values], Values]) -> Range:
    """The range that leaves the least mean squared error in ``through(x)``, first of its low end,
    then of its high end, and once more."""
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
    sure: set[int],
) -> None:
    """Add the range of everything that the operators make to those of the graph's inputs."""
    silu = activated(operators)
    for operator in operators:
        for tensor in operator.outputs:
            if operator.type in FIXED:
                ranges[tensor] = (-1, 1)
            elif operator.type in MOVES and operator.inputs[0] in ranges:
                ranges[tensor] = ranges[operator.inputs[0]]
            else:
                low, high = best_range(counts[tensor], _silu if tensor in silu else _same)
                ranges[tensor] = (low, max(high, SURE) if tensor in sure else high)


def _sample(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values evenly over a tensor, of every channel as many as of any other."""
    step = max(1, tensor.size // _ENOUGH)
    while math.gcd(step, tensor.shape[-1]) > 1:
        step += 1
    return tensor.ravel()[::step]


def _origin(tensor: int, operators: Sequence[Operator]) -> int:
    """The tensor whose values another one hands on."""
    makers = {made: each for each in operators for made in each.outputs}
    while tensor in makers and makers[tensor].type in MOVES:
        tensor = makers[tensor].inputs[0]
    return tensor


def _condense(counts: Counts) -> tuple[Values, Values, Range]:
    """Values [n] and how often each occurs, and the least and largest of them and 0."""
    patterns = np.flatnonzero(counts).astype(np.uint16)
    values = np.nan_to_num(patterns.view(np.float16).astype(np.float64), nan=0.0, posinf=65504.0)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    weights, edges = np.histogram(values, _BINS, (low, high), weights=counts[patterns])
    centres = (edges[:-1] + edges[1:]) / 2
    kept = weights > 0
    return centres[kept], weights[kept].astype(np.float64), (low, high)


def _quantised(values: Values, low: Values, high: Values) -> Values:
    """Values [n] as they come back from int8, by ranges [m,1] that hold 0: [m,n]."""
    scale = (high - low) / _LEVELS
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, _LEVELS) - zero) * scale


def _silu(x: Values) -> Values:
    return x / (1 + np.exp(-np.clip(x, -60, None)))


def _same(x: Values) -> Values:
    return x
