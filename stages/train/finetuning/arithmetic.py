"""TFLite's int8 arithmetic in torch, exact in float32, with gradients.

Activations are integers less their zero point, as floats: sums of products of such numbers are
exact in float32 up to 2**24, so the results are those of the reference kernels, bit by bit. Sums of
an unusual network, and biases, may be larger: double precision holds them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST, MOST = -128, 127
_CODES = 256
_MULTIPLIER_BITS = 31


class Round(torch.autograd.Function):
    """Rounds; the gradient passes as if it did not (Bengio et al., 2013, arXiv 1308.3432)."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return torch.round(values)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient


class Requantise(torch.autograd.Function):
    """Sums [n, channels, height, width] and a bias for each channel, times a scale, or one for each
    channel, rounded.

    TFLite rounds twice: the product with a multiplier from 0.5 to 1, and that over a power of two
    (MultiplyByQuantizedMultiplier; gemmlowp's fixedpoint.h). Both products have more bits than
    float32, and a wrong one in a million would do: what follows from it differs in a hundred
    places.
    """

    @staticmethod
    def forward(context: Any, sums: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        context.save_for_backward(sums, bias, scale)
        mantissa, exponent = torch.frexp(scale.double())
        multiplier = torch.round(mantissa * 2.0**_MULTIPLIER_BITS) * 2.0**-_MULTIPLIER_BITS
        whole = sums.double() + _by_channel(bias.double())
        product = torch.round(whole * _by_channel(multiplier))
        return _half_away(product.mul_(_by_channel(torch.exp2(exponent.double())))).float()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        sums, bias, scale = context.saved_tensors
        of_sums = gradient * _by_channel(scale)
        axes = (0, 2, 3) if scale.ndim else (0, 1, 2, 3)
        of_scale = (gradient * (sums + _by_channel(bias))).sum(axes)
        return of_sums, of_sums.sum((0, 2, 3)), of_scale


class Limit(torch.autograd.Function):
    """Rounds half away from zero and limits to what int8 has; outside there is no gradient."""

    @staticmethod
    def forward(context: Any, values: Tensor, least: int, most: int) -> Tensor:
        rounded = _half_away(values)
        context.save_for_backward((rounded >= least) & (rounded <= most))
        return rounded.clamp_(least, most)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        (inside,) = context.saved_tensors
        return gradient * inside, None, None


class LookUp(torch.autograd.Function):
    """Limits whole numbers, and takes a function's values from a table [256]; its gradient from
    another one."""

    @staticmethod
    def forward(
        context: Any, values: Tensor, zero_point: int, table: Tensor, slopes: Tensor
    ) -> Tensor:
        codes = values + (zero_point - LEAST)
        inside = (codes >= 0) & (codes < _CODES)
        index = codes.clamp_(0, _CODES - 1).to(torch.uint8)
        context.save_for_backward(index, inside, slopes)
        return table[index.int()]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        index, inside, slopes = context.saved_tensors
        return gradient * slopes[index.int()] * inside, None, None, None


def silu_tables(
    source: tuple[float, int], logistic: tuple[float, int], product: tuple[float, int]
) -> tuple[Tensor, Tensor]:
    """LOGISTIC and MUL of int8 for every value of their input, and the slope of SiLU there, both in
    units of the product's scale. Arguments: scale and zero point of each tensor."""
    (scale, zero), (gate_scale, gate_zero), (result_scale, result_zero) = source, logistic, product
    codes = np.arange(LEAST, MOST + 1, dtype=np.int64) - zero
    real = codes * float(np.float32(scale))
    gate = 1 / (1 + np.exp(-real))
    gates = np.clip(np.round(gate / gate_scale) + gate_zero, LEAST, MOST).astype(np.int64)
    factor = float(np.float64(scale) * np.float64(gate_scale) / np.float64(result_scale))
    products = _multiply(codes * (gates - gate_zero), factor) + result_zero
    values = np.clip(products, LEAST, MOST) - result_zero
    slopes = gate * (1 + real * (1 - gate)) * (scale / result_scale)
    return torch.from_numpy(values).float(), torch.from_numpy(slopes).float()


def _by_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1) if values.ndim else values


def _half_away(values: Tensor) -> Tensor:
    return torch.trunc(values + torch.copysign(values.new_full((), 0.5), values))


def _multiply(values: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
    """TFLite's MultiplyByQuantizedMultiplier."""
    mantissa, exponent = math.frexp(factor)
    multiplier = round(mantissa * (1 << 31))
    left, right = max(exponent, 0), max(-exponent, 0)
    products = ((values << left) * multiplier + (1 << 30)) >> 31
    if right == 0:
        return products
    return (products + (1 << (right - 1)) - (products < 0)) >> right
