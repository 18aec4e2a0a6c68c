"""Fits the int8 kernels of an int8 model to the calibration images.

Three things cost nothing at run time. **Rounding**: each weight is rounded so that it makes good
for the errors of those rounded before it, in the layer's output rather than in the weights: the
LDLQ method (Chee et al., "QuIP", 2023, arXiv 2307.13304), the same result as GPTQ's (Frantar et
al., 2022, arXiv 2210.17323). **Bias**: the mean error that is left is taken off the bias (Nagel et
al., 2019, arXiv 1906.04721). **Steps** (``mixed``): weights come from slow flash and Vela packs
them by their entropy, so a coarser step makes the model smaller and faster. A layer's output is
itself rounded to int8, with the variance step^2/12, so the kernel's step is chosen to add `NOISE`
of that, more where there are many weights to be saved and less where there are few: a share in
proportion to the number of weights is the least error for the bits (Lagrange).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.export.evaluation.parallel import on_all_cores, worker_count
from stages.export.evaluation.preprocess import Pixels, as_int8
from stages.export.quantization.probe import MOST_PROBES, Probe
from stages.export.quantization.tflite_editor import Graph, Operator
from stages.results.quantize import Granularity

Matrix = NDArray[np.float64]
#: int8 values that one application of a kernel takes [rows, kh*kw*channels].
Patches = NDArray[np.int8]

#: Noise variance that a kernel of the mean size may add, in parts of its output's rounding.
NOISE = 0.5
#: Pixels and, over all of them, places in a layer's input from which its kernel is fitted.
FIT_IMAGES = 32
FIT_PLACES = 1024
#: Added to every input's power, in parts of the mean, so that what the images never show does not
#: decide.
DAMPING = 0.03
#: Steps up to a layer's largest weight, at least.
FEWEST = 7

_MOST = 127
_TINY = float(np.finfo(np.float32).tiny)
_BLOCK = 64
_SAME = 0
_INT32 = (-(2.0**31), 2.0**31 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
    """What kernels of one shape at the same places of one tensor of the int8 graph are applied to:
    [rows, columns] of places, ``window`` [height, width]."""

    tensor: int
    places: tuple[int, int]
    window: tuple[int, int]
    stride: int
    padding: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution of the int8 graph (its number there) and of the float graph."""

    number: int
    quantised: Operator
    exact: Operator
    feed: Feed
    kernel: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a layer is fed: mean [K] of its inputs and the order of their power, and of the power
    matrix in that order, U diag(d) U^T, the factors: U [K,K] unit upper triangular, d [K]."""

    mean: Matrix
    order: NDArray[np.int64]
    upper: Matrix
    diagonal: Matrix


def fit_kernels(
    float_model: bytes,
    int8_model: bytes,
    images: Pixels,
    *,
    granularity: Granularity,
    progress: Callable[[int, int], None],
) -> tuple[bytes, list[str]]:
    """The int8 model with fitted kernels, and the layers that have a scale for each channel.

    Layers that are no plain convolution stay as they are.
    """
    exact, graph = Graph(float_model), Graph(int8_model)
    layers = find_layers(exact, graph)
    mean_size = sum(layer.size for layer in layers) / max(len(layers), 1)
    count = min(FIT_IMAGES, len(images))
    chosen = images[np.arange(count) * len(images) // count]
    per_channel: dict[int, str] = {}
    done = 0
    feeds = list(dict.fromkeys(layer.feed for layer in layers))
    for feed, patches in _patches(feeds, int8_model, chosen):
        inputs = factorise(patches, graph.zero_point(feed.tensor), graph.scale(feed.tensor))
        for layer in (each for each in layers if each.feed == feed):
            share = NOISE * layer.size / mean_size
            if _fit_layer(layer, exact, graph, inputs, granularity=granularity, noise=share) > 1:
                per_channel[layer.number] = graph.name(layer.quantised.outputs[0])
            done += 1
            progress(done, len(layers))
    return graph.to_bytes(), [per_channel[number] for number in sorted(per_channel)]


def find_layers(exact: Graph, graph: Graph) -> list[Layer]:
    """The plain convolutions that both graphs have; told apart by the names of what they make."""
    plain = [each for each in exact.operators if _is_plain(exact, each)]
    names = collections.Counter(exact.name(each.outputs[0]) for each in plain)
    known = {name: each for each in plain if names[name := exact.name(each.outputs[0])] == 1}
    return [
        Layer(
            number=number,
            quantised=each,
            exact=known[graph.name(each.outputs[0])],
            feed=_feed(graph, each),
            kernel=graph.shape(each.inputs[1]),
        )
        for number, each in enumerate(graph.operators)
        if _is_plain(graph, each) and graph.name(each.outputs[0]) in known
    ]


def factorise(patches: Patches, zero_point: int, step: float) -> Inputs:
    """What rounding needs to know of a layer's inputs.

    The sums are of whole numbers and exact, so no number of threads changes a bit of them.
    """
    values = patches.astype(np.float64) - zero_point
    order = np.argsort(-np.square(values).sum(0), kind="stable")
    backwards = values[:, order[::-1]]
    power = backwards.T @ backwards
    power *= step**2 / len(values)
    power[np.diag_indices_from(power)] += DAMPING * np.trace(power) / len(power) + _TINY
    upper = np.asarray(np.linalg.cholesky(power), np.float64)[::-1, ::-1]
    roots = np.diag(upper).copy()
    return Inputs(
        mean=values.mean(0) * step, order=order, upper=upper / roots, diagonal=np.square(roots)
    )


def choose_scales(rows: Matrix, granularity: Granularity, step: float) -> Matrix:
    """The step of each output channel [O] for weights [O,K]; ``step`` is what mixed asks for.

    A channel whose weights are too large for that step takes its own. No step is so coarse that
    the largest weight has fewer than `FEWEST` of them, for what the images never excite.
    """
    largest = np.maximum(np.abs(rows).max(1), _TINY)
    own = largest / _MOST
    if granularity == "per-tensor":
        own = np.full_like(own, own.max())
    if granularity == "mixed":
        own = np.maximum(own, min(step, largest.max() / FEWEST))
    return own.astype(np.float32).astype(np.float64)


def fit(rows: Matrix, scales: Matrix, inputs: Inputs) -> Matrix:
    """Whole numbers [O,K], -127 to 127, that stand for the weights [O,K] in steps of ``scales``."""
    wanted = rows[:, inputs.order]
    rounded, errors = np.zeros_like(wanted), np.zeros_like(wanted)
    for start in range(0, wanted.shape[1], _BLOCK):
        stop = min(start + _BLOCK, wanted.shape[1])
        block = wanted[:, start:stop] + errors[:, :start] @ inputs.upper[:start, start:stop]
        for column in range(start, stop):
            earlier = errors[:, start:column] @ inputs.upper[start:column, column]
            aim = block[:, column - start] + earlier
            rounded[:, column] = np.clip(np.round(aim / scales), -_MOST, _MOST)
            errors[:, column] = wanted[:, column] - rounded[:, column] * scales
    fitted = np.empty_like(rounded)
    fitted[:, inputs.order] = rounded
    return fitted


def _fit_layer(
    layer: Layer,
    exact: Graph,
    graph: Graph,
    inputs: Inputs,
    *,
    granularity: Granularity,
    noise: float,
) -> int:
    """Put a fitted kernel and its bias into the int8 graph; gives the number of scales it took.

    ``noise``: the variance to add, in parts of the output's rounding.
    """
    kernel, bias = (exact.constant(each, np.float32) for each in layer.exact.inputs[1:])
    rows = kernel.reshape(len(kernel), -1).astype(np.float64)
    target = graph.scale(layer.quantised.outputs[0])
    step = math.sqrt(noise * target**2 / inputs.diagonal.sum())
    scales = choose_scales(rows, granularity, step)
    rounded = fit(rows, scales, inputs)
    source = graph.scale(layer.feed.tensor)
    shift = (rounded * scales[:, None] - rows) @ inputs.mean
    whole = np.clip(np.round((bias - shift) / (scales * source)), *_INT32)
    steps = scales[:1] if len(set(scales)) == 1 else scales
    shaped = rounded.astype(np.int8).reshape(layer.kernel)
    graph.set_constant(layer.number, 1, shaped, steps.astype(np.float32))
    biased = whole.astype(np.int32)
    graph.set_constant(layer.number, 2, biased, (steps * source).astype(np.float32))
    return len(steps)


def _patches(feeds: Sequence[Feed], model: bytes, images: Pixels) -> Iterator[tuple[Feed, Patches]]:
    """Each feed with some of what it holds in the images, drawn evenly from all places."""
    graph = Graph(model)
    fill = {each.tensor: graph.zero_point(each.tensor) for each in feeds}

    def look(probe: Probe, number: int) -> list[Patches]:
        probe.run(as_int8(images[number : number + 1]))
        dice = np.random.default_rng(number)
        found = []
        for feed in feeds:
            chosen = np.sort(dice.permutation(math.prod(feed.places))[: FIT_PLACES // len(images)])
            found.append(_cut(probe.tensor(feed.tensor)[0], feed, chosen, fill[feed.tensor]))
        return found

    probes = [Probe(model) for _ in range(worker_count(MOST_PROBES))]
    seen = list(on_all_cores(probes, look, len(images)))
    for index, feed in enumerate(feeds):
        yield feed, np.concatenate([patches[index] for patches in seen])


def _cut(values: Patches, feed: Feed, chosen: NDArray[np.int64], fill: int) -> Patches:
    """The patches [n, K] of a tensor [H,W,C] at chosen places, counted row by row."""
    height, width = feed.window
    if feed.padding == _SAME:
        sizes = zip(feed.places, values.shape[:2], feed.window, strict=True)
        edges = [_edges(*each, feed.stride) for each in sizes]
        values = np.pad(values, [*edges, (0, 0)], constant_values=fill)
    top, left = (each * feed.stride for each in np.divmod(chosen, feed.places[1]))
    parts = [values[top + y, left + x] for y in range(height) for x in range(width)]
    return np.concatenate(parts, axis=1)


def _edges(made: int, taken: int, kernel: int, stride: int) -> tuple[int, int]:
    """What the padding called SAME puts before and after: the odd one after."""
    total = max((made - 1) * stride + kernel - taken, 0)
    return total // 2, total - total // 2


def _feed(graph: Graph, operator: Operator) -> Feed:
    rows, columns = graph.shape(operator.outputs[0])[1:3]
    height, width = graph.shape(operator.inputs[1])[1:3]
    return Feed(
        tensor=operator.inputs[0],
        places=(rows, columns),
        window=(height, width),
        stride=operator.options.strideH,
        padding=operator.options.padding,
    )


def _is_plain(graph: Graph, operator: Operator) -> bool:
    """A convolution with a bias, over all channels at once, without gaps, of one stride."""
    if operator.type != "CONV_2D" or len(operator.inputs) != 3:
        return False
    options = operator.options
    return (
        graph.shape(operator.inputs[1])[-1] == graph.shape(operator.inputs[0])[-1]
        and (options.dilationWFactor, options.dilationHFactor) == (1, 1)
        and options.strideW == options.strideH
    )
