"""Operations value by value.

Sources, ethos-u-vela 4.5.0: register_command_stream_generator.py
(generate_scaling_for_elementwise), scaling.py (simplified_elementwise_add_sub_scale,
advanced_elementwise_add_sub_scale), softmax.py (what int32 operations must give).
"""

from __future__ import annotations

import numpy as np

from stages.vela.npu.arithmetic import MOST_PRODUCT, Integers, check_range, rescale
from stages.vela.npu.errors import NpuError
from stages.vela.npu.operations import BlockOperation, Operands, Scale

#: Before a sum the operand that is not scaled, and the one that is, are shifted by so much
#: (advanced_elementwise_add_sub_scale, input_shift).
_OPERAND_SHIFT = {8: 20, 16: 15}


def compute_unary(operation: BlockOperation, values: Integers) -> Integers:
    """The result, without the output's zero point, of values less theirs."""
    scale = _scale(operation)
    if operation.kind == "clz":
        check_range(values, 32, "an operand of CLZ")
        bits = np.frexp((values & 0xFFFFFFFF).astype(np.float64))[1]
        return 32 - bits.astype(np.int64)
    if operation.kind == "abs":
        return _scaled(np.abs(values), scale, operation)
    # lrelu
    return np.where(values >= 0, values, _scaled(values, scale, operation))


def compute_binary(operation: BlockOperation, a: Integers, b: Integers) -> Integers:
    """The result, without the output's zero point, of operands less theirs, which broadcast."""
    operands = operation.operands
    assert operands is not None
    if operands.reversed:
        a, b = b, a
    kind = operation.kind
    if kind == "min":
        return np.minimum(a, b)
    if kind == "max":
        return np.maximum(a, b)
    if kind in ("shl", "shr"):
        return _shifted(operation, a, b)
    if kind == "mul":
        return _multiplied(operation, a, b)
    return _added(operation, operands, a, b)


def _multiplied(operation: BlockOperation, a: Integers, b: Integers) -> Integers:
    """A product of 32 bits saturates: softmax.py doubles the reciprocal of a sum so, for which
    TFLite has a saturating shift (gemmlowp's fixedpoint.h, Rescale), and of a sum of one it needs
    it."""
    product = _scaled(a * b, _scale(operation), operation)
    if operation.ofm.bits == 32:
        info = np.iinfo(np.int32)
        return np.clip(product, info.min, info.max)
    return product


def _added(operation: BlockOperation, operands: Operands, a: Integers, b: Integers) -> Integers:
    scale = _scale(operation)
    sign = 1 if operation.kind == "add" else -1
    if operands.scaled is None:
        total = a * operands.a.multiplier + sign * (b * operands.b.multiplier)
        # The sum of operands of 16 bits is rounded once.
        rounding = "natural" if operation.output.rounding == "tfl" else operation.output.rounding
        _check_product(total, scale, operation)
        return rescale(total, scale.multiplier, scale.shift, rounding)
    bits = operation.ifm.bits
    if bits not in _OPERAND_SHIFT:
        raise NpuError(f"a {operation.kind} that scales one operand of {bits} bits")
    shift = _OPERAND_SHIFT[bits]
    factor = operands.a
    if operands.scaled == "a":
        a, b = rescale(a << shift, factor.multiplier, factor.shift + shift, "tfl"), b << (shift - 1)
    else:
        a, b = a << (shift - 1), rescale(b << shift, factor.multiplier, factor.shift + shift, "tfl")
    return _scaled(a + sign * b, scale, operation)


def _scale(operation: BlockOperation) -> Scale:
    """The operation's scale; of operands of 32 bits only its shift counts
    (tflite_graph_optimiser.py, convert_squared_difference)."""
    scale = operation.output.scale or Scale(multiplier=1, shift=0)
    return Scale(multiplier=1, shift=scale.shift) if operation.ifm.bits == 32 else scale


def _shifted(operation: BlockOperation, a: Integers, b: Integers) -> Integers:
    if b.size and (b.min() < 0 or b.max() > 31):
        raise NpuError(f"{operation.kind} by less than 0 or more than 31 bits is unknown")
    if operation.kind == "shl":
        return check_range(a << b, 32, "a shift to the left")
    return rescale(a, 1, b, operation.output.rounding)


def _scaled(values: Integers, scale: Scale, operation: BlockOperation) -> Integers:
    _check_product(values, scale, operation)
    return rescale(values, scale.multiplier, scale.shift, operation.output.rounding)


def _check_product(values: Integers, scale: Scale, operation: BlockOperation) -> None:
    if values.size and int(np.abs(values).max()) * max(1, scale.multiplier) > MOST_PRODUCT:
        raise NpuError(f"a product in {operation.kind} is unknown beyond 63 bits")
