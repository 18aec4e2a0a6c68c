"""What the compiled file would take if its weights had other entropies.

Vela's estimate of the file before the fine-tuning says, layer by layer, what is read from the flash
and whether the layer waits for it. Cycles go down with bytes where the flash is waited for, and
only there, until the layer has its multiply-accumulates to do.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.results.int8_network import Int8Network

#: A layer's bytes are those of its weights' entropy, and so many bits a weight more (measured with
#: Vela 4.5 on files of 3 to 7 bits a weight: 0.40 to 0.55).
CODING_LOSS_BITS = 0.45
#: Of weights with fewer bits no network is left.
LEAST_BITS = 1.5
#: A layer waits for the flash if that takes as good as all of its cycles.
_WAITS = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCost:
    """A convolution of the start file: bytes read from the flash, and the cycles that it takes
    however few they are."""

    flash_bytes: int
    least_cycles: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Cycles of an inference, and KiB of the file."""

    cycles: float
    flash_kib: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartFile:
    """The compiled file before the fine-tuning. ``layers``: its convolutions, in the order of the
    network, which had ``entropies``, in bits a weight."""

    total: Estimate
    bytes_per_cycle: float
    layers: Sequence[LayerCost]
    entropies: Sequence[float]

    def estimate(self, entropies: Sequence[float]) -> Estimate:
        """What a file takes whose layers have such entropies."""
        read = self._bytes(entropies)
        saved = sum(layer.flash_bytes for layer in self.layers) - sum(read)
        cycles = self._cycles(self._bytes(self.entropies)) - self._cycles(read)
        return Estimate(
            cycles=self.total.cycles - cycles, flash_kib=self.total.flash_kib - saved / 1024
        )

    def waits(self, entropies: Sequence[float]) -> list[bool]:
        """Which layers wait for the flash, with such entropies."""
        pairs = zip(self._bytes(entropies), self.layers, strict=True)
        return [read / self.bytes_per_cycle > layer.least_cycles for read, layer in pairs]

    def _bytes(self, entropies: Sequence[float]) -> list[float]:
        return [
            layer.flash_bytes * (now + CODING_LOSS_BITS) / (before + CODING_LOSS_BITS)
            for layer, before, now in zip(self.layers, self.entropies, entropies, strict=True)
        ]

    def _cycles(self, read: Sequence[float]) -> float:
        pairs = zip(read, self.layers, strict=True)
        return sum(max(each / self.bytes_per_cycle, layer.least_cycles) for each, layer in pairs)


def read_estimate(summary: Path) -> Estimate:
    """What summary.csv of the step `compile` says."""
    return _estimate(_row(summary))


def read_start(
    layers: Path, summary: Path, network: Int8Network, entropies: Sequence[float]
) -> StartFile:
    """Read layers.json and summary.csv of the step `compile`; ``entropies`` of the convolutions."""
    row = _row(summary)
    # Vela writes GiB a second.
    speed = float(row["off_chip_flash_bandwidth"]) * (1 << 30) / float(row["core_clock"])
    listed = {each["name"]: each for each in json.loads(layers.read_text(encoding="utf-8"))}
    names = [
        network.tensors[str(each.output)].name
        for each in network.operators
        if each.type == "CONV_2D"
    ]
    return StartFile(
        total=_estimate(row),
        bytes_per_cycle=speed,
        layers=[_cost(listed.get(name), speed) for name in names],
        entropies=entropies,
    )


def _cost(listed: Mapping[str, object] | None, speed: float) -> LayerCost:
    """Of a layer that Vela has no figures of, nothing can be saved."""
    counted = listed and listed.get("counted")
    if not listed or not isinstance(counted, dict):
        return LayerCost(flash_bytes=0, least_cycles=0)
    read, cycles = int(counted["flash_bytes"]), float(str(listed["cycles"]))
    waits = read / speed > _WAITS * cycles
    return LayerCost(flash_bytes=read, least_cycles=counted["floor_cycles"] if waits else cycles)


def _estimate(row: Mapping[str, str]) -> Estimate:
    return Estimate(
        cycles=float(row["cycles_total"]), flash_kib=float(row["off_chip_flash_memory_used"])
    )


def _row(summary: Path) -> Mapping[str, str]:
    with summary.open(newline="", encoding="utf-8") as stream:
        return next(csv.DictReader(stream))
