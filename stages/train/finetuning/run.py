"""Runs the updates of a fine-tuning, and goes on with one that was interrupted.

Everything that is random in an update follows from the seed and the update's number, and a
checkpoint holds all else, so an interrupted fine-tuning ends with the same weights.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.contract import Events
from stages.sampling import evenly
from stages.train.finetuning.augmentation import Augmentation
from stages.train.finetuning.coarseness import Budget, Limit, Prices
from stages.train.finetuning.loss import distances
from stages.train.finetuning.network import Int8Net

#: Learning rates of Adam: of a weight in its first steps, and of a bias in steps of the output.
WEIGHT_RATE = 0.006
BIAS_RATE = 0.006
#: Scales can grow so many times as fast as they have to.
_HEADROOM = 2.0
#: What they can grow if they need not, for entropies that rise a little by themselves.
_LEAST_GROWTH = 0.2
_WARM_UP = 20
#: Prices are counted again, and the pressure follows, every so many updates.
_COUNT_EVERY = 10
_SAVE_EVERY = 50
#: So many images, one of so many at least, are held out: by them one sees what was learned.
_HELD_OUT = 32
_HELD_OUT_OF = 8

Row = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """So many updates of so many images."""

    updates: int
    batch: int
    seed: int


class Finetuning:
    """A fine-tuning of a network with images, uint8 [n, channels, size, size].

    ``rows``: of each update the distances by kind, and the entropy. ``before``, ``after``: the
    distances by kind on images that no update sees. ``resumed_from``: how many updates an earlier
    attempt had done.
    """

    def __init__(
        self,
        net: Int8Net,
        images: Tensor,
        settings: Settings,
        *,
        prices: Prices,
        budget: Budget | None,
        augment: Augmentation,
        checkpoint: Path,
        events: Events,
    ) -> None:
        self._net, self._settings = net, settings
        self._images, self._held_out = _apart(images)
        self._augment, self._checkpoint, self._events = augment, checkpoint, events
        self._prices, self._budget = prices, budget
        self._optimiser = _optimiser(net, self._growth_rate())
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self.rows: list[Row] = []
        self.before: Row = {}
        self.after: Row = {}
        self.resumed_from = self._read()

    def run(self) -> None:
        """Do the updates that are not done."""
        self.before = self.before or self._measure(0)
        for update in range(len(self.rows), self._settings.updates):
            self._update(update)
            self._events.progress(update + 1, self._settings.updates, "updates")
            if (update + 1) % _SAVE_EVERY == 0:
                if update + 1 < self._settings.updates:  # the end is measured below
                    self._measure(update + 1)
                self._save()
        self._prices.refresh()
        self.after = self._measure(self._settings.updates)

    @torch.no_grad()
    def _measure(self, update: int) -> Row:
        """The distances by kind on the images that were held out, told as figures."""
        total: Row = {}
        for batch in self._held_out.split(self._settings.batch):
            images = batch.to(next(self._net.parameters()).device)
            found = distances(
                self._net.description.roles, self._net(images), self._net.exact(images)
            )
            for kind, value in found.items():
                total[kind] = total.get(kind, 0.0) + float(value) * len(batch)
        means = {kind: round(value / len(self._held_out), 6) for kind, value in total.items()}
        for kind, value in means.items():
            self._events.metric(f"distance/{kind}", value, at=update)
        self._events.metric("bits", self._prices.mean, at=update)
        return means

    def _update(self, update: int) -> None:
        self._set_rates(update)
        batch = self._batch(update)
        with torch.no_grad():
            exact = self._net.exact(batch)
        found = distances(self._net.description.roles, self._net(batch), exact)
        if update % _COUNT_EVERY == 0:
            self._prices.refresh()
            if self._budget:
                self._budget.follow(update / self._settings.updates)
        loss = torch.stack(list(found.values())).sum()
        if self._budget:
            loss = loss + self._budget.cost()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if not any(limit.above for limit in self._limits):
            # Another scale rounds a layer's weights once more, and they have been rounded well.
            for layer in self._net.layers():
                layer.growth.grad = None
        self._optimiser.step()
        row = {kind: float(value.detach()) for kind, value in found.items()}
        self.rows.append({**row, "bits": self._prices.mean})

    def _batch(self, update: int) -> Tensor:
        """The images of an update: every image once before any comes again."""
        count, size = len(self._images), min(self._settings.batch, len(self._images))
        per_round = count // size
        order = torch.Generator().manual_seed(self._settings.seed * 7919 + update // per_round)
        first = update % per_round * size
        chosen = torch.randperm(count, generator=order)[first : first + size]
        images = self._augment(self._images[chosen], self._settings.seed * 1_000_003 + update)
        return images.to(next(self._net.parameters()).device)

    def _set_rates(self, update: int) -> None:
        """From nothing over a short way to the full rates, and back along half a cosine."""
        warm = min(1.0, (update + 1) / _WARM_UP)
        cosine = 0.5 * (1 + math.cos(math.pi * update / self._settings.updates))
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * warm * cosine

    @property
    def _limits(self) -> Sequence[Limit]:
        return self._budget.limits if self._budget else ()

    def _growth_rate(self) -> float:
        """Of a scale's logarithm: a weight loses a bit if its scale doubles."""
        bits = self._budget.bits_to_lose() if self._budget else 0.0
        growth = max(_HEADROOM * math.log(2) * bits, _LEAST_GROWTH)
        return growth / (Limit.WAY * self._settings.updates)

    def _save(self) -> None:
        state = {
            "net": self._net.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "pressures": [limit.pressure for limit in self._limits],
            "rows": self.rows,
            "before": self.before,
        }
        new = self._checkpoint.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._checkpoint)

    def _read(self) -> int | None:
        """Take the checkpoint's state; None if there is none, with a warning if it is damaged."""
        if not self._checkpoint.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(
                self._checkpoint, map_location="cpu", weights_only=True
            )
            self._net.load_state_dict(state["net"])
            self._optimiser.load_state_dict(state["optimiser"])
        except (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError):
            self._events.warning("the last checkpoint cannot be read: fine-tuning starts again")
            return None
        self._prices.refresh()
        for limit, pressure in zip(self._limits, state["pressures"], strict=True):
            limit.pressure = pressure
        self.rows, self.before = state["rows"], state["before"]
        return len(self.rows)


def _apart(images: Tensor) -> tuple[Tensor, Tensor]:
    """The images to learn from, and some over all of them to measure with; of a single one both."""
    held_out = evenly(len(images), min(_HELD_OUT, max(len(images) // _HELD_OUT_OF, 1)))
    others = sorted(set(range(len(images))) - set(held_out)) or held_out
    return images[others], images[held_out]


def _optimiser(net: Int8Net, growth_rate: float) -> torch.optim.Optimizer:
    """Adam, with rates in steps of what it moves: layers differ in their scales by orders."""
    layers = list(net.layers())
    groups: list[dict[str, Any]] = [
        {"params": [layer.steps for layer in layers], "lr": WEIGHT_RATE},
        {"params": [layer.growth for layer in layers], "lr": growth_rate},
    ]
    groups += [{"params": [layer.bias], "lr": BIAS_RATE * layer.output_scale} for layer in layers]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))
