"""What a command stream does, as data: DMA transfers and block operations in their order."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal[
    "conv", "depthwise",
    "max_pool", "average_pool", "reduce_sum",
    "mul", "add", "sub", "min", "max", "lrelu", "abs", "clz", "shr", "shl",
]  # fmt: skip
Rounding = Literal["tfl", "truncate", "natural"]
Upscale = Literal["none", "nearest", "transpose"]

#: How channels lie in memory: next to each other, or in bricks of 16 that have planes of their own.
Layout = Literal["nhwc", "nhcwb16"]
BRICK = 16
#: The NPU's own memory as a place that a DMA writes to (Vela: BASE_PTR_INDEX_MEM2MEM).
SHRAM = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """``length`` bytes of a region from ``address`` on; the region is that of the driver's base
    pointers (0 constants in flash, 1 scratch, 2 fast scratch), or ``SHRAM``."""

    region: int
    address: int
    length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """Where a tensor [height, width, depth] lies, and how its integers are stored.

    It has up to four tiles: ``bases`` of top left, top right, bottom left, bottom right; the left
    ones are ``width0`` wide, the tops ``height0`` (left) and ``height1`` (right) high. Strides are
    in bytes; ``stride_c`` is that between bricks.
    """

    region: int
    bases: tuple[int, int, int, int]
    height0: int
    height1: int
    width0: int
    height: int
    width: int
    depth: int
    stride_y: int
    stride_x: int
    stride_c: int
    bits: Literal[8, 16, 32]
    signed: bool
    layout: Layout
    zero_point: int

    @property
    def elements(self) -> int:
        return self.height * self.width * self.depth

    @property
    def nbytes(self) -> int:
        """Bytes of its values, without padding of bricks."""
        return self.elements * self.bits // 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A window over the input: elements, strides and dilations in both directions, padding."""

    height: int
    width: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def elements(self) -> int:
        return self.height * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """A factor ``multiplier / 2**shift``."""

    multiplier: int
    shift: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Compressed weights of a convolution, and 10 bytes of bias and scale for each channel.

    ``block_depth`` (output channels of a block) and ``part_kernel`` give the order of the weights.
    """

    data: Span
    scales: Span
    block_depth: int
    part_kernel: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operands:
    """The second operand of an elementwise operation, and how both are scaled before it.

    ``ifm2`` is None for a ``scalar`` and for operations with one operand. ``scaled``: which operand
    alone is scaled by 32 bits; None if both are, by 16. ``reversed``: the first is `ifm2`.
    """

    ifm2: FeatureMap | None
    scalar: int | None
    zero_point: int
    reversed: bool
    scaled: Literal["a", "b"] | None
    a: Scale
    b: Scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What happens to the sums: scale (None: one for each channel, or none), rounding, limits, and
    the number of a table in SHRAM that is applied last. ``force_int8``: the limits before the table
    are those of int8 whatever the output's type is."""

    scale: Scale | None
    rounding: Rounding
    least: int
    most: int
    table: int | None
    force_int8: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dma:
    """Copy ``source`` to ``destination``, a span of the same length."""

    index: int
    source: Span
    destination: Span


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOperation:
    """One operation of the MAC array or the elementwise unit. ``block``: height, width and depth of
    the part of the output that is computed at a time."""

    index: int
    kind: Kind
    ifm: FeatureMap
    ofm: FeatureMap
    upscale: Upscale
    kernel: Kernel | None
    weights: Weights | None
    operands: Operands | None
    output: Output
    block: tuple[int, int, int]
    accumulator_bits: Literal[32, 40]

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 for elementwise operations."""
        if self.kind == "conv" and self.kernel is not None:
            return self.ofm.elements * self.kernel.elements * self.ifm.depth
        if self.kind == "reduce_sum":
            return self.ofm.height * self.ofm.width * self.ifm.depth
        return 0 if self.kernel is None else self.ofm.elements * self.kernel.elements


Operation = Dma | BlockOperation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """A decoded payload: the multiply-accumulates a cycle of the NPU that it is for, and what it
    does."""

    macs_per_cycle: int
    operations: tuple[Operation, ...]
