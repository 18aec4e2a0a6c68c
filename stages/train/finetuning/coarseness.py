"""What weights cost in the flash, as a function that has gradients.

Vela codes weights by how often each value occurs (a Golomb-Rice code over a palette; mlw_encode.c),
so a layer costs about its entropy. The price of a weight is interpolated between those of its two
neighbouring integers: it falls towards the frequent ones, and as the scale grows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from stages.train.finetuning.network import Convolution

_VALUES = 256
_ZERO = 128
#: Neighbouring values become alike in frequency, so that one that is missing is not out of reach.
_SPREAD = 5
_SHARE = 0.3
_FLOOR = 0.05


class Prices:
    """Bits of each weight value, in each layer, by how often it occurs there now."""

    def __init__(self, layers: Iterable[Convolution]) -> None:
        self._layers = list(layers)
        self._tables: list[Tensor] = []
        self.weights = sum(layer.steps.numel() for layer in self._layers)
        #: Mean entropy of a weight, in bits.
        self.entropy = 0.0
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Count again."""
        self._tables = []
        total = 0.0
        for layer in self._layers:
            codes = layer.integers().flatten().long() + _ZERO
            counts = torch.bincount(codes, minlength=_VALUES + 1).float()
            shares = counts[counts > 0] / counts.sum()
            total += float(-(shares * shares.log2()).sum()) * codes.numel()
            near = functional.avg_pool1d(counts[None, None], _SPREAD, 1, _SPREAD // 2)[0, 0]
            smooth = counts + _SHARE * near + _FLOOR
            self._tables.append(-torch.log2(smooth / smooth.sum()))
        self.entropy = total / self.weights

    def mean_bits(self) -> Tensor:
        """The mean price of a weight, in bits."""
        total = sum(
            _interpolated(layer.position().flatten(), table)
            for layer, table in zip(self._layers, self._tables, strict=True)
        )
        assert isinstance(total, Tensor)
        return total / self.weights


class Pressure:
    """The weight of the price in the loss, so that the entropy comes to ``wanted`` bits.

    It follows a straight way from where the entropy began, over `_WAY` of all updates, and then
    stays there.
    """

    _WAY = 0.6
    _FIRST = 0.01
    _GAIN = 1.2
    _MOST_STEP = 0.3
    _MOST = 100.0

    def __init__(self, entropy: float, wanted: float, updates: int) -> None:
        self._begin, self._wanted = entropy, min(wanted, entropy)
        self._updates = updates
        self.value = self._FIRST if wanted < entropy else 0.0

    def follow(self, entropy: float, update: int) -> None:
        """Push harder if the entropy is above the way, less if it is below."""
        if not self.value:
            return
        done = min(1.0, update / (self._WAY * self._updates))
        target = self._begin + (self._wanted - self._begin) * done
        step = max(-self._MOST_STEP, min(self._MOST_STEP, self._GAIN * (entropy - target)))
        self.value = min(self._MOST, self.value * math.exp(step))


def _interpolated(positions: Tensor, table: Tensor) -> Tensor:
    """The sum of the prices at positions between integers."""
    below = torch.floor(positions).detach()
    index = (below + _ZERO).long()
    low, high = table[index], table[(index + 1).clamp(max=_VALUES)]
    return (low + (positions - below) * (high - low)).sum()
