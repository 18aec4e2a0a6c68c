"""Runs the updates of a fine-tuning, and goes on with one that was interrupted.

Everything that is random in an update follows from the seed and the update's number, and a
checkpoint holds all else, so an interrupted fine-tuning ends with the same weights.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.contract import Events
from stages.train.finetuning.coarseness import Pressure, Prices
from stages.train.finetuning.loss import distances
from stages.train.finetuning.network import Int8Net

#: Learning rates of Adam: of a weight in its first steps, of a scale's logarithm, and of a bias in
#: steps of the output.
WEIGHT_RATE = 0.05
GROWTH_RATE = 0.004
BIAS_RATE = 0.05
_WARM_UP = 20
#: Prices are counted again, and the pressure follows, every so many updates.
_COUNT_EVERY = 10
_SAVE_EVERY = 50
#: The distances of a result are means over so many updates.
_MEAN_OVER = 20

Row = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """``bits``: the mean entropy of a weight to reach, None to leave it free."""

    updates: int
    batch: int
    seed: int
    bits: float | None


class Finetuning:
    """A fine-tuning of a network with images, uint8 [n, channels, size, size].

    ``rows``: of each update the distances by kind, and the entropy. ``resumed_from``: how many
    updates an earlier attempt had done.
    """

    def __init__(
        self, net: Int8Net, images: Tensor, settings: Settings, checkpoint: Path, events: Events
    ) -> None:
        self._net, self._images, self._settings = net, images, settings
        self._checkpoint, self._events = checkpoint, events
        self._optimiser = _optimiser(net)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self._prices = Prices(net.layers())
        self.bits_before = self._prices.entropy
        wanted = self.bits_before if settings.bits is None else settings.bits
        self._pressure = Pressure(self.bits_before, wanted, settings.updates)
        self.rows: list[Row] = []
        self.resumed_from = self._read()

    def run(self) -> None:
        """Do the updates that are not done."""
        for update in range(len(self.rows), self._settings.updates):
            self._update(update)
            self._events.progress(update + 1, self._settings.updates, "updates")
            if (update + 1) % _SAVE_EVERY == 0:
                self._save()
        self._prices.refresh()

    @property
    def bits(self) -> float:
        """The mean entropy of a weight when it was counted last."""
        return self._prices.entropy

    def mean(self, *, last: bool) -> Row:
        """The distances by kind, over the last updates or the first."""
        rows = self.rows[-_MEAN_OVER:] if last else self.rows[:_MEAN_OVER]
        kinds = [kind for kind in rows[0] if kind != "bits"]
        return {kind: round(sum(row[kind] for row in rows) / len(rows), 6) for kind in kinds}

    def _update(self, update: int) -> None:
        self._set_rates(update)
        batch = self._batch(update)
        with torch.no_grad():
            exact = self._net.exact(batch)
        found = distances(self._net.description.roles, self._net(batch), exact)
        if update % _COUNT_EVERY == 0:
            self._prices.refresh()
            self._pressure.follow(self._prices.entropy, update)
        loss = torch.stack(list(found.values())).sum()
        if self._pressure.value:
            loss = loss + self._pressure.value * self._prices.mean_bits()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        row = {kind: float(value.detach()) for kind, value in found.items()}
        self.rows.append({**row, "bits": self._prices.entropy})

    def _batch(self, update: int) -> Tensor:
        """The images of an update, each one as it is or mirrored: every image once before any
        comes again."""
        random = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + update)
        count, size = len(self._images), min(self._settings.batch, len(self._images))
        per_round = count // size
        order = torch.Generator().manual_seed(self._settings.seed * 7919 + update // per_round)
        first = update % per_round * size
        chosen = torch.randperm(count, generator=order)[first : first + size]
        mirrored = torch.rand(size, generator=random) < 0.5
        images = self._images[chosen]
        images[mirrored] = images[mirrored].flip(3)
        return images.to(next(self._net.parameters()).device)

    def _set_rates(self, update: int) -> None:
        """From nothing over a short way to the full rates, and back along half a cosine."""
        warm = min(1.0, (update + 1) / _WARM_UP)
        cosine = 0.5 * (1 + math.cos(math.pi * update / self._settings.updates))
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * warm * cosine

    def _save(self) -> None:
        state = {
            "net": self._net.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "pressure": self._pressure.value,
            "entropy": self._prices.entropy,
            "rows": self.rows,
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
        self._pressure.value = state["pressure"]
        self.rows = state["rows"]
        return len(self.rows)


def _optimiser(net: Int8Net) -> torch.optim.Optimizer:
    """Adam, with rates in steps of what it moves: layers differ in their scales by orders."""
    layers = list(net.layers())
    groups: list[dict[str, Any]] = [
        {"params": [layer.steps for layer in layers], "lr": WEIGHT_RATE},
        {"params": [layer.growth for layer in layers], "lr": GROWTH_RATE},
    ]
    groups += [{"params": [layer.bias], "lr": BIAS_RATE * layer.output_scale} for layer in layers]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))
