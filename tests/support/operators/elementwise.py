"""Models of element-wise operators: two operands in all forms of broadcast, and functions of one.

A network has one input, so the second operand is computed from it or constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.support.operators.model import OperatorModel, model
from tests.support.operators.net import Net, Value

#: Shapes of a second operand for an input of 5 x 7 x 17.
_BROADCASTS = {
    "height": (1, 1, 7, 17),
    "width": (1, 5, 1, 17),
    "area": (1, 1, 1, 17),
    "depth": (1, 5, 7, 1),
    "all": (1, 1, 1, 1),
}


def _two(
    name: str, *, activation: str = "NONE", swapped: bool = False, same: bool = False
) -> OperatorModel:
    """The input and sums of it, on another scale or on the same one."""

    def build(net: Net, x: Value) -> Value:
        quantisation: Mapping[str, Any] = {"scale": 0.08}
        if same:
            quantisation = {"scale": x.scale, "zero_point": x.zero_point}
        y = net.depthwise(x)
        if same:
            y = net.call("QUANTIZE", [y], y.shape, **quantisation)
        a, b = (y, x) if swapped else (x, y)
        return net.elementwise(name, a, b, activation=activation, **quantisation)

    return model(1, 7, 5, 17, build=build)


def _broadcast(name: str, over: str, *, swapped: bool, scale: float = 0.09) -> OperatorModel:
    """The input, and a constant that is repeated over some of its axes."""

    def build(net: Net, x: Value) -> Value:
        constant = net.parameter(*_BROADCASTS[over])
        a, b = (constant, x) if swapped else (x, constant)
        return net.elementwise(name, a, b, scale=scale)

    return model(1, 5, 7, 17, build=build)


def _scalar(name: str, shape: tuple[int, ...], *, swapped: bool) -> OperatorModel:
    """The input and one constant."""

    def build(net: Net, x: Value) -> Value:
        constant = net.parameter(*shape)
        a, b = (constant, x) if swapped else (x, constant)
        return net.elementwise(name, a, b, scale=0.09)

    return model(1, 5, 7, 3, build=build)


def _pooled(name: str, kernel: tuple[int, int], *, swapped: bool) -> OperatorModel:
    """The input, and its largest value over an axis or two, which is repeated over them."""

    def build(net: Net, x: Value) -> Value:
        pooled = net.pool("MAX_POOL_2D", x, kernel, padding="VALID")
        a, b = (pooled, x) if swapped else (x, pooled)
        return net.elementwise(name, a, b, scale=0.1)

    return model(1, 7, 5, 33, build=build)


def _extreme(name: str) -> OperatorModel:
    """MINIMUM or MAXIMUM with a constant; all on one scale."""

    def build(net: Net, x: Value) -> Value:
        data = net.random.integers(-128, 128, (1, 1, 1, 8))
        constant = net.constant(data, dtype="int8", scales=[x.scale], zero_point=x.zero_point)
        return net.same(name, [x, constant], x.shape)

    return model(1, 5, 16, 8, build=build)


def _ratio(name: str, scale: float, result: float, *, swapped: bool = False) -> OperatorModel:
    """The input and constants on a scale that is far from the input's."""

    def build(net: Net, x: Value) -> Value:
        y = net.parameter(*x.shape, scale=scale)
        a, b = (y, x) if swapped else (x, y)
        return net.elementwise(name, a, b, scale=result)

    return model(1, 5, 5, 8, build=build)


def _function(
    name: str,
    *shape: int,
    options: Mapping[str, Any] | None = None,
    input_: Mapping[str, Any] | None = None,
    **quantisation: Any,
) -> OperatorModel:
    """A function of one operand."""

    def build(net: Net, x: Value) -> Value:
        return net.call(name, [x], x.shape, options=options, **quantisation)

    return model(*shape, build=build, **(input_ or {}))


def _prelu(net: Net, x: Value) -> Value:
    slopes = net.constant(
        net.random.integers(-128, 128, (1, 1, x.shape[3])),
        dtype="int8",
        scales=[float(np.float32(0.01))],
        zero_point=7,
    )
    return net.call("PRELU", [x, slopes], x.shape)


_ARITHMETIC = ("ADD", "SUB", "MUL")
_PROBABILITY: Mapping[str, Any] = {"scale": 1 / 256, "zero_point": -128}
_SYMMETRIC: Mapping[str, Any] = {"scale": 1 / 128, "zero_point": 0}

ELEMENTWISE: Mapping[str, OperatorModel] = {
    **{f"{name.lower()}-two-scales": _two(name) for name in _ARITHMETIC},
    **{f"{name.lower()}-two-scales-swapped": _two(name, swapped=True) for name in _ARITHMETIC},
    **{f"{name.lower()}-same-scale": _two(name, same=True) for name in _ARITHMETIC},
    **{f"{name.lower()}-relu": _two(name, activation="RELU") for name in _ARITHMETIC},
    "add-relu6": _two("ADD", activation="RELU6"),
    **{f"add-constant-over-{over}": _broadcast("ADD", over, swapped=False) for over in _BROADCASTS},
    **{
        f"sub-from-constant-over-{over}": _broadcast("SUB", over, swapped=True)
        for over in _BROADCASTS
    },
    "add-scalar": _scalar("ADD", (), swapped=False),
    "sub-from-scalar": _scalar("SUB", (), swapped=True),
    "mul-one-value": _scalar("MUL", (1,), swapped=False),
    "sub-one-value": _scalar("SUB", (1,), swapped=False),
    "mul-constant-over-area": _broadcast("MUL", "area", swapped=False),
    "mul-constant-over-all": _broadcast("MUL", "all", swapped=True),
    "mul-constant-over-depth": _broadcast("MUL", "depth", swapped=False),
    "add-pooled-over-area": _pooled("ADD", (7, 5), swapped=False),
    "add-pooled-over-area-swapped": _pooled("ADD", (7, 5), swapped=True),
    "sub-pooled-over-height": _pooled("SUB", (7, 1), swapped=False),
    "sub-pooled-over-width-swapped": _pooled("SUB", (1, 5), swapped=True),
    "mul-pooled-over-area": _pooled("MUL", (7, 5), swapped=False),
    "add-finer-constant": _ratio("ADD", 0.0004, 0.05),
    "add-coarser-constant": _ratio("ADD", 4.0, 4.0),
    "add-finer-constant-first": _ratio("ADD", 0.001, 0.06, swapped=True),
    "sub-coarser-constant": _ratio("SUB", 1.7, 2.0),
    "sub-from-finer-constant": _ratio("SUB", 0.002, 0.05, swapped=True),
    "mul-finer-constant": _ratio("MUL", 0.0004, 0.0015),
    "minimum": _two("MINIMUM", same=True),
    "maximum": _two("MAXIMUM", same=True),
    "minimum-constant": _extreme("MINIMUM"),
    "maximum-constant": _extreme("MAXIMUM"),
    "squared-difference": _two("SQUARED_DIFFERENCE"),
    "abs": _function("ABS", 1, 7, 7, 17),
    "abs-same-scale": _function(
        "ABS", 1, 5, 5, 8, input_={"scale": 0.05, "zero_point": 3}, scale=0.05, zero_point=3
    ),
    "leaky-relu": _function("LEAKY_RELU", 1, 7, 7, 15, options={"alpha": 0.1}),
    "leaky-relu-same-scale": _function(
        *("LEAKY_RELU", 1, 5, 5, 8),
        options={"alpha": 0.3},
        input_={"scale": 0.05, "zero_point": 3},
        scale=0.05,
        zero_point=3,
    ),
    "leaky-relu-above-one": _function("LEAKY_RELU", 1, 5, 5, 8, options={"alpha": 1.5}),
    "leaky-relu-negative": _function("LEAKY_RELU", 1, 5, 5, 8, options={"alpha": -0.2}),
    "relu": _function("RELU", 1, 7, 7, 33),
    "relu6": _function("RELU6", 1, 7, 7, 8),
    "relu-n1-to-1": _function("RELU_N1_TO_1", 1, 5, 7, 16),
    "prelu": model(1, 7, 7, 17, build=_prelu),
    "logistic": _function("LOGISTIC", 1, 16, 16, 17, **_PROBABILITY),
    "logistic-flat": _function("LOGISTIC", 1, 100, input_={"scale": 0.1}, **_PROBABILITY),
    "tanh": _function("TANH", 1, 16, 16, 17, **_SYMMETRIC),
    "tanh-small-scale": _function("TANH", 1, 5, 5, 8, input_={"scale": 0.01}, **_SYMMETRIC),
    "hard-swish": _function("HARD_SWISH", 1, 16, 16, 8),
    "hard-swish-large-scale": _function("HARD_SWISH", 1, 5, 5, 8, input_={"scale": 0.3}, scale=0.2),
    "exp": _function("EXP", 1, 7, 7, 17, input_={"scale": 0.02}, scale=0.03, zero_point=-128),
    "rsqrt": _function(
        "RSQRT", 1, 7, 7, 8, input_={"scale": 0.05, "zero_point": -128}, scale=0.02, zero_point=-128
    ),
    "softmax": _function("SOFTMAX", 1, 10, options={"beta": 1.0}, **_PROBABILITY),
    "softmax-large-scale": _function(
        "SOFTMAX", 1, 33, options={"beta": 1.0}, input_={"scale": 0.4}, **_PROBABILITY
    ),
    "softmax-one-value": _function("SOFTMAX", 1, 7, 5, 1, options={"beta": 1.0}, **_PROBABILITY),
    "softmax-clear": _function(
        "SOFTMAX", 1, 9, 5, options={"beta": 1.0}, input_={"scale": 0.9}, **_PROBABILITY
    ),
    # Of a sum of one the reciprocal saturates.
    "softmax-certain": _function(
        "SOFTMAX", 1, 4, options={"beta": 1.0}, input_={"scale": 1.0}, **_PROBABILITY
    ),
    "softmax-image": _function("SOFTMAX", 1, 5, 7, 16, options={"beta": 1.0}, **_PROBABILITY),
    "softmax-beta": _function("SOFTMAX", 1, 8, 17, options={"beta": 0.5}, **_PROBABILITY),
    "softmax-long": _function("SOFTMAX", 1, 1000, options={"beta": 1.0}, **_PROBABILITY),
    "quantize": _function("QUANTIZE", 1, 7, 7, 17, input_={"scale": 0.05}, scale=0.03),
    "quantize-coarser": _function("QUANTIZE", 1, 16, 16, 3, input_={"scale": 0.01}, scale=0.31),
    "quantize-finer": _function("QUANTIZE", 1, 5, 5, 64, input_={"scale": 0.31}, scale=0.2),
}
