"""Models of other integers than int8: uint8, and int16 with weights of int8."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tests.support.operators.model import OperatorModel, model
from tests.support.operators.net import Net, Value

_uint8 = functools.partial(model, dtype="uint8")
_int16 = functools.partial(model, dtype="int16")


def _rescaled(net: Net, x: Value, scale: float = 0.08) -> Value:
    return net.call("QUANTIZE", [x], x.shape, scale=scale)


def _two(net: Net, x: Value, name: str, *, same: bool = False) -> Value:
    """The input and sums of it; with ``same`` on one scale."""
    y = net.depthwise(x, per_channel=net.dtype != "uint8")
    if same:
        y = net.call("QUANTIZE", [y], y.shape, scale=x.scale, zero_point=x.zero_point)
        return net.elementwise(name, x, y, scale=x.scale, zero_point=x.zero_point)
    return net.elementwise(name, x, y, scale=0.1 if net.dtype == "uint8" else 0.0005)


def _function(
    net: Net, x: Value, name: str, scale: float | None = None, zero_point: int | None = None
) -> Value:
    return net.call(name, [x], x.shape, scale=scale, zero_point=zero_point)


def _softmax(net: Net, x: Value) -> Value:
    scale = 1 / 32768 if net.dtype == "int16" else 1 / 256
    return net.call("SOFTMAX", [x], x.shape, options={"beta": 1.0}, scale=scale, zero_point=0)


def _mean(net: Net, x: Value) -> Value:
    inputs = [x, net.constant((1, 2))]
    shape = (1, 1, 1, x.shape[3])
    return net.call("MEAN", inputs, shape, options={"keepDims": True}, scale=x.scale / 2)


def _resized(net: Net, x: Value, how: str) -> Value:
    size = (2 * x.shape[1], 2 * x.shape[2])
    return net.same(f"RESIZE_{how}", [x, net.constant(size)], (1, *size, x.shape[3]))


def _transposed(net: Net, x: Value) -> Value:
    _, height, width, depth = x.shape
    return net.same("TRANSPOSE", [x, net.constant((0, 2, 1, 3))], (1, width, height, depth))


def _leaky(net: Net, x: Value) -> Value:
    return net.call("LEAKY_RELU", [x], x.shape, options={"alpha": 0.1})


def _quantised(net: Net, x: Value, dtype: str, scale: float, zero_point: int) -> Value:
    return net.call("QUANTIZE", [x], x.shape, dtype=dtype, scale=scale, zero_point=zero_point)


_UINT8: Mapping[str, OperatorModel] = {
    "uint8-conv": _uint8(1, 7, 7, 17, build=lambda n, x: n.conv(x, 8, per_channel=False)),
    "uint8-conv-relu6": _uint8(
        1, 16, 16, 3, build=lambda n, x: n.conv(x, 16, per_channel=False, activation="RELU6")
    ),
    "uint8-depthwise": _uint8(1, 7, 7, 33, build=lambda n, x: n.depthwise(x, per_channel=False)),
    "uint8-fully-connected": _uint8(1, 100, build=lambda n, x: n.fully_connected(x, 10)),
    "uint8-max-pool": _uint8(1, 7, 7, 8, build=lambda n, x: n.pool("MAX_POOL_2D", x, (3, 3))),
    "uint8-average-pool": _uint8(
        1, 7, 7, 8, build=lambda n, x: n.pool("AVERAGE_POOL_2D", x, (3, 3), padding="VALID")
    ),
    "uint8-add": _uint8(1, 5, 7, 17, build=lambda n, x: _two(n, x, "ADD")),
    "uint8-mul": _uint8(1, 5, 7, 17, build=lambda n, x: _two(n, x, "MUL")),
    "uint8-logistic": _uint8(
        1, 16, 16, 5, build=lambda n, x: _function(n, x, "LOGISTIC", 1 / 256, 0)
    ),
    "uint8-softmax": _uint8(1, 9, 10, build=_softmax),
    "uint8-mean": _uint8(1, 7, 7, 17, build=_mean),
    "uint8-sub": _uint8(1, 5, 7, 17, build=lambda n, x: _two(n, x, "SUB")),
    "uint8-leaky-relu": _uint8(1, 5, 7, 17, build=_leaky),
    "uint8-resize-bilinear": _uint8(1, 5, 7, 8, build=lambda n, x: _resized(n, x, "BILINEAR")),
    "uint8-to-int8": _uint8(1, 7, 7, 3, build=lambda n, x: _quantised(n, x, "int8", 0.05, -7)),
    "int8-to-uint8": model(1, 7, 7, 3, build=lambda n, x: _quantised(n, x, "uint8", 0.05, 140)),
}

_INT16: Mapping[str, OperatorModel] = {
    "int16-conv": _int16(1, 7, 7, 17, build=lambda n, x: n.conv(x, 8)),
    "int16-conv-relu": _int16(1, 16, 7, 3, build=lambda n, x: n.conv(x, 16, activation="RELU")),
    "int16-depthwise": _int16(1, 7, 7, 33, build=lambda n, x: n.depthwise(x)),
    "int16-fully-connected": _int16(1, 100, build=lambda n, x: n.fully_connected(x, 10)),
    "int16-max-pool": _int16(1, 7, 7, 8, build=lambda n, x: n.pool("MAX_POOL_2D", x, (3, 3))),
    "int16-average-pool": _int16(
        1, 7, 7, 8, build=lambda n, x: n.pool("AVERAGE_POOL_2D", x, (3, 3), padding="VALID")
    ),
    "int16-add": _int16(1, 5, 7, 17, build=lambda n, x: _two(n, x, "ADD")),
    "int16-sub": _int16(1, 5, 7, 17, build=lambda n, x: _two(n, x, "SUB")),
    "int16-mul": _int16(1, 5, 7, 17, build=lambda n, x: _two(n, x, "MUL")),
    "int16-minimum": _int16(1, 5, 7, 17, build=lambda n, x: _two(n, x, "MINIMUM", same=True)),
    "int16-logistic": _int16(
        *(1, 16, 16, 5),
        build=lambda n, x: _function(n, x, "LOGISTIC", 1 / 32768),
        refused="activation SIGMOID is unknown",
    ),
    "int16-tanh": _int16(
        *(1, 16, 16, 5),
        build=lambda n, x: _function(n, x, "TANH", 1 / 32768),
        refused="activation TANH is unknown",
    ),
    "int16-leaky-relu": _int16(1, 5, 7, 17, build=_leaky),
    "int16-quantize": _int16(1, 5, 7, 17, build=lambda n, x: _rescaled(n, x, 0.0003)),
    "int16-softmax": _int16(1, 9, 10, build=_softmax),
    "int16-mean": _int16(1, 7, 7, 17, build=_mean),
    "int16-abs": _int16(1, 5, 7, 17, build=lambda n, x: _function(n, x, "ABS")),
    "int16-exp": _int16(1, 5, 7, 17, build=lambda n, x: _function(n, x, "EXP", 0.005)),
    "int16-transpose-conv": _int16(
        1, 5, 5, 8, build=lambda n, x: n.transpose_conv(x, 5, (3, 3), (2, 2), "SAME")
    ),
    "int16-resize-bilinear": _int16(1, 5, 7, 8, build=lambda n, x: _resized(n, x, "BILINEAR")),
    "int16-resize-nearest": _int16(
        1, 5, 7, 8, build=lambda n, x: _resized(n, x, "NEAREST_NEIGHBOR")
    ),
    "int16-transpose": _int16(1, 5, 7, 9, build=_transposed),
    "int16-relu6": _int16(1, 5, 7, 9, build=lambda n, x: _function(n, x, "RELU6")),
    "int16-to-int8": _int16(1, 7, 7, 3, build=lambda n, x: _quantised(n, x, "int8", 0.05, -7)),
}

TYPES: Mapping[str, OperatorModel] = {**_UINT8, **_INT16}
