"""Models that move values: resizing, cutting, joining; and networks of several operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.operators.model import OperatorModel, model
from tests.support.operators.net import Call, Net, Value


def _resize(name: str, *shape: int, size: tuple[int, int], **options: bool) -> OperatorModel:
    def build(net: Net, x: Value) -> Value:
        inputs = [x, net.constant(size)]
        return net.same(name, inputs, (1, *size, x.shape[3]), options)

    return model(*shape, build=build)


def _concatenation(axis: int, *, shape: Sequence[int]) -> OperatorModel:
    """The input, its maxima, and the input again, one after the other."""

    def build(net: Net, x: Value) -> Value:
        pooled = net.pool("MAX_POOL_2D", x, (3, 3))
        return _joined(net, [x, pooled, x], axis)

    return model(*shape, build=build)


def _uneven(net: Net, x: Value) -> Value:
    """Parts of 3, 17 and 40 channels."""
    parts = [
        net.call("QUANTIZE", [made], made.shape, scale=x.scale, zero_point=x.zero_point)
        for made in (net.conv(x, 3, (1, 1)), net.conv(x, 40))
    ]
    return _joined(net, [parts[0], x, parts[1]], 3)


def _joined(net: Net, parts: Sequence[Value], axis: int) -> Value:
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return net.same("CONCATENATION", parts, shape, {"axis": axis})


def _cut(
    shape: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    strides: Sequence[int] = (1, 1, 1, 1),
) -> OperatorModel:
    def build(net: Net, x: Value) -> Value:
        inputs = [x, *(net.constant(each) for each in (begin, end, strides))]
        sizes = [
            -(-(stop - start) // step)
            for start, stop, step in zip(begin, end, strides, strict=True)
        ]
        return net.same("STRIDED_SLICE", inputs, sizes)

    return model(*shape, build=build)


def _padded(
    name: str, shape: Sequence[int], around: Sequence[tuple[int, int]], **options: int
) -> OperatorModel:
    def build(net: Net, x: Value) -> Value:
        sizes = [size + sum(pair) for size, pair in zip(x.shape, around, strict=True)]
        return net.same(name, [x, net.constant(around)], sizes, options)

    return model(*shape, build=build)


def _transposed(shape: Sequence[int], order: Sequence[int]) -> OperatorModel:
    def build(net: Net, x: Value) -> Value:
        return net.same("TRANSPOSE", [x, net.constant(order)], [x.shape[axis] for axis in order])

    return model(*shape, build=build)


def _reshaped(net: Net, x: Value, *shape: int) -> Value:
    return net.same("RESHAPE", [x, net.constant(shape)], shape, {"newShape": list(shape)})


def _split_sizes(net: Net, x: Value) -> list[Value]:
    sizes = (3, 17, 13)
    parts = [net.same("QUANTIZE", [x], (*x.shape[:3], size)) for size in sizes]
    inputs = (x.index, net.constant(sizes).index, net.constant(3).index)
    outputs = tuple(part.index for part in parts)
    net.calls = [Call(name="SPLIT_V", inputs=inputs, outputs=outputs, options={"numSplits": 3})]
    return parts


def _squeezed(net: Net, x: Value) -> Value:
    pooled = net.pool("MAX_POOL_2D", x, (3, 1))
    return net.same("SQUEEZE", [pooled], (1, 7, 33), {"squeezeDims": [2]})


def _slice(net: Net, x: Value) -> Value:
    begin, sizes = (0, 2, 1, 3), (1, 3, 5, 9)
    return net.same("SLICE", [x, net.constant(begin), net.constant(sizes)], sizes)


def _pack(net: Net, x: Value) -> Value:
    flat = _reshaped(net, x, 7, 17)
    pooled = _reshaped(net, net.pool("MAX_POOL_2D", x, (1, 3)), 7, 17)
    return net.same("PACK", [flat, pooled], (2, 7, 17), {"valuesCount": 2, "axis": 0})


def _silu(net: Net, x: Value, width: int, kernel: tuple[int, int] = (3, 3), **rest: Any) -> Value:
    made = net.conv(x, width, kernel, **rest)
    gate = net.call("LOGISTIC", [made], made.shape, scale=1 / 256, zero_point=-128)
    return net.elementwise("MUL", made, gate)


def _bottleneck(net: Net, x: Value) -> Value:
    inner = _silu(net, _silu(net, x, 8), 16)
    return net.elementwise("ADD", x, inner)


def _split_halves(net: Net, x: Value) -> Value:
    first, second = net.split(_silu(net, x, 32, (1, 1)), 2, 3)
    return net.conv(_joined(net, [first, second, _matched(net, first, second)], 3), 17, (1, 1))


def _matched(net: Net, like: Value, x: Value) -> Value:
    """A convolution of x on the scale of another tensor."""
    made = net.conv(x, 16)
    return net.call("QUANTIZE", [made], made.shape, scale=like.scale, zero_point=like.zero_point)


def _upsampled(net: Net, x: Value) -> Value:
    small = net.conv(x, 8, stride=(2, 2))
    size = (small.shape[1] * 2, small.shape[2] * 2)
    inputs = [small, net.constant(size)]
    large = net.same("RESIZE_NEAREST_NEIGHBOR", inputs, (1, *size, 8))
    same = net.call(
        "QUANTIZE", [net.conv(x, 8)], large.shape, scale=large.scale, zero_point=large.zero_point
    )
    return net.conv(_joined(net, [large, same], 3), 16, (1, 1))


def _heads(net: Net, x: Value) -> list[Value]:
    features = net.conv(x, 16, stride=(2, 2), activation="RELU")
    return [_reshaped(net, net.conv(features, width, (1, 1)), 1, 64, width) for width in (64, 1)]


def _cascade(net: Net, x: Value) -> Value:
    """Maps too large for the arena, so that Vela computes them in stripes that overlap."""
    made = net.conv(x, 16, stride=(1, 1), activation="RELU")
    made = net.depthwise(made, activation="RELU6")
    return net.conv(net.conv(made, 24, (5, 5)), 8, stride=(2, 2))


def _stripes_of_stride_3(net: Net, x: Value) -> Value:
    """Vela 4.5 asks for a stripe of the first convolution before it is needed, into a buffer that
    has no room for it yet (transform_with_strides_and_skirt adds a whole stride at the end). Vela
    5.2 computes it one operation later, into the same buffer."""
    return net.depthwise(net.conv(x, 8, (1, 3)), stride=(3, 3))


def _classifier(net: Net, x: Value) -> Value:
    made = net.conv(x, 33, stride=(2, 2), activation="RELU6")
    sums = net.call("MEAN", [made, net.constant((1, 2))], (1, 33), options={"keepDims": False})
    logits = net.fully_connected(sums, 10)
    options = {"beta": 1.0}
    return net.call("SOFTMAX", [logits], (1, 10), options=options, scale=1 / 256, zero_point=-128)


def _transposed_between(net: Net, x: Value) -> Value:
    made = net.conv(x, 8)
    order = net.constant((0, 3, 1, 2))
    return net.conv(net.same("TRANSPOSE", [made, order], (1, 8, 7, 5)), 9, (1, 1))


def _tripled(net: Net, x: Value) -> Value:
    made = net.conv(x, 8, activation="RELU6")
    inputs = [made, net.constant((15, 21))]
    large = net.same("RESIZE_NEAREST_NEIGHBOR", inputs, (1, 15, 21, 8))
    return net.pool("MAX_POOL_2D", large, (3, 3), stride=(2, 2))


SHAPES: Mapping[str, OperatorModel] = {
    "resize-nearest-2x": _resize("RESIZE_NEAREST_NEIGHBOR", 1, 7, 5, 17, size=(14, 10)),
    "resize-nearest-4x": _resize("RESIZE_NEAREST_NEIGHBOR", 1, 5, 5, 8, size=(20, 20)),
    "resize-nearest-corners": _resize(
        "RESIZE_NEAREST_NEIGHBOR", 1, 5, 5, 8, size=(9, 9), alignCorners=True
    ),
    "resize-nearest-half-pixels": _resize(
        "RESIZE_NEAREST_NEIGHBOR", 1, 5, 7, 16, size=(10, 14), halfPixelCenters=True
    ),
    "resize-nearest-one-pixel": _resize("RESIZE_NEAREST_NEIGHBOR", 1, 1, 1, 33, size=(7, 5)),
    "resize-bilinear-2x": _resize("RESIZE_BILINEAR", 1, 7, 5, 17, size=(14, 10)),
    "resize-bilinear-4x": _resize("RESIZE_BILINEAR", 1, 5, 5, 8, size=(20, 20)),
    "resize-bilinear-8x": _resize("RESIZE_BILINEAR", 1, 3, 3, 5, size=(24, 24)),
    "resize-bilinear-corners": _resize(
        "RESIZE_BILINEAR", 1, 5, 5, 8, size=(9, 9), alignCorners=True
    ),
    "resize-bilinear-corners-8x": _resize(
        "RESIZE_BILINEAR", 1, 3, 4, 17, size=(17, 25), alignCorners=True
    ),
    "resize-nearest-8x": _resize("RESIZE_NEAREST_NEIGHBOR", 1, 2, 3, 5, size=(16, 24)),
    "resize-bilinear-half-pixels": _resize(
        "RESIZE_BILINEAR", 1, 5, 7, 16, size=(10, 14), halfPixelCenters=True
    ),
    "resize-bilinear-one-pixel": _resize("RESIZE_BILINEAR", 1, 1, 1, 33, size=(5, 7)),
    "concatenation-depth": _concatenation(3, shape=(1, 5, 7, 17)),
    "concatenation-depth-bricks": _concatenation(3, shape=(1, 7, 7, 16)),
    "concatenation-uneven": model(1, 5, 7, 17, build=_uneven),
    "concatenation-height": _concatenation(1, shape=(1, 5, 7, 8)),
    "concatenation-width": _concatenation(2, shape=(1, 5, 7, 33)),
    "split-depth": model(1, 7, 5, 33, build=lambda n, x: n.split(x, 3, 3)),
    "split-sizes": model(1, 7, 5, 33, build=_split_sizes),
    "squeeze": model(1, 7, 1, 33, build=_squeezed),
    "split-height": model(1, 16, 5, 5, build=lambda n, x: n.split(x, 2, 1)),
    "strided-slice": _cut((1, 16, 7, 17), (0, 3, 1, 2), (1, 11, 6, 15)),
    "strided-slice-steps": _cut((1, 16, 16, 5), (0, 1, 0, 0), (1, 16, 16, 5), (1, 2, 3, 1)),
    "slice": model(1, 7, 7, 17, build=_slice),
    "pad": _padded("PAD", (1, 7, 5, 17), ((0, 0), (1, 2), (3, 0), (0, 0))),
    "pad-depth": _padded("PAD", (1, 5, 5, 15), ((0, 0), (0, 0), (1, 1), (2, 3))),
    "mirror-pad": _padded("MIRROR_PAD", (1, 7, 5, 8), ((0, 0), (2, 1), (1, 2), (0, 0)), mode=0),
    "mirror-pad-symmetric": _padded(
        "MIRROR_PAD", (1, 5, 5, 3), ((0, 0), (1, 1), (2, 2), (0, 0)), mode=1
    ),
    "reshape": model(1, 5, 7, 16, build=lambda n, x: _reshaped(n, x, 1, 35, 16)),
    "reshape-depth": model(1, 6, 6, 8, build=lambda n, x: _reshaped(n, x, 1, 2, 9, 16)),
    "transpose-width-height": _transposed((1, 5, 7, 17), (0, 2, 1, 3)),
    "transpose-width-depth": _transposed((1, 1, 7, 33), (0, 1, 3, 2)),
    "transpose-flat": _transposed((7, 17), (1, 0)),
    "pack": model(1, 7, 17, 1, build=_pack),
    "unpack": model(1, 3, 7, 17, build=lambda n, x: n.unpack(x, 1)),
}

SEVERAL: Mapping[str, OperatorModel] = {
    "silu": model(1, 16, 16, 3, build=lambda n, x: _silu(n, x, 16)),
    "silu-stride-2": model(1, 33, 33, 3, build=lambda n, x: _silu(n, x, 17, stride=(2, 2))),
    "bottleneck": model(1, 16, 16, 16, build=_bottleneck),
    "split-halves": model(1, 7, 7, 16, build=_split_halves),
    "upsampled": model(1, 16, 16, 16, build=_upsampled),
    "heads": model(1, 16, 16, 8, build=_heads),
    "pools-in-a-row": model(
        1,
        *(6, 6, 32),
        build=lambda n, x: _joined(
            n, [x, y := n.pool("MAX_POOL_2D", x, (5, 5)), n.pool("MAX_POOL_2D", y, (5, 5))], 3
        ),
    ),
    "bottleneck-in-little-memory": model(1, 16, 16, 16, build=_bottleneck, arena_kib=10),
    "upsampled-in-little-memory": model(1, 16, 16, 16, build=_upsampled, arena_kib=4),
    "cascade-in-little-memory": model(1, 48, 48, 3, build=_cascade, arena_kib=4),
    "cascade": model(1, 48, 48, 3, build=_cascade, arena_kib=40),
    "stripes-of-stride-3": model(
        1, 40, 40, 8, build=_stripes_of_stride_3, arena_kib=4, overwritten=True
    ),
    "classifier": model(1, 33, 33, 3, build=_classifier),
    "pad-then-conv": model(
        1,
        *(15, 15, 3),
        build=lambda n, x: n.conv(
            n.same("PAD", [x, n.constant(((0, 0), (1, 1), (1, 1), (0, 0)))], (1, 17, 17, 3)),
            *(8, (3, 3)),
            stride=(2, 2),
            padding="VALID",
        ),
    ),
}


def _pooled_twice(net: Net, x: Value) -> Value:
    made = net.pool("AVERAGE_POOL_2D", x, (9, 9))
    return net.pool("MAX_POOL_2D", made, (2, 2), stride=(2, 2))


#: Vela leaves some of their operators to the CPU.
MIXED: Mapping[str, OperatorModel] = {
    "transposed-between": model(1, 7, 5, 3, build=_transposed_between, cpu=("TRANSPOSE",)),
    "tripled": model(1, 5, 7, 3, build=_tripled, cpu=("RESIZE_NEAREST_NEIGHBOR",)),
    "depthwise-multiplier-2-of-3": model(
        1,
        *(7, 7, 3),
        build=lambda n, x: n.conv(n.depthwise(x, multiplier=2), 5, (1, 1)),
        cpu=("DEPTHWISE_CONV_2D",),
    ),
    "pooled-twice": model(1, 600, 600, 1, build=_pooled_twice, cpu=("AVERAGE_POOL_2D",)),
}
