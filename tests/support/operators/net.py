"""Describes small quantised networks: every scale, zero point, shape and weight is under control.

numpy alone: tests read the names, and `operator_files` writes the networks as TFLite files.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Values of the schema's enumerations, tensorflow/lite/schema/schema.fbs.
PADDING = {"SAME": 0, "VALID": 1}
ACTIVATION = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}

#: The standard deviation of a product of two int8 values that are equally likely.
_PRODUCT_DEVIATION = 74.0**2
#: What an int8 output should have: it fills the range and is clipped now and then.
_OUTPUT_DEVIATION = 50.0

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor: its number, and how its integers stand for real values; ``data`` if constant."""

    index: int
    shape: tuple[int, ...]
    dtype: str = "int8"
    scales: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int = 0
    data: NDArray[Any] | None = None

    @property
    def scale(self) -> float:
        return self.scales[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """An operator: its name in the schema, the numbers of its tensors, and its options."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


class Net:
    """A network being built; each method adds an operator and returns what it computes."""

    def __init__(self, name: str, dtype: str) -> None:
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.dtype = dtype
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.outputs: list[int] = []

    def input(
        self, *shape: int, scale: float | None = None, zero_point: int | None = None
    ) -> Value:
        return self._computed(shape, scale=scale, zero_point=zero_point)

    def output(self, *values: Value) -> None:
        self.outputs += [value.index for value in values]

    def constant(
        self, data: Any, *, dtype: str = "int32", scales: Sequence[float] = (), **rest: int
    ) -> Value:
        array = np.asarray(data, dtype=dtype)
        return self._keep(shape=array.shape, dtype=dtype, scales=tuple(scales), data=array, **rest)

    def parameter(self, *shape: int, scale: float | None = None) -> Value:
        """Constant values over the whole range."""
        info = np.iinfo(self.dtype)
        data = self.random.integers(info.min, info.max + 1, shape)
        scales = (scale or self._scale(),)
        return self.constant(data, dtype=self.dtype, scales=scales, zero_point=self._zero_point())

    def call(
        self,
        name: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        *,
        options: Mapping[str, Any] | None = None,
        **quantisation: Any,
    ) -> Value:
        """Any operator with one output; scale and zero point are random if they are not given."""
        made = self._computed(shape, **quantisation)
        self._call(name, inputs, [made], options)
        return made

    def same(
        self,
        name: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        options: Mapping[str, Any] | None = None,
    ) -> Value:
        """An operator whose output has the quantisation of its first input."""
        first = inputs[0]
        return self.call(
            name, inputs, shape, options=options, scale=first.scale, zero_point=first.zero_point
        )

    def conv(
        self,
        x: Value,
        width: int,
        kernel: Pair = (3, 3),
        *,
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
        per_channel: bool = True,
    ) -> Value:
        options = _window(stride, padding, activation, dilation)
        area = _area(x.shape, kernel, stride, dilation, padding)
        weights = (width, *kernel, x.shape[3])
        return self._products(
            "CONV_2D", x, weights, (1, *area, width), options, per_channel=per_channel
        )

    def depthwise(
        self,
        x: Value,
        kernel: Pair = (3, 3),
        *,
        multiplier: int = 1,
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
        per_channel: bool = True,
    ) -> Value:
        options = {
            **_window(stride, padding, activation, dilation),
            "depthMultiplier": multiplier,
        }
        area = _area(x.shape, kernel, stride, dilation, padding)
        width = x.shape[3] * multiplier
        return self._products(
            "DEPTHWISE_CONV_2D",
            *(x, (1, *kernel, width), (1, *area, width), options),
            per_channel=per_channel,
            axis=3,
        )

    def fully_connected(self, x: Value, width: int, *, activation: str = "NONE") -> Value:
        options = {"fusedActivationFunction": ACTIVATION[activation]}
        rows, depth = x.shape
        weights = (width, depth)
        return self._products(
            "FULLY_CONNECTED", x, weights, (rows, width), options, per_channel=False
        )

    def transpose_conv(
        self, x: Value, width: int, kernel: Pair, stride: Pair, padding: str
    ) -> Value:
        options = {"padding": PADDING[padding], "strideH": stride[0], "strideW": stride[1]}
        area = [
            size * step + (max(side - step, 0) if padding == "VALID" else 0)
            for size, side, step in zip(x.shape[1:3], kernel, stride, strict=True)
        ]
        weights = (width, *kernel, x.shape[3])
        shape = (1, *area, width)
        return self._products("TRANSPOSE_CONV", x, weights, shape, options, per_channel=True)

    def pool(
        self,
        name: str,
        x: Value,
        kernel: Pair,
        *,
        stride: Pair = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
    ) -> Value:
        """MAX_POOL_2D or AVERAGE_POOL_2D."""
        options = {
            **_window(stride, padding, activation),
            "filterHeight": kernel[0],
            "filterWidth": kernel[1],
        }
        area = _area(x.shape, kernel, stride, (1, 1), padding)
        return self.same(name, [x], (1, *area, x.shape[3]), options)

    def elementwise(
        self, name: str, a: Value, b: Value, *, activation: str = "NONE", **quantisation: Any
    ) -> Value:
        """An operator of two operands, which may broadcast."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        fused = {"fusedActivationFunction": ACTIVATION[activation]}
        options = fused if name in ("ADD", "SUB", "MUL") else {}
        return self.call(name, [a, b], shape, options=options, **quantisation)

    def split(self, x: Value, count: int, axis: int) -> list[Value]:
        shape = list(x.shape)
        shape[axis] //= count
        parts = [self._computed(shape, x.scale, x.zero_point) for _ in range(count)]
        self._call("SPLIT", [self.constant(axis), x], parts, {"numSplits": count})
        return parts

    def unpack(self, x: Value, axis: int) -> list[Value]:
        shape = [size for number, size in enumerate(x.shape) if number != axis]
        count = x.shape[axis]
        parts = [self._computed(shape, x.scale, x.zero_point) for _ in range(count)]
        self._call("UNPACK", [x], parts, {"num": count, "axis": axis})
        return parts

    def _products(
        self,
        name: str,
        x: Value,
        weights: tuple[int, ...],
        shape: tuple[int, ...],
        options: Mapping[str, Any],
        *,
        per_channel: bool,
        axis: int = 0,
    ) -> Value:
        """An operator that sums products with random weights; its output fills the int8 range."""
        width = weights[axis]
        fan_in = math.prod(weights) // width
        unit = 256 if self.dtype == "int16" else 1
        deviation = math.sqrt(fan_in) * _PRODUCT_DEVIATION * unit
        made = self._computed(shape)
        scale = made.scale * _OUTPUT_DEVIATION * unit / (x.scale * deviation)
        spread = 2 ** self.random.uniform(-1, 1, width if per_channel else 1)
        scales = [float(np.float32(scale * each)) for each in spread]
        middle = 128 if self.dtype == "uint8" else 0
        kernel = self.constant(
            self.random.integers(-127, 128, weights) + middle,
            dtype="uint8" if middle else "int8",
            scales=scales,
            axis=axis,
            zero_point=middle,
        )
        bias = self.constant(
            (self.random.uniform(-1, 1, width) * deviation).round(),
            dtype="int64" if self.dtype == "int16" else "int32",
            scales=[x.scale * each for each in scales],
        )
        if name == "TRANSPOSE_CONV":
            inputs = [self.constant(shape), kernel, x, bias]
        else:
            inputs = [x, kernel, bias]
        self._call(name, inputs, [made], options)
        return made

    def _call(
        self,
        name: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        options: Mapping[str, Any] | None,
    ) -> None:
        self.calls.append(
            Call(
                name=name,
                inputs=tuple(each.index for each in inputs),
                outputs=tuple(each.index for each in outputs),
                options=options or {},
            )
        )

    def _computed(
        self,
        shape: Sequence[int],
        scale: float | None = None,
        zero_point: int | None = None,
        dtype: str | None = None,
    ) -> Value:
        return self._keep(
            shape=tuple(shape),
            dtype=dtype or self.dtype,
            scales=(scale if scale is not None else self._scale(),),
            zero_point=zero_point if zero_point is not None else self._zero_point(),
        )

    def _keep(self, **fields: Any) -> Value:
        value = Value(index=len(self.values), **fields)
        self.values.append(value)
        return value

    def _scale(self) -> float:
        """Real values reach from about -5 to 5, so that RELU6 clips somewhere."""
        scale = self.random.uniform(0.03, 0.07)
        return float(np.float32(scale / 256 if self.dtype == "int16" else scale))

    def _zero_point(self) -> int:
        if self.dtype == "int16":
            return 0
        return int(self.random.integers(-60, 20)) + (128 if self.dtype == "uint8" else 0)


def _window(
    stride: Pair, padding: str, activation: str, dilation: Pair | None = None
) -> dict[str, int]:
    """The options that convolutions and pooling have in common."""
    options = {
        "strideH": stride[0],
        "strideW": stride[1],
        "padding": PADDING[padding],
        "fusedActivationFunction": ACTIVATION[activation],
    }
    if dilation is not None:
        options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    return options


def _area(
    shape: Sequence[int], kernel: Pair, stride: Pair, dilation: Pair, padding: str
) -> list[int]:
    """Height and width of the output of a window that moves over an image."""
    area = []
    for size, side, step, spread in zip(shape[1:3], kernel, stride, dilation, strict=True):
        reach = (side - 1) * spread + 1
        area.append(-(-size // step) if padding == "SAME" else (size - reach) // step + 1)
    return area
