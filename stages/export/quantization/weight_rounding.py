"""Rounds the weights of an int8 model so that its layers' outputs on the calibration images change
least.

Three methods, none of which costs anything at run time. **Rounding**: each weight is rounded so
that it compensates the errors of those rounded before it, measured in the layer's output and not in
the weights: LDLQ (Chee et al., "QuIP", 2023, arXiv 2307.13304), which gives the same result as GPTQ
(Frantar et al., 2022, arXiv 2210.17323). **Bias**: the mean error that remains is subtracted from
the bias (Nagel et al., 2019, arXiv 1906.04721). **Scales** (``mixed``): weights are read from slow
flash and Vela compresses them by their entropy, so a larger scale makes the model smaller and
faster. A layer's output is itself rounded to int8, with the variance scale^2/12; the scale of the
weights is chosen to add `NOISE` of that, more in a layer with many weights and less in one with
few: a share in proportion to the number of weights has the least error for a number of bits
(Lagrange).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.export.models.parallel import on_all_cores, worker_count
from stages.export.models.preprocess import Pixels, as_int8
from stages.export.models.tflite_editor import Graph, Operator
from stages.export.models.tflite_interpreter import MOST_WITH_ALL_TENSORS, TFLiteModel
from stages.results.quantize import Granularity
from stages.sampling import evenly

Matrix = NDArray[np.float64]
#: Inputs of a convolution at some positions of its output, int8 [positions, kh*kw*channels].
Patches = NDArray[np.int8]

#: Variance of the error that rounding a layer of mean size may add, in parts of the variance of
#: rounding its output.
NOISE = 0.5
#: Images and, over all of them, positions of a layer's output from which its rounding is computed.
FIT_IMAGES = 32
FIT_POSITIONS = 1024
#: Added to the power of every input, in parts of the mean, so that inputs that are nearly always
#: zero in these images count too.
DAMPING = 0.03
#: The largest weight of a layer is at least so many scales.
LEAST_LEVELS = 7

_MOST = 127
_TINY = float(np.finfo(np.float32).tiny)
_BLOCK = 64
_SAME = 0
_INT32 = (-(2.0**31), 2.0**31 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The patches that convolutions take from one tensor of the int8 graph: ``positions`` (rows,
    columns) of their output, and the ``size`` (height, width) of a patch."""

    tensor: int
    positions: tuple[int, int]
    size: tuple[int, int]
    stride: int
    padding: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution of the int8 graph (its number there) and of the float graph."""

    number: int
    quantised: Operator
    exact: Operator
    window: Window
    shape: tuple[int, ...]

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Statistics of a layer's K inputs: their mean [K], their order by falling power [K], and the
    factors of their second moments in that order, U diag(d) U^T: U [K,K] unit upper triangular,
    d [K]."""

    mean: Matrix
    order: NDArray[np.int64]
    upper: Matrix
    diagonal: Matrix


def round_weights(
    float_model: bytes,
    int8_model: bytes,
    images: Pixels,
    *,
    granularity: Granularity,
    progress: Callable[[int, int], None],
) -> tuple[bytes, list[str]]:
    """The int8 model with its weights rounded, and the layers that have a scale for each channel.

    Layers that are no plain convolution stay as they are. ``progress`` is called with the layers
    done and their number.
    """
    exact, graph = Graph(float_model), Graph(int8_model)
    layers = find_layers(exact, graph)
    mean_weights = sum(layer.weights for layer in layers) / max(len(layers), 1)
    chosen = images[evenly(len(images), FIT_IMAGES)]
    per_channel: dict[int, str] = {}
    done = 0
    windows = list(dict.fromkeys(layer.window for layer in layers))
    for window, patches in _patches(windows, int8_model, chosen):
        inputs = factorise(patches, graph.zero_point(window.tensor), graph.scale(window.tensor))
        for layer in (each for each in layers if each.window == window):
            share = NOISE * layer.weights / mean_weights
            if _round_layer(layer, exact, graph, inputs, granularity=granularity, noise=share) > 1:
                per_channel[layer.number] = graph.name(layer.quantised.outputs[0])
            done += 1
            progress(done, len(layers))
    return graph.to_bytes(), [per_channel[number] for number in sorted(per_channel)]


def find_layers(exact: Graph, graph: Graph) -> list[Layer]:
    """The plain convolutions that both graphs have, matched by the names of their outputs."""
    plain = [each for each in exact.operators if _is_plain(exact, each)]
    names = collections.Counter(exact.name(each.outputs[0]) for each in plain)
    known = {name: each for each in plain if names[name := exact.name(each.outputs[0])] == 1}
    return [
        Layer(
            number=number,
            quantised=each,
            exact=known[graph.name(each.outputs[0])],
            window=_window(graph, each),
            shape=graph.shape(each.inputs[1]),
        )
        for number, each in enumerate(graph.operators)
        if _is_plain(graph, each) and graph.name(each.outputs[0]) in known
    ]


def factorise(patches: Patches, zero_point: int, scale: float) -> Inputs:
    """The statistics of a layer's inputs.

    The sums are of integers and exact, so they do not depend on the number of threads.
    """
    values = patches.astype(np.float64) - zero_point
    order = np.argsort(-np.square(values).sum(0), kind="stable")
    backwards = values[:, order[::-1]]
    power = backwards.T @ backwards
    power *= scale**2 / len(values)
    power[np.diag_indices_from(power)] += DAMPING * np.trace(power) / len(power) + _TINY
    upper = np.asarray(np.linalg.cholesky(power), np.float64)[::-1, ::-1]
    roots = np.diag(upper).copy()
    return Inputs(
        mean=values.mean(0) * scale, order=order, upper=upper / roots, diagonal=np.square(roots)
    )


def choose_scales(rows: Matrix, granularity: Granularity, scale: float) -> Matrix:
    """The scale of each output channel [O] for weights [O,K]; ``scale`` is the one for mixed.

    A channel whose weights are too large for that scale has its own. No scale is so large that the
    largest weight is fewer than `LEAST_LEVELS` of it, for inputs that these images never excite.
    """
    largest = np.maximum(np.abs(rows).max(1), _TINY)
    own = largest / _MOST
    if granularity == "per-tensor":
        own = np.full_like(own, own.max())
    if granularity == "mixed":
        own = np.maximum(own, min(scale, largest.max() / LEAST_LEVELS))
    return own.astype(np.float32).astype(np.float64)


def fit(rows: Matrix, scales: Matrix, inputs: Inputs) -> Matrix:
    """Integers [O,K], -127 to 127, that times ``scales`` [O] stand for the weights [O,K]."""
    wanted = rows[:, inputs.order]
    rounded, errors = np.zeros_like(wanted), np.zeros_like(wanted)
    for start in range(0, wanted.shape[1], _BLOCK):
        stop = min(start + _BLOCK, wanted.shape[1])
        block = wanted[:, start:stop] + errors[:, :start] @ inputs.upper[:start, start:stop]
        for column in range(start, stop):
            earlier = errors[:, start:column] @ inputs.upper[start:column, column]
            target = block[:, column - start] + earlier
            rounded[:, column] = np.clip(np.round(target / scales), -_MOST, _MOST)
            errors[:, column] = wanted[:, column] - rounded[:, column] * scales
    fitted = np.empty_like(rounded)
    fitted[:, inputs.order] = rounded
    return fitted


def _round_layer(
    layer: Layer,
    exact: Graph,
    graph: Graph,
    inputs: Inputs,
    *,
    granularity: Granularity,
    noise: float,
) -> int:
    """Put a layer's rounded weights and its bias into the int8 graph; the number of its scales.

    ``noise``: the variance to add, in parts of the variance of rounding the output.
    """
    weights, bias = (exact.constant(each, np.float32) for each in layer.exact.inputs[1:])
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    output_scale = graph.scale(layer.quantised.outputs[0])
    scale = math.sqrt(noise * output_scale**2 / inputs.diagonal.sum())
    scales = choose_scales(rows, granularity, scale)
    rounded = fit(rows, scales, inputs)
    input_scale = graph.scale(layer.window.tensor)
    shift = (rounded * scales[:, None] - rows) @ inputs.mean
    new_bias = np.clip(np.round((bias - shift) / (scales * input_scale)), *_INT32)
    written = scales[:1] if len(set(scales)) == 1 else scales
    shaped = rounded.astype(np.int8).reshape(layer.shape)
    graph.set_constant(layer.number, 1, shaped, written.astype(np.float32))
    bias_scales = (written * input_scale).astype(np.float32)
    graph.set_constant(layer.number, 2, new_bias.astype(np.int32), bias_scales)
    return len(written)


def _patches(
    windows: Sequence[Window], model: bytes, images: Pixels
) -> Iterator[tuple[Window, Patches]]:
    """Each window with some of its patches in the images, drawn uniformly from all positions."""
    graph = Graph(model)
    fill = {each.tensor: graph.zero_point(each.tensor) for each in windows}

    def draw(opened: TFLiteModel, number: int) -> list[Patches]:
        opened.run(as_int8(images[number : number + 1]))
        random = np.random.default_rng(number)
        found = []
        for window in windows:
            order = random.permutation(math.prod(window.positions))
            chosen = np.sort(order[: FIT_POSITIONS // len(images)])
            found.append(_cut(opened.tensor(window.tensor)[0], window, chosen, fill[window.tensor]))
        return found

    models = [
        TFLiteModel(model, kernels="builtin", keep_all=True)
        for _ in range(worker_count(MOST_WITH_ALL_TENSORS))
    ]
    drawn = list(on_all_cores(models, draw, len(images)))
    for index, window in enumerate(windows):
        yield window, np.concatenate([patches[index] for patches in drawn])


def _cut(values: Patches, window: Window, chosen: NDArray[np.int64], fill: int) -> Patches:
    """The patches [n, K] of a tensor [H,W,C] at chosen positions, numbered row by row."""
    height, width = window.size
    if window.padding == _SAME:
        sizes = zip(window.positions, values.shape[:2], window.size, strict=True)
        edges = [_edges(*each, window.stride) for each in sizes]
        values = np.pad(values, [*edges, (0, 0)], constant_values=fill)
    top, left = (each * window.stride for each in np.divmod(chosen, window.positions[1]))
    parts = [values[top + y, left + x] for y in range(height) for x in range(width)]
    return np.concatenate(parts, axis=1)


def _edges(outputs: int, inputs: int, kernel: int, stride: int) -> tuple[int, int]:
    """The padding called SAME, before and after: the odd one is after."""
    total = max((outputs - 1) * stride + kernel - inputs, 0)
    return total // 2, total - total // 2


def _window(graph: Graph, operator: Operator) -> Window:
    rows, columns = graph.shape(operator.outputs[0])[1:3]
    height, width = graph.shape(operator.inputs[1])[1:3]
    return Window(
        tensor=operator.inputs[0],
        positions=(rows, columns),
        size=(height, width),
        stride=operator.options.strideH,
        padding=operator.options.padding,
    )


def _is_plain(graph: Graph, operator: Operator) -> bool:
    """A convolution with a bias, neither grouped nor dilated, with the same stride both ways."""
    if operator.type != "CONV_2D" or len(operator.inputs) != 3:
        return False
    options = operator.options
    return (
        graph.shape(operator.inputs[1])[-1] == graph.shape(operator.inputs[0])[-1]
        and (options.dilationWFactor, options.dilationHFactor) == (1, 1)
        and options.strideW == options.strideH
    )
