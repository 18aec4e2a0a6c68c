"""Reads Vela's reports: which operator runs where, and its estimates."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stages.results.compile import Estimate, Layer, Place
from stages.vela.tflite.file import NPU_OPERATOR, TFLiteFile

_LEFT_ON_CPU = re.compile(
    r"^(?:Warning|Info): .*?'(?P<name>[^'\n]+)'"
    r".*(?:Placing on CPU instead|CPU only op).*\n(?P<reason>(?: .*\n)*)",
    re.MULTILINE,
)


def read_layers(compiled: TFLiteFile, per_layer: Path) -> list[Layer]:
    """All operators in the order in which they run.

    Vela merges consecutive NPU operators into one operator of the compiled file, and lists these
    sequences in the same order.
    """
    sequences = iter(read_sequences(per_layer))
    layers: list[Layer] = []
    for graph in compiled.graphs:
        for operator in graph.operators:
            if operator.name == NPU_OPERATOR:
                layers += [_npu_layer(row) for row in next(sequences)]
                continue
            name = graph.tensors[operator.outputs[0]].name
            layers.append(
                Layer(operator=operator.name, name=name, place="cpu", cycles=None, sram_kib=None)
            )
    return layers


def count(layers: Iterable[Layer], place: Place) -> dict[str, int]:
    """How many layers of each type run in a place, by name."""
    return dict(sorted(Counter(each.operator for each in layers if each.place == place).items()))


def read_estimate(summary: Path) -> Estimate:
    """Read the summary that Vela writes."""
    row = _read_summary(summary)
    return Estimate(
        sram_kib=float(row["sram_memory_used"]),
        flash_kib=float(row["off_chip_flash_memory_used"]),
        cycles=round(float(row["cycles_total"])),
        inference_ms=float(row["inference_time"]) * 1000,
    )


def read_speed(summary: Path) -> tuple[float, float]:
    """The NPU's clock in Hz and what the memory of weights gives a cycle, in bytes: Vela's
    assumptions, which it writes with its estimate (GiB/s)."""
    row = _read_summary(summary)
    memory = row["weights_storage_area"].lower().replace("-", "_").replace(" ", "_")
    clock_hz = float(row["core_clock"])
    return clock_hz, float(row[f"{memory}_bandwidth"]) * 2**30 / clock_hz


def read_reasons(log: str) -> dict[str, str]:
    """Vela's reasons for leaving a layer to the CPU, by the layer's name."""
    return {
        found["name"]: " ".join(found["reason"].split()).removeprefix("- ")
        for found in _LEFT_ON_CPU.finditer(log)
    }


def _read_summary(summary: Path) -> dict[str, str]:
    with summary.open(newline="", encoding="utf-8") as stream:
        return next(csv.DictReader(stream))


def read_sequences(per_layer: Path) -> list[list[dict[str, str]]]:
    """The rows of Vela's list of the layers on the NPU, for each sequence of them; a TFLite
    operator that Vela split into several is listed as several.

    Vela repeats the heading where the NPU starts again after a layer on the CPU.
    """
    sequences: list[list[dict[str, str]]] = [[]]
    with per_layer.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["Name"] == "Name":
                sequences.append([])
            else:
                sequences[-1].append(row)
    return sequences


def _npu_layer(row: dict[str, str]) -> Layer:
    return Layer(
        operator=row["TFLite_operator"],
        name=row["Name"],
        place="npu",
        cycles=round(float(row["Op Cycles"])),
        sram_kib=float(row["SRAM Usage"]) / 1024,
    )
