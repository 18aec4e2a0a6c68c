"""Models of what multiplies with weights, of pooling and of reductions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.support.operators.model import OperatorModel, model
from tests.support.operators.net import Net, Value


def _max(net: Net, x: Value, kernel: tuple[int, int], **options: Any) -> Value:
    return net.pool("MAX_POOL_2D", x, kernel, **options)


def _average(net: Net, x: Value, kernel: tuple[int, int], **options: Any) -> Value:
    return net.pool("AVERAGE_POOL_2D", x, kernel, **options)


def _sparse(net: Net, x: Value, zeros: float) -> Value:
    """A convolution most of whose weights are zero; if all would be, they are all 3 instead."""
    made = net.conv(x, 17)
    kernel = next(value for value in net.values if value.data is not None)
    assert kernel.data is not None
    kernel.data[net.random.random(kernel.shape) < zeros] = 3 if zeros == 1 else 0
    return made


def _rescaled(net: Net, made: Value, factor: float) -> Value:
    """A convolution whose output has not the scale that fits."""
    for number in range(made.index + 1, len(net.values)):
        value = net.values[number]
        scales = tuple(scale * factor for scale in value.scales)
        net.values[number] = dataclasses.replace(value, scales=scales)
    return made


def _tiny_weights(net: Net, x: Value) -> Value:
    """A convolution whose sums are made larger, by a factor of more than one."""
    made = net.conv(x, 9, (1, 1))
    for value in net.values[made.index + 1 :]:
        most = 1 if value.dtype == "int8" else 20
        assert value.data is not None
        value.data[:] = net.random.integers(-most, most + 1, value.shape)
    return _rescaled(net, made, 190.0)


def _strided_and_dilated(net: Net, x: Value) -> Value:
    return net.conv(x, 8, stride=(2, 2), dilation=(2, 2))


def _folded(net: Net, x: Value) -> Value:
    """What Vela 4.5 makes of the convolution above: another one.

    It lays two columns of the first convolution's image side by side as channels, and so halves the
    stride and the width of the kernel, but keeps the dilation as it is (tflite_graph_optimiser.py,
    fixup_strided_conv, does not look at it).
    """
    made = _strided_and_dilated(net, x)
    shape = (1, 33, 8, 6)
    pairs = net.same("RESHAPE", [x, net.constant(shape)], shape, {"newShape": shape})
    convolution, reshape = net.calls
    kernel = net.values[convolution.inputs[1]]
    assert kernel.data is not None
    weights = np.pad(kernel.data, ((0, 0), (0, 0), (0, 1), (0, 0))).reshape(8, 3, 2, 6)
    net.values[kernel.index] = dataclasses.replace(kernel, data=weights, shape=weights.shape)
    inputs = (pairs.index, *convolution.inputs[1:])
    options = {**convolution.options, "strideW": 1}
    net.calls = [reshape, dataclasses.replace(convolution, inputs=inputs, options=options)]
    return made


def _mean(
    net: Net, x: Value, axes: tuple[int, ...], *, keep: bool = True, same: bool = False
) -> Value:
    kept = [1 if number in axes else size for number, size in enumerate(x.shape)]
    dropped = [size for number, size in enumerate(x.shape) if number not in axes]
    factor = 1.0 if same else 0.6
    quantisation = {"scale": x.scale * factor, "zero_point": round(x.zero_point / factor)}
    inputs = [x, net.constant(axes)]
    shape = kept if keep else dropped
    return net.call("MEAN", inputs, shape, options={"keepDims": keep}, **quantisation)


def _argmax(net: Net, x: Value) -> Value:
    options = {"outputType": 2}  # int32
    inputs = [x, net.constant([len(x.shape) - 1])]
    return net.call("ARG_MAX", inputs, x.shape[:-1], options=options, dtype="int32", scale=1.0)


_CONVOLUTIONS = {
    "conv-1x1": model(1, 16, 16, 3, build=lambda n, x: n.conv(x, 8, (1, 1))),
    "conv-1x1-deep": model(1, 5, 7, 100, build=lambda n, x: n.conv(x, 33, (1, 1))),
    "conv-1x1-wide": model(1, 7, 7, 17, build=lambda n, x: n.conv(x, 200, (1, 1))),
    "conv-1x1-one-pixel": model(1, 1, 1, 64, build=lambda n, x: n.conv(x, 15, (1, 1))),
    "conv-1x1-stride-2": model(
        1, 7, 7, 8, build=lambda n, x: n.conv(x, 5, (1, 1), stride=(2, 2), padding="VALID")
    ),
    "conv-1x1-one-channel": model(1, 33, 33, 1, build=lambda n, x: n.conv(x, 1, (1, 1))),
    "conv-3x3": model(1, 16, 16, 16, build=lambda n, x: n.conv(x, 16)),
    "conv-3x3-image": model(1, 33, 33, 3, build=lambda n, x: n.conv(x, 16, stride=(2, 2))),
    "conv-3x3-valid": model(1, 7, 5, 5, build=lambda n, x: n.conv(x, 8, padding="VALID")),
    "conv-3x3-deep": model(1, 5, 5, 64, build=lambda n, x: n.conv(x, 100)),
    "conv-3x3-relu": model(1, 7, 16, 15, build=lambda n, x: n.conv(x, 17, activation="RELU")),
    "conv-3x3-relu6": model(1, 16, 7, 33, build=lambda n, x: n.conv(x, 3, activation="RELU6")),
    "conv-3x3-relu-n1-to-1": model(
        1, 5, 5, 8, build=lambda n, x: n.conv(x, 8, activation="RELU_N1_TO_1")
    ),
    "conv-3x3-per-tensor": model(
        1, 16, 16, 17, build=lambda n, x: n.conv(x, 33, per_channel=False)
    ),
    "conv-3x3-stride-3": model(1, 16, 16, 8, build=lambda n, x: n.conv(x, 15, stride=(3, 3))),
    "conv-3x3-strides-2-1": model(
        1, 16, 7, 5, build=lambda n, x: n.conv(x, 16, stride=(2, 1), padding="VALID")
    ),
    "conv-3x3-strides-1-3": model(1, 7, 33, 3, build=lambda n, x: n.conv(x, 8, stride=(1, 3))),
    "conv-3x3-dilated": model(1, 16, 16, 8, build=lambda n, x: n.conv(x, 16, dilation=(2, 2))),
    "conv-3x3-dilated-3-1": model(
        1, 16, 16, 5, build=lambda n, x: n.conv(x, 8, dilation=(3, 1), padding="VALID")
    ),
    "conv-3x3-dilated-stride": model(
        1, 33, 16, 5, build=lambda n, x: n.conv(x, 8, stride=(2, 2), dilation=(2, 2))
    ),
    "conv-3x3-dilated-stride-image": model(
        1, 33, 16, 3, build=_strided_and_dilated, compiled_as=_folded
    ),
    "conv-5x5": model(1, 16, 16, 3, build=lambda n, x: n.conv(x, 15, (5, 5))),
    "conv-5x5-stride-2-valid": model(
        1, 33, 33, 15, build=lambda n, x: n.conv(x, 17, (5, 5), stride=(2, 2), padding="VALID")
    ),
    "conv-6x6-stride-2": model(
        1, 32, 32, 3, build=lambda n, x: n.conv(x, 16, (6, 6), stride=(2, 2))
    ),
    "conv-7x1": model(1, 16, 5, 8, build=lambda n, x: n.conv(x, 8, (7, 1))),
    "conv-1x7": model(1, 5, 16, 17, build=lambda n, x: n.conv(x, 5, (1, 7))),
    "conv-4x2": model(1, 7, 7, 16, build=lambda n, x: n.conv(x, 16, (4, 2))),
    "conv-kernel-beyond-the-image": model(1, 2, 2, 16, build=lambda n, x: n.conv(x, 8, (5, 5))),
    "conv-stride-4": model(
        1, 8, 8, 3, build=lambda n, x: n.conv(x, 8, (1, 4), stride=(1, 4), padding="VALID")
    ),
    "conv-long": model(1, 1, 700, 4, build=lambda n, x: n.conv(x, 8, (1, 5), stride=(1, 2))),
    "conv-weights-of-one-value": model(1, 5, 5, 16, build=lambda n, x: _sparse(n, x, 1.0)),
    "conv-weights-mostly-zero": model(1, 5, 5, 33, build=lambda n, x: _sparse(n, x, 0.9)),
    "conv-saturated": model(1, 7, 7, 8, build=lambda n, x: _rescaled(n, n.conv(x, 9), 40.0)),
    "conv-scale-above-one": model(1, 7, 7, 1, build=_tiny_weights),
    "conv-small-scale": model(1, 7, 7, 64, build=lambda n, x: _rescaled(n, n.conv(x, 9), 2.0**-6)),
}

_DEPTHWISE = {
    "depthwise-3x3": model(1, 16, 16, 16, build=lambda n, x: n.depthwise(x)),
    "depthwise-3x3-odd": model(1, 7, 33, 17, build=lambda n, x: n.depthwise(x)),
    "depthwise-stride-2": model(1, 33, 16, 33, build=lambda n, x: n.depthwise(x, stride=(2, 2))),
    "depthwise-stride-3-valid": model(
        1, 16, 16, 8, build=lambda n, x: n.depthwise(x, stride=(3, 3), padding="VALID")
    ),
    "depthwise-5x5-relu6": model(
        1, 7, 7, 100, build=lambda n, x: n.depthwise(x, (5, 5), activation="RELU6")
    ),
    "depthwise-dilated": model(1, 16, 16, 5, build=lambda n, x: n.depthwise(x, dilation=(2, 2))),
    "depthwise-7x1": model(1, 16, 2, 3, build=lambda n, x: n.depthwise(x, (7, 1))),
    "depthwise-multiplier-8": model(1, 16, 16, 1, build=lambda n, x: n.depthwise(x, multiplier=8)),
    "depthwise-multiplier-17": model(
        1, 7, 7, 1, build=lambda n, x: n.depthwise(x, multiplier=17, stride=(2, 2))
    ),
    "depthwise-per-tensor": model(
        1, 5, 5, 64, build=lambda n, x: n.depthwise(x, per_channel=False, activation="RELU")
    ),
    "depthwise-1x1": model(1, 5, 5, 15, build=lambda n, x: n.depthwise(x, (1, 1))),
}

_PRODUCTS = {
    "fully-connected": model(1, 64, build=lambda n, x: n.fully_connected(x, 10)),
    "fully-connected-odd": model(1, 33, build=lambda n, x: n.fully_connected(x, 17)),
    "fully-connected-relu": model(
        1, 100, build=lambda n, x: n.fully_connected(x, 64, activation="RELU")
    ),
    "fully-connected-one": model(1, 5, build=lambda n, x: n.fully_connected(x, 1)),
    "fully-connected-rows": model(8, 15, build=lambda n, x: n.fully_connected(x, 33)),
    "fully-connected-long": model(1, 2000, build=lambda n, x: n.fully_connected(x, 100)),
    "transpose-conv-2x2": model(
        1, 5, 5, 16, build=lambda n, x: n.transpose_conv(x, 8, (2, 2), (2, 2), "VALID")
    ),
    "transpose-conv-3x3-same": model(
        1, 7, 7, 8, build=lambda n, x: n.transpose_conv(x, 5, (3, 3), (2, 2), "SAME")
    ),
    "transpose-conv-4x4-same": model(
        1, 7, 5, 3, build=lambda n, x: n.transpose_conv(x, 17, (4, 4), (2, 2), "SAME")
    ),
    "transpose-conv-3x3-valid": model(
        1, 5, 7, 15, build=lambda n, x: n.transpose_conv(x, 16, (3, 3), (2, 2), "VALID")
    ),
    "transpose-conv-stride-1": model(
        1, 7, 7, 16, build=lambda n, x: n.transpose_conv(x, 8, (3, 3), (1, 1), "SAME")
    ),
}

_POOLS = {
    "max-pool-2x2": model(1, 16, 16, 16, build=lambda n, x: _max(n, x, (2, 2), stride=(2, 2))),
    "max-pool-3x3-same": model(1, 7, 7, 17, build=lambda n, x: _max(n, x, (3, 3))),
    "max-pool-5x5-same": model(1, 5, 7, 64, build=lambda n, x: _max(n, x, (5, 5))),
    "max-pool-stride-3": model(
        1, 33, 16, 5, build=lambda n, x: _max(n, x, (3, 3), stride=(3, 3), padding="VALID")
    ),
    "max-pool-whole": model(
        1, 16, 16, 33, build=lambda n, x: _max(n, x, (16, 16), padding="VALID")
    ),
    "max-pool-relu": model(
        1, 7, 7, 8, build=lambda n, x: _max(n, x, (2, 2), activation="RELU", padding="VALID")
    ),
    "average-pool-2x2": model(
        1, 16, 16, 8, build=lambda n, x: _average(n, x, (2, 2), stride=(2, 2), padding="VALID")
    ),
    "average-pool-3x3-valid": model(
        1, 7, 7, 17, build=lambda n, x: _average(n, x, (3, 3), padding="VALID")
    ),
    "average-pool-3x3-same": model(1, 7, 7, 15, build=lambda n, x: _average(n, x, (3, 3))),
    "average-pool-3x3-same-stride-2": model(
        1, 16, 33, 5, build=lambda n, x: _average(n, x, (3, 3), stride=(2, 2))
    ),
    "average-pool-7x5-same": model(1, 16, 7, 3, build=lambda n, x: _average(n, x, (7, 5))),
    "average-pool-whole": model(
        1, 7, 7, 100, build=lambda n, x: _average(n, x, (7, 7), padding="VALID")
    ),
    "average-pool-relu6": model(
        1, 5, 5, 16, build=lambda n, x: _average(n, x, (3, 3), activation="RELU6", padding="VALID")
    ),
    "average-pool-stride-4": model(
        1, 5, 16, 1, build=lambda n, x: _average(n, x, (2, 4), stride=(1, 4), padding="VALID")
    ),
    "average-pool-stride-4-of-8": model(
        *(1, 5, 16, 8),
        build=lambda n, x: _average(n, x, (2, 4), stride=(1, 4), padding="VALID"),
        # Vela 4.5 makes a convolution of it, with weights for a single channel
        # (convert_avg_pool_to_conv2d): the NPU would read on beyond them.
        refused="there are 256 weights where 1024 are needed",
    ),
    "average-pool-1x1": model(1, 5, 5, 33, build=lambda n, x: _average(n, x, (1, 1))),
}

_REDUCTIONS = {
    "mean-height-width": model(1, 7, 7, 33, build=lambda n, x: _mean(n, x, (1, 2))),
    "mean-height-width-large": model(1, 33, 33, 5, build=lambda n, x: _mean(n, x, (1, 2))),
    "mean-tall": model(1, 100, 20, 3, build=lambda n, x: _mean(n, x, (1, 2))),
    "mean-of-many": model(1, 90, 70, 3, build=lambda n, x: _mean(n, x, (1, 2))),
    "mean-flat": model(1, 16, 16, 64, build=lambda n, x: _mean(n, x, (1, 2), keep=False)),
    "mean-height": model(1, 16, 5, 8, build=lambda n, x: _mean(n, x, (1,))),
    "mean-width": model(1, 5, 16, 17, build=lambda n, x: _mean(n, x, (2,))),
    "mean-depth": model(1, 1, 16, 17, build=lambda n, x: _mean(n, x, (3,))),
    "mean-same-scale": model(1, 5, 7, 16, build=lambda n, x: _mean(n, x, (1, 2), same=True)),
    "mean-of-one": model(
        *(1, 21, 1, 17),
        build=lambda n, x: _mean(n, x, (2,)),
        # It is a copy to Vela 4.5, whatever the scales (convert_mean_to_depthwise_conv).
        compiled_as=lambda n, x: _mean(n, x, (2,), same=True),
    ),
    "argmax": model(1, 7, 7, 10, build=_argmax),
    "argmax-flat": model(1, 100, build=_argmax),
}


PRODUCTS: Mapping[str, OperatorModel] = {
    **_CONVOLUTIONS,
    **_DEPTHWISE,
    **_PRODUCTS,
    **_POOLS,
    **_REDUCTIONS,
}
