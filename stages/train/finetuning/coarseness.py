"""What weights cost, as a function that has gradients, and how hard it is pressed on.

Vela codes weights by how often each value occurs (a Golomb-Rice code over a palette; mlw_encode.c),
so a layer costs about its entropy. The price of a weight is interpolated between those of its two
neighbouring integers: it falls towards the frequent ones, and as the scale grows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.train.finetuning.budget import Estimate, StartFile
from stages.train.finetuning.network import Convolution

_VALUES = 256
_ZERO = 128
#: Neighbouring values become alike in frequency, so that one that is missing is not out of reach.
_SPREAD = 5
_SHARE = 0.3
_FLOOR = 0.05
_HALVINGS = 16


class Prices:
    """Bits of each weight value, in each layer, by how often it occurs there now."""

    def __init__(self, layers: Iterable[Convolution]) -> None:
        self._layers = list(layers)
        self._weights = sum(layer.steps.numel() for layer in self._layers)
        self._tables: list[Tensor] = []
        #: The entropy of a weight in each layer, in bits.
        self.entropies: list[float] = []
        self.refresh()

    @property
    def mean(self) -> float:
        """The mean entropy of a weight, in bits."""
        pairs = zip(self.entropies, self._layers, strict=True)
        return sum(entropy * layer.steps.numel() for entropy, layer in pairs) / self._weights

    @torch.no_grad()
    def refresh(self) -> None:
        """Count again."""
        self._tables, self.entropies = [], []
        for layer in self._layers:
            codes = layer.integers().flatten().long() + _ZERO
            counts = torch.bincount(codes, minlength=_VALUES + 1).float()
            shares = counts[counts > 0] / counts.sum()
            self.entropies.append(float(-(shares * shares.log2()).sum()))
            near = functional.avg_pool1d(counts[None, None], _SPREAD, 1, _SPREAD // 2)[0, 0]
            smooth = counts + _SHARE * near + _FLOOR
            self._tables.append(-torch.log2(smooth / smooth.sum()))

    def mean_bits(self, pressures: Sequence[float]) -> Tensor:
        """The bits of all weights, each times the pressure on its layer, divided by all weights."""
        total = sum(
            pressure * _interpolated(layer.position().flatten(), table)
            for layer, table, pressure in zip(self._layers, self._tables, pressures, strict=True)
            if pressure
        )
        return torch.as_tensor(total / self._weights)


@dataclasses.dataclass(kw_only=True)
class Limit:
    """One figure of the file that has to come down to ``wanted``, and the weight in the loss that
    makes it do so: ``pressure`` while the figure is ``above`` its way, else nothing, because Adam
    takes steps of one size however small the weight is."""

    figure: Callable[[Estimate], float]
    waiting_alone: bool
    begin: float
    wanted: float
    pressure: float
    above: bool = False

    #: From where it began to what is wanted in this part of all updates; then it stays there.
    WAY = 0.5
    FIRST = 0.3
    LEAST, MOST = 0.01, 100.0
    _GAIN = 20.0
    _MOST_STEP = 0.3

    #: It ends where the learning rate has, so it aims a little lower.
    _AIM = 0.99

    def follow(self, estimate: Estimate, done: float) -> None:
        """Press harder the longer the figure is above its way; ``done``: the part of the updates
        that were done."""
        left = max(0.0, 1 - done / self.WAY)
        aim = self._AIM * self.wanted
        way = aim + max(0.0, self.begin - aim) * left
        excess = self._GAIN * (self.figure(estimate) - way) / self.begin
        step = max(-self._MOST_STEP, min(self._MOST_STEP, excess))
        self.pressure = max(self.LEAST, min(self.MOST, self.pressure * math.exp(step)))
        self.above = excess > 0


class Budget:
    """The limits of a file, and what the present weights mean for them."""

    def __init__(
        self, start: StartFile, prices: Prices, *, cycles: float | None, flash_kib: float | None
    ) -> None:
        self._start, self._prices = start, prices
        self._wait = start.waits(prices.entropies)
        self.limits: list[Limit] = []
        if cycles is not None:
            self._add(cycles, lambda each: each.cycles, waiting_alone=True)
        if flash_kib is not None:
            self._add(flash_kib, lambda each: each.flash_kib, waiting_alone=False)

    @property
    def estimate(self) -> Estimate:
        """What the file would take with the weights as they were counted last."""
        return self._start.estimate(self._prices.entropies)

    def bits_to_lose(self) -> float:
        """How many bits each weight would have to lose, if all lost as many, to keep the limits."""
        least, most = 0.0, max(self._prices.entropies)
        for _ in range(_HALVINGS):
            middle = (least + most) / 2
            found = self._start.estimate([max(0.0, e - middle) for e in self._prices.entropies])
            kept = all(limit.figure(found) <= limit.wanted for limit in self.limits)
            least, most = (least, middle) if kept else (middle, most)
        return most

    def follow(self, done: float) -> None:
        """Adapt to the weights as they were counted last."""
        self._wait = self._start.waits(self._prices.entropies)
        estimate = self.estimate
        for limit in self.limits:
            limit.follow(estimate, done)

    def cost(self) -> Tensor:
        """What the loss holds for the limits. Bytes that nothing waits for cost no cycles."""
        pressing = [limit for limit in self.limits if limit.above]
        return self._prices.mean_bits(
            [
                sum(limit.pressure for limit in pressing if waits or not limit.waiting_alone)
                for waits in self._wait
            ]
        )

    def _add(
        self, wanted: float, figure: Callable[[Estimate], float], *, waiting_alone: bool
    ) -> None:
        begin = figure(self.estimate)
        self.limits.append(
            Limit(
                figure=figure,
                waiting_alone=waiting_alone,
                begin=begin,
                wanted=wanted,
                pressure=Limit.FIRST if begin > wanted else Limit.LEAST,
            )
        )


def _interpolated(positions: Tensor, table: Tensor) -> Tensor:
    """The sum of the prices at positions between integers."""
    below = torch.floor(positions).detach()
    index = (below + _ZERO).long()
    low, high = table[index], table[(index + 1).clamp(max=_VALUES)]
    return (low + (positions - below) * (high - low)).sum()
