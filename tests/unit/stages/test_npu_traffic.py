"""What the operations of a command stream cost, counted on streams made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from kiln.plan.targets import load_target, target_names
from stages.vela.npu.operations import (
    SHRAM,
    BlockOperation,
    Dma,
    FeatureMap,
    Kernel,
    Kind,
    Layout,
    Operands,
    Operation,
    Output,
    Scale,
    Span,
    Stream,
    Weights,
)
from stages.vela.npu.stream import table_address
from stages.vela.npu.traffic import Cost, count
from tests.support.checkout import ROOT

FLASH, ARENA = 0, 1
PLAIN = Output(scale=None, rounding="tfl", least=-128, most=127, table=None, force_int8=False)


def feature_map(
    height: int, width: int, depth: int, *, region: int = ARENA, layout: Layout = "nhwc"
) -> FeatureMap:
    return FeatureMap(
        region=region,
        bases=(0x1000, 0, 0, 0),
        height0=height,
        height1=height,
        width0=width,
        height=height,
        width=width,
        depth=depth,
        stride_y=width * depth,
        stride_x=depth,
        stride_c=16,
        bits=8,
        signed=True,
        layout=layout,
        zero_point=0,
    )


def window(size: int, stride: int = 1, before: int = 0, after: int = 0) -> Kernel:
    return Kernel(
        height=size,
        width=size,
        stride_y=stride,
        stride_x=stride,
        dilation_y=1,
        dilation_x=1,
        top=before,
        left=before,
        bottom=after,
        right=after,
    )


def weights(region: int, address: int = 0, length: int = 100, channels: int = 8) -> Weights:
    """Biases and scales first, as Vela stores them."""
    return Weights(
        data=Span(region=region, address=address + 10 * channels, length=length),
        scales=Span(region=region, address=address, length=10 * channels),
        block_depth=8,
        part_kernel=False,
    )


def operation(index: int, kind: Kind, ifm: FeatureMap, ofm: FeatureMap) -> BlockOperation:
    return BlockOperation(
        index=index,
        kind=kind,
        ifm=ifm,
        ofm=ofm,
        upscale="none",
        kernel=None,
        weights=None,
        operands=None,
        output=PLAIN,
        block=(ofm.height, ofm.width, ofm.depth),
        accumulator_bits=32,
    )


def convolution(
    index: int, *, kernel: Kernel, block: tuple[int, int, int], held: Weights, side: int = 8
) -> BlockOperation:
    """Of 16 channels to 8; output and unpadded input are square."""
    source = (side - 1) * kernel.stride_y + kernel.height - kernel.top - kernel.bottom
    plain = operation(index, "conv", feature_map(source, source, 16), feature_map(side, side, 8))
    return dataclasses.replace(plain, kernel=kernel, weights=held, block=block)


def dma(index: int, *, address: int, length: int, region: int = ARENA) -> Dma:
    """From the flash to somewhere."""
    return Dma(
        index=index,
        source=Span(region=FLASH, address=0x8000, length=length),
        destination=Span(region=region, address=address, length=length),
    )


def counted(*operations: Operation, macs_per_cycle: int = 64) -> Sequence[Cost]:
    return count(Stream(macs_per_cycle=macs_per_cycle, operations=operations))


def test_a_convolution_in_one_block_reads_and_writes_each_byte_once() -> None:
    (cost,) = counted(
        convolution(0, kernel=window(3, 1, 1, 1), block=(8, 8, 8), held=weights(FLASH))
    )
    assert cost == Cost(
        serves=0,
        macs=8 * 8 * 8 * 9 * 16,
        blocks=1,
        floor_cycles=8 * 8 * 8 * 9 * 16 // 64,
        flash_bytes=100 + 80,
        sram_bytes=8 * 8 * 16 + 8 * 8 * 8,
    )


def test_each_block_in_the_plane_reads_the_weights_again_and_its_window() -> None:
    """Four blocks of 4x4: a window has 6x6, of which one row and one column are padding."""
    (cost,) = counted(
        convolution(0, kernel=window(3, 1, 1, 1), block=(4, 4, 8), held=weights(FLASH))
    )
    assert (cost.blocks, cost.flash_bytes) == (4, 4 * 100 + 80)
    assert cost.sram_bytes == 4 * 5 * 5 * 16 + 8 * 8 * 8


@pytest.mark.parametrize(("side", "block"), [(8, 3), (7, 2), (5, 8), (9, 1)])
@pytest.mark.parametrize(
    "kernel", [window(3, 2, 0, 1), window(3, 2, 1, 1), window(5, 1, 2, 2), window(1, 2), window(6)]
)
def test_windows_are_those_that_one_counts_one_by_one(
    side: int, block: int, kernel: Kernel
) -> None:
    each = convolution(0, kernel=kernel, block=(block, side, 8), held=weights(FLASH), side=side)
    rows = 0
    for first in range(0, side, block):
        last = min(first + block, side) - 1
        start = first * kernel.stride_y - kernel.top
        end = last * kernel.stride_y - kernel.top + kernel.height
        rows += min(end, each.ifm.height) - max(start, 0)
    (cost,) = counted(each)
    assert cost.sram_bytes == rows * each.ifm.width * 16 + side * side * 8


def test_channels_of_blocks_in_depth_read_the_input_again_but_for_single_channels() -> None:
    source = feature_map(4, 4, 32)
    pool = dataclasses.replace(
        operation(0, "max_pool", source, feature_map(4, 4, 32)),
        kernel=window(5, 1, 2, 2),
        block=(4, 4, 8),
    )
    depthwise = dataclasses.replace(pool, kind="depthwise", weights=weights(ARENA, channels=32))
    full = dataclasses.replace(depthwise, kind="conv")
    size = 4 * 4 * 32
    held = 100 + 320
    expected = [2 * size, 2 * size + held, 4 * size + size + held]
    assert [counted(each)[0].sram_bytes for each in (pool, depthwise, full)] == expected
    assert counted(depthwise)[0].macs == size * 25
    assert counted(full)[0].macs == size * 25 * 32


def test_bricks_are_moved_whole() -> None:
    source = feature_map(2, 2, 20, layout="nhcwb16")
    copy = dataclasses.replace(
        operation(0, "average_pool", source, feature_map(2, 2, 20)), kernel=window(1)
    )
    assert counted(copy)[0].sram_bytes == 2 * 2 * 32 + 2 * 2 * 20


def test_an_upscaled_input_is_read_once() -> None:
    source, target = feature_map(4, 4, 16), feature_map(8, 8, 16)
    resize = dataclasses.replace(
        operation(0, "average_pool", source, target), kernel=window(1), upscale="nearest"
    )
    assert counted(resize)[0].sram_bytes == 4 * 4 * 16 + 8 * 8 * 16


@pytest.mark.parametrize(
    ("second", "read"),
    [
        (feature_map(4, 4, 8), 2 * 128),
        (feature_map(1, 1, 8), 2 * 128),
        (feature_map(1, 1, 1), 128 + 1),
        (None, 128),
    ],
)
def test_an_elementwise_operation_reads_an_operand_for_each_result(
    second: FeatureMap | None, read: int
) -> None:
    unity = Scale(multiplier=1, shift=0)
    operands = Operands(
        ifm2=second, scalar=None if second else 3, zero_point=0, reversed=False, scaled=None,
        a=unity, b=unity,
    )  # fmt: skip
    each = operation(0, "add", feature_map(4, 4, 8), feature_map(4, 4, 8))
    (cost,) = counted(dataclasses.replace(each, operands=operands))
    assert (cost.macs, cost.sram_bytes) == (0, read + 128)


@pytest.mark.parametrize(("macs_per_cycle", "results"), [(32, 1), (64, 2), (128, 4), (256, 8)])
def test_the_floor_is_that_of_the_slower_of_array_and_output(
    macs_per_cycle: int, results: int
) -> None:
    add = operation(0, "add", feature_map(4, 4, 8), feature_map(4, 4, 8))
    large = convolution(1, kernel=window(3, 1, 1, 1), block=(8, 8, 8), held=weights(FLASH))
    floors = [each.floor_cycles for each in counted(add, large, macs_per_cycle=macs_per_cycle)]
    assert floors == [128 // results, 8 * 8 * 8 * 9 * 16 // macs_per_cycle]


def test_a_dma_is_for_the_next_operation_that_reads_what_it_wrote() -> None:
    first, second = (
        convolution(index, kernel=window(1), block=(8, 8, 8), held=weights(ARENA, address))
        for index, address in ((3, 0x200), (4, 0x100))
    )
    table = table_address(64) + 2 * 256
    shaped = dataclasses.replace(
        operation(5, "lrelu", feature_map(2, 2, 8), feature_map(2, 2, 8)),
        output=dataclasses.replace(PLAIN, table=2),
    )
    costs = counted(
        dma(0, address=0x100, length=192),
        dma(1, address=0x200, length=208),
        dma(2, address=table, length=256, region=SHRAM),
        first,
        second,
        shaped,
        dataclasses.replace(shaped, index=6),
        dma(7, address=0x300, length=64),
    )
    assert [each.serves for each in costs] == [4, 3, 5, 3, 4, 5, 6, None]
    assert [each.flash_bytes for each in costs] == [192, 208, 256, 0, 0, 0, 0, 64]
    assert [each.sram_bytes for each in costs][:3] == [192, 208, 0]


def test_what_is_written_over_before_it_is_read_serves_nobody() -> None:
    held = convolution(2, kernel=window(1), block=(8, 8, 8), held=weights(ARENA, 0x100))
    costs = counted(dma(0, address=0x100, length=9), dma(1, address=0x100, length=9), held)
    assert [each.serves for each in costs] == [None, 2, 2]


@pytest.mark.parametrize("name", target_names(ROOT / "targets"))
def test_every_board_keeps_constants_in_the_flash_and_the_arena_in_sram(name: str) -> None:
    vela = load_target(ROOT / "targets", name).vela
    if vela is None:
        return
    system = vela.ini[f"System_Config.{vela.system_config}"]
    mode = vela.ini[f"Memory_Mode.{vela.memory_mode}"]
    places = [system[f"{mode[f'{part}_mem_area'].lower()}_port"] for part in ("const", "arena")]
    assert places == ["OffChipFlash", "Sram"]
