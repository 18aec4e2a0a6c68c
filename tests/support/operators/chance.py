"""Networks whose operator, sizes, scales and options are drawn by chance, from a fixed seed."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tests.support.operators.model import OperatorModel, model
from tests.support.operators.net import Net, Value

#: Those in the catalogue.
COUNT = 60

_WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 64, 65, 100)
_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16, 17, 21, 33)
_TYPES = ("int8", "int8", "int8", "int8", "int16")
_PADDINGS = ("SAME", "VALID")
_ACTIVATIONS = ("NONE", "NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def drawn(seed: int) -> OperatorModel:
    """One network, by its number."""
    chance = random.Random(f"network {seed}")
    shape = (1, chance.choice(_SIZES), chance.choice(_SIZES), chance.choice(_WIDTHS))
    dtype = chance.choice(_TYPES)

    of_int8 = (_transpose_conv, _mean, _softmax, _resized)
    operators = (
        *(_conv, _conv, _conv, _depthwise, _depthwise, _pool, _pool, _two, _two, _requantised),
        *(_joined, _padded, *(of_int8 if dtype == "int8" else ())),
    )

    def build(net: Net, x: Value) -> Value:
        again = random.Random(f"operators of {seed}")
        for _ in range(again.choice((1, 1, 1, 2, 3))):
            x = again.choice(operators)(net, x, again)
        # Vela 4.5 cannot compile each operator that follows on it.
        return _cut(net, x, again) if again.random() < 0.05 else x

    return model(*shape, build=build, dtype=dtype)


def _conv(net: Net, x: Value, chance: random.Random) -> Value:
    kernel, padding = _window(x, chance)
    stride = (chance.randint(1, 3), chance.randint(1, 3))
    dilation = (1, 1)
    if stride == (1, 1):
        dilation = chance.choice(((1, 1), (1, 1), (2, 2), (1, 2), (3, 1)))
        reach = [(side - 1) * step + 1 for side, step in zip(kernel, dilation, strict=True)]
        if any(side > size for side, size in zip(reach, x.shape[1:3], strict=True)):
            padding = "SAME"
    return net.conv(
        x,
        chance.choice(_WIDTHS),
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        activation=chance.choice(_ACTIVATIONS),
        per_channel=chance.random() < 0.7,
    )


def _depthwise(net: Net, x: Value, chance: random.Random) -> Value:
    kernel, padding = _window(x, chance)
    step = chance.randint(1, 3)
    return net.depthwise(
        x,
        kernel,
        multiplier=chance.choice((1, 2, 8, 19)) if x.shape[3] == 1 else 1,
        stride=(step, step),
        padding=padding,
        activation=chance.choice(_ACTIVATIONS),
        per_channel=chance.random() < 0.7,
    )


def _pool(net: Net, x: Value, chance: random.Random) -> Value:
    kernel, padding = _window(x, chance)
    return net.pool(
        chance.choice(("MAX_POOL_2D", "AVERAGE_POOL_2D")),
        x,
        kernel,
        stride=(chance.randint(1, 3), chance.randint(1, 3)),
        padding=padding,
        activation=chance.choice(_ACTIVATIONS),
    )


def _two(net: Net, x: Value, chance: random.Random) -> Value:
    """Arithmetic with a constant that may broadcast, or with sums of the operand."""
    if chance.random() < 0.5:
        other = net.depthwise(x)
    else:
        shape = [size if chance.random() < 0.6 else 1 for size in x.shape[1:]]
        other = net.parameter(1, *shape, scale=x.scale * 2 ** chance.uniform(-5, 3))
    a, b = (x, other) if chance.random() < 0.5 else (other, x)
    name = chance.choice(("ADD", "SUB", "MUL"))
    scale = max(a.scale, b.scale) * 2 ** chance.uniform(-1, 1)
    activation = chance.choice(_ACTIVATIONS)
    return net.elementwise(name, a, b, activation=activation, scale=scale)


def _requantised(net: Net, x: Value, chance: random.Random) -> Value:
    of_int8 = ("RELU", "RELU6", "HARD_SWISH", "LOGISTIC") if net.dtype == "int8" else ()
    name = chance.choice(("QUANTIZE", "LEAKY_RELU", *of_int8))
    if name == "LOGISTIC":
        return net.call(name, [x], x.shape, scale=1 / 256, zero_point=-128)
    options = {"alpha": chance.uniform(0.01, 0.9)} if name == "LEAKY_RELU" else {}
    return net.call(name, [x], x.shape, options=options)


def _transpose_conv(net: Net, x: Value, chance: random.Random) -> Value:
    kernel = chance.choice(((2, 2), (3, 3), (4, 4)))
    return net.transpose_conv(x, chance.choice(_WIDTHS), kernel, (2, 2), chance.choice(_PADDINGS))


def _mean(net: Net, x: Value, chance: random.Random) -> Value:
    axes = chance.choice(((1, 2), (1,), (2,)))
    shape = [1 if number in axes else size for number, size in enumerate(x.shape)]
    inputs = [x, net.constant(axes)]
    options = {"keepDims": True}
    if shape == list(x.shape):  # see `mean-of-one` in `products`
        return net.same("MEAN", inputs, shape, options)
    return net.call("MEAN", inputs, shape, options=options, scale=x.scale / 2)


def _softmax(net: Net, x: Value, chance: random.Random) -> Value:
    options = {"beta": chance.choice((1.0, 1.0, 0.3, 2.0))}
    return net.call("SOFTMAX", [x], x.shape, options=options, scale=1 / 256, zero_point=-128)


def _resized(net: Net, x: Value, chance: random.Random) -> Value:
    times = chance.choice((2, 4))
    size = (x.shape[1] * times, x.shape[2] * times)
    name = chance.choice(("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"))
    options = {"halfPixelCenters": times == 2 and chance.random() < 0.3}
    return net.same(name, [x, net.constant(size)], (1, *size, x.shape[3]), options)


def _joined(net: Net, x: Value, chance: random.Random) -> Value:
    axis = chance.choice((1, 2, 3, 3))
    parts = [x, net.pool("MAX_POOL_2D", x, (3, 3)), x][: chance.choice((2, 3))]
    shape = list(x.shape)
    shape[axis] *= len(parts)
    return net.same("CONCATENATION", parts, shape, {"axis": axis})


def _padded(net: Net, x: Value, chance: random.Random) -> Value:
    around = [(0, 0), *((chance.randint(0, 3), chance.randint(0, 3)) for _ in range(2)), (0, 0)]
    shape = [size + sum(sides) for size, sides in zip(x.shape, around, strict=True)]
    return net.same("PAD", [x, net.constant(around)], shape)


def _cut(net: Net, x: Value, chance: random.Random) -> Value:
    begin = [chance.randrange(size) for size in x.shape]
    end = [chance.randint(at + 1, size) for at, size in zip(begin, x.shape, strict=True)]
    shape = [stop - start for start, stop in zip(begin, end, strict=True)]
    inputs = [x, *(net.constant(each) for each in (begin, end, [1] * 4))]
    return net.same("STRIDED_SLICE", inputs, shape)


def _window(x: Value, chance: random.Random) -> tuple[tuple[int, int], str]:
    """A kernel that fits without padding, or one of any size with it."""
    sides = chance.choice(((1, 1), (3, 3), (3, 3), (5, 5), (2, 2), (1, 3), (4, 3), (7, 7), (6, 2)))
    fits = all(side <= size for side, size in zip(sides, x.shape[1:3], strict=True))
    return sides, chance.choice(_PADDINGS) if fits else "SAME"


CHANCE: Mapping[str, OperatorModel] = {f"chance-{seed}": drawn(seed) for seed in range(COUNT)}
