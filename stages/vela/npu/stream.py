"""Decodes the payload that an NPU operator gives to the driver.

Sources, ethos-u-vela 4.5.0: driver_actions.py (the payload), register_command_stream_generator.py
(what each register means; the functions are named below).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from stages.vela.npu.errors import NpuError
from stages.vela.npu.operations import (
    SHRAM,
    BlockOperation,
    Dma,
    FeatureMap,
    Kernel,
    Kind,
    Operands,
    Operation,
    Output,
    Rounding,
    Scale,
    Span,
    Stream,
    Upscale,
    Weights,
)
from stages.vela.npu.payload import accelerator_of, read_payload
from stages.vela.npu.register_file import RegisterFile
from stages.vela.npu.registers import (
    CODE_MASK,
    NO_PAYLOAD,
    ONE_WORD,
    PAYLOAD_MASK,
    Long,
    Op,
    Short,
)

#: Places for the tables that operations apply to their results, and the bytes of each.
TABLES, TABLE_BYTES = 8, 256
_SHRAM_KIB = {32: 16, 64: 16, 128: 24, 256: 48}

_POOLS: tuple[Kind, ...] = ("max_pool", "average_pool", "reduce_sum")
_ELEMENTWISE: tuple[Kind, ...] = (
    "mul", "add", "sub", "min", "max", "lrelu", "abs", "clz", "shr", "shl"
)  # fmt: skip
UNARY: frozenset[Kind] = frozenset(("lrelu", "abs", "clz"))
_ROUNDINGS: tuple[Rounding, ...] = ("tfl", "truncate", "natural")
_UPSCALES: tuple[Upscale, ...] = ("none", "nearest", "transpose")
_BITS = (8, 16, 32)
_ACCUMULATORS = (32, 40)
_CLIP_INT8 = 3
#: A hundred times what yolov8n has.
_MOST_OPERATIONS = 1 << 16
#: Activations of int16 (ethos_u55_regs.py, activation) whose values are not published.
_CURVES = {3: "TANH", 4: "SIGMOID"}


def decode(payload: bytes) -> Stream:
    """Everything that a payload makes an Ethos-U55 do; raises NpuError for what is not known."""
    read = read_payload(payload)
    macs = read.macs_per_cycle
    if read.product != "ethos-u55" or macs not in _SHRAM_KIB:
        name = accelerator_of(payload)
        raise NpuError(f"the command stream is for {name}; ethos-u55-32 to -256 are simulated")
    return Stream(macs_per_cycle=macs, operations=tuple(_operations(read.commands)))


def shram_kib(macs_per_cycle: int) -> int:
    """Size of the NPU's own memory (architecture_features.py, accelerator_configs)."""
    return _SHRAM_KIB[macs_per_cycle]


def table_address(macs_per_cycle: int) -> int:
    """Where in SHRAM the tables begin: its last 2 KiB, but for two banks that the larger NPUs
    leave unused (architecture_features.py, shram_lut_address)."""
    unused = 2 if shram_kib(macs_per_cycle) > 16 else 0
    return (shram_kib(macs_per_cycle) - (unused or 2)) << 10


def _operations(words: Sequence[int]) -> Iterator[Operation]:
    registers = RegisterFile()
    count = 0
    at = 0
    while at < len(words):
        word = words[at]
        code, payload, param = word & CODE_MASK, word & PAYLOAD_MASK, word >> 16
        where = f"word {at} of the command stream"
        if word & 0xFFFF & ~(CODE_MASK | PAYLOAD_MASK):
            raise NpuError(f"{where} is no command: {word:#x}")
        if payload == ONE_WORD:
            if at + 1 >= len(words):
                raise NpuError(f"{where} lacks its payload")
            registers.set_long(code, param, words[at + 1], where)
            at += 2
            continue
        at += 1
        if payload != NO_PAYLOAD:
            raise NpuError(f"{where} is no command: {word:#x}")
        if code >= Short.IFM_PAD_TOP:
            registers.set_short(code, param, where)
        elif code == Op.STOP:
            if at != len(words):
                raise NpuError(f"{where} stops, and {len(words) - at} words follow")
            return
        elif count == _MOST_OPERATIONS:
            raise NpuError(f"the command stream has more than {_MOST_OPERATIONS} operations")
        elif (operation := _operation(code, param, count, registers, where)) is not None:
            count += 1
            yield operation
    raise NpuError("the command stream does not end with STOP")


def _operation(
    code: int, param: int, index: int, registers: RegisterFile, where: str
) -> Operation | None:
    """What a command does; None for those that wait or count, since all is done in turn here."""
    registers.name(f"operation {index} ({where})")
    if code in (Op.DMA_WAIT, Op.KERNEL_WAIT, Op.PMU_MASK, Op.IRQ):
        return None
    if code == Op.DMA_START:
        return _dma(param, index, registers)
    if code == Op.CONV:
        return _block_operation("conv", index, registers)
    if code == Op.DEPTHWISE:
        return _block_operation("depthwise", index, registers)
    if code == Op.POOL:
        return _block_operation(registers.pick(_POOLS, param, "pooling"), index, registers)
    if code == Op.ELEMENTWISE:
        kind = registers.pick(_ELEMENTWISE, param, "elementwise operation")
        return _block_operation(kind, index, registers)
    raise NpuError(f"{where} is an unknown command: {code:#x}")


def _dma(param: int, index: int, registers: RegisterFile) -> Dma:
    """generate_dma_op; channel and mode of the command are 0 in every stream that Vela writes."""
    source = registers.unsigned(Short.DMA0_SRC_REGION)
    target = registers.unsigned(Short.DMA0_DST_REGION)
    internal = target >> 8 & 1
    if param or source >> 8 or target >> 9:
        raise registers.refuse("a DMA of two or three dimensions, or on another channel")
    length = registers.address(Long.DMA0_LEN)
    return Dma(
        index=index,
        source=Span(region=source, address=registers.address(Long.DMA0_SRC), length=length),
        destination=Span(
            region=SHRAM if internal else target,
            address=registers.address(Long.DMA0_DST),
            length=length,
        ),
    )


def _block_operation(kind: Kind, index: int, registers: RegisterFile) -> BlockOperation:
    """generate_common and the functions that call it."""
    if registers.has(Short.PARALLEL_MODE) and registers.unsigned(Short.PARALLEL_MODE):
        raise registers.refuse("several cores are unknown on an ethos-u55")
    elementwise = kind in _ELEMENTWISE
    upscale = registers.pick(_UPSCALES, registers.unsigned(Short.IFM_UPSCALE), "upscaling")
    if elementwise and upscale != "none":
        raise registers.refuse("an elementwise operation that upscales is unknown")
    ofm = _ofm(registers)
    kernel = None if elementwise else _kernel(registers)
    ifm = _ifm(kind, registers, ofm, kernel, upscale)
    if kind not in ("conv", "reduce_sum") and ifm.depth != ofm.depth:
        raise registers.refuse(f"{ifm.depth} channels cannot become {ofm.depth} in {kind}")
    operands = _operands(kind, registers, ofm) if elementwise else None
    return BlockOperation(
        index=index,
        kind=kind,
        ifm=ifm,
        ofm=ofm,
        upscale=upscale,
        kernel=kernel,
        weights=_weights(kind, registers) if kind in ("conv", "depthwise") else None,
        operands=operands,
        output=_output(registers),
        block=(
            registers.size(Short.OFM_BLK_HEIGHT_M1),
            registers.size(Short.OFM_BLK_WIDTH_M1),
            registers.size(Short.OFM_BLK_DEPTH_M1),
        ),
        accumulator_bits=registers.pick(
            _ACCUMULATORS, registers.unsigned(Short.ACC_FORMAT), "accumulator"
        ),
    )


def _kernel(registers: RegisterFile) -> Kernel:
    """generate_kernel and generate_padding: the register has the extent of the dilated kernel."""
    stride = registers.unsigned(Short.KERNEL_STRIDE)
    dilation_x, dilation_y = 1 + (stride >> 3 & 1), 1 + (stride >> 4 & 1)
    rows = registers.unsigned(Short.KERNEL_HEIGHT_M1)
    columns = registers.unsigned(Short.KERNEL_WIDTH_M1)
    if rows % dilation_y or columns % dilation_x:
        raise registers.refuse("the extent of the kernel does not agree with its dilation")
    return Kernel(
        height=rows // dilation_y + 1,
        width=columns // dilation_x + 1,
        stride_y=1 + (stride >> 1 & 1 | (stride >> 9 & 0x7) << 1),
        stride_x=1 + (stride & 1 | (stride >> 6 & 0x7) << 1),
        dilation_y=dilation_y,
        dilation_x=dilation_x,
        top=registers.unsigned(Short.IFM_PAD_TOP),
        left=registers.unsigned(Short.IFM_PAD_LEFT),
        bottom=registers.unsigned(Short.IFM_PAD_BOTTOM),
        right=registers.unsigned(Short.IFM_PAD_RIGHT),
    )


def _ofm(registers: RegisterFile) -> FeatureMap:
    """generate_ofm and generate_ofm_precision."""
    return _feature_map(
        registers,
        "OFM",
        height=registers.size(Short.OFM_HEIGHT_M1),
        width=registers.size(Short.OFM_WIDTH_M1),
        depth=registers.size(Short.OFM_DEPTH_M1),
    )


def _ifm(
    kind: Kind, registers: RegisterFile, ofm: FeatureMap, kernel: Kernel | None, upscale: Upscale
) -> FeatureMap:
    """generate_ifm and generate_ifm_precision. No register has the height and width of the input:
    they follow from those of the output."""
    height, width = ofm.height, ofm.width
    if kernel is not None:
        rows = (height - 1) * kernel.stride_y + (kernel.height - 1) * kernel.dilation_y + 1
        columns = (width - 1) * kernel.stride_x + (kernel.width - 1) * kernel.dilation_x + 1
        times = 1 if upscale == "none" else 2
        height = -(-(rows - kernel.top - kernel.bottom) // times)
        width = -(-(columns - kernel.left - kernel.right) // times)
    if height < 1 or width < 1:
        raise registers.refuse(f"the input of {kind} is all padding")
    return _feature_map(
        registers, "IFM", height=height, width=width, depth=registers.size(Short.IFM_DEPTH_M1)
    )


def _operands(kind: Kind, registers: RegisterFile, ofm: FeatureMap) -> Operands | None:
    """generate_elementwise_op, generate_ifm2_broadcast, generate_scaling_for_elementwise."""
    if kind in UNARY:
        return None
    broadcast = registers.unsigned(Short.IFM2_BROADCAST)
    scalar = bool(broadcast >> 7 & 1)
    scaled = registers.pick(
        (None, "a", "b"), registers.unsigned(Short.IFM_PRECISION) >> 8 & 3, "scaling of operands"
    )
    unity = Scale(multiplier=1, shift=0)
    scales = kind in ("add", "sub")
    return Operands(
        ifm2=None if scalar else _ifm2(registers, ofm, broadcast),
        scalar=registers.signed(Short.IFM2_SCALAR) if scalar else None,
        zero_point=registers.signed(Short.IFM2_ZERO_POINT),
        reversed=bool(broadcast >> 6 & 1),
        scaled=scaled,
        a=registers.scale(Long.OPA_SCALE) if scales else unity,
        b=registers.scale(Long.OPB_SCALE) if scales else unity,
    )


def _ifm2(registers: RegisterFile, ofm: FeatureMap, broadcast: int) -> FeatureMap:
    """generate_ifm2."""
    return _feature_map(
        registers,
        "IFM2",
        height=1 if broadcast & 1 else ofm.height,
        width=1 if broadcast >> 1 & 1 else ofm.width,
        depth=1 if broadcast >> 2 & 1 else ofm.depth,
    )


def _feature_map(
    registers: RegisterFile,
    which: Literal["IFM", "IFM2", "OFM"],
    *,
    height: int,
    width: int,
    depth: int,
) -> FeatureMap:
    """What all three have registers for: generate_addresses, generate_tiles, generate_strides,
    generate_ifm_precision; the output's precision lies a bit lower."""
    precision = registers.unsigned(Short[f"{which}_PRECISION"])
    return FeatureMap(
        region=registers.unsigned(Short[f"{which}_REGION"]),
        bases=_bases(registers, Long[f"{which}_BASE0"]),
        height0=registers.size(Short[f"{which}_HEIGHT0_M1"]),
        height1=registers.size(Short[f"{which}_HEIGHT1_M1"]),
        width0=registers.size(Short[f"{which}_WIDTH0_M1"]),
        height=height,
        width=width,
        depth=depth,
        stride_y=registers.stride(Long[f"{which}_STRIDE_Y"]),
        stride_x=registers.stride(Long[f"{which}_STRIDE_X"]),
        stride_c=registers.stride(Long[f"{which}_STRIDE_C"]),
        bits=registers.pick(
            _BITS, precision >> (1 if which == "OFM" else 2) & 3, f"precision of {which}"
        ),
        signed=bool(precision & 1),
        layout="nhcwb16" if precision >> 6 & 1 else "nhwc",
        zero_point=registers.signed(Short[f"{which}_ZERO_POINT"]),
    )


def _bases(registers: RegisterFile, first: Long) -> tuple[int, int, int, int]:
    top_left, top_right, bottom_left, bottom_right = (
        registers.address(Long(first + tile)) for tile in range(4)
    )
    return top_left, top_right, bottom_left, bottom_right


def _weights(kind: Kind, registers: RegisterFile) -> Weights:
    """generate_weights, generate_biases, generate_kernel (its bit 2 is the traversal)."""
    return Weights(
        data=Span(
            region=registers.unsigned(Short.WEIGHT_REGION),
            address=registers.address(Long.WEIGHT_BASE),
            length=registers.address(Long.WEIGHT_LENGTH),
        ),
        scales=Span(
            region=registers.unsigned(Short.SCALE_REGION),
            address=registers.address(Long.SCALE_BASE),
            length=registers.address(Long.SCALE_LENGTH),
        ),
        block_depth=registers.size(Short.OFM_BLK_DEPTH_M1),
        part_kernel=kind == "conv" and bool(registers.unsigned(Short.KERNEL_STRIDE) >> 2 & 1),
    )


def _output(registers: RegisterFile) -> Output:
    """generate_ofm_precision and generate_activation."""
    precision = registers.unsigned(Short.OFM_PRECISION)
    activation = registers.unsigned(Short.ACTIVATION)
    kind, clip = activation & 0xFFF, activation >> 12
    if kind and not 16 <= kind < 16 + TABLES:
        name = _CURVES.get(kind, str(kind))
        raise registers.refuse(f"activation {name} is unknown")
    if clip not in (0, _CLIP_INT8):
        raise registers.refuse(f"clip range {clip} of the activation is unknown")
    return Output(
        scale=registers.scale(Long.OFM_SCALE) if precision >> 8 & 1 else None,
        rounding=registers.pick(_ROUNDINGS, precision >> 14 & 3, "rounding"),
        least=registers.signed(Short.ACTIVATION_MIN),
        most=registers.signed(Short.ACTIVATION_MAX),
        table=kind - 16 if kind else None,
        force_int8=clip == _CLIP_INT8,
    )
