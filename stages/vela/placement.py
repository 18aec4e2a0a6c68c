"""Reads what Vela left behind: which operator runs where, and its estimate of the whole."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections import Counter
from pathlib import Path

from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
from ethosu.vela.tflite.Model import Model
from ethosu.vela.tflite.OperatorCode import OperatorCode

NPU_OPERATOR = "ethos-u"

_LEFT_ON_CPU = re.compile(
    r"^(?:Warning|Info): .*?'(?P<name>[^'\n]+)'"
    r".*(?:Placing on CPU instead|CPU only op).*\n(?P<reason>(?: .*\n)*)",
    re.MULTILINE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator of a TFLite file: its type and the name of its first output tensor."""

    operator: str
    name: str


def read_layers(model: bytes) -> list[Layer]:
    """The operators of a TFLite file in order; a custom operator's type is its own name."""
    root = Model.GetRootAs(model)
    builtin = {code: name for name, code in vars(BuiltinOperator).items() if name.isupper()}
    types = [_type_of(root.OperatorCodes(i), builtin) for i in range(root.OperatorCodesLength())]
    layers = []
    for graph in (root.Subgraphs(i) for i in range(root.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            name = graph.Tensors(operator.Outputs(0)).Name().decode()
            layers.append(Layer(operator=types[operator.OpcodeIndex()], name=name))
    return layers


def count(layers: list[Layer]) -> dict[str, int]:
    """How many layers there are of each type, by name."""
    return dict(sorted(Counter(layer.operator for layer in layers).items()))


def read_npu_layers(per_layer: Path) -> list[Layer]:
    """What Vela runs on the NPU: TFLite operators, one for each piece that it made of them.

    Vela writes the heading again wherever the NPU starts anew after a layer of the CPU.
    """
    with per_layer.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        return [
            Layer(operator=row["TFLite_operator"], name=row["Name"])
            for row in reader
            if row["Name"] != "Name"
        ]


def read_estimate(summary: Path) -> dict[str, float]:
    """Vela's estimate: memory in KiB, NPU cycles and milliseconds of one inference."""
    with summary.open(newline="", encoding="utf-8") as stream:
        row = next(csv.DictReader(stream))
    return {
        "sram_kib": float(row["sram_memory_used"]),
        "flash_kib": float(row["off_chip_flash_memory_used"]),
        "cycles": round(float(row["cycles_total"])),
        "inference_ms": float(row["inference_time"]) * 1000,
    }


def read_reasons(log: str) -> dict[str, str]:
    """Why Vela left a layer on the CPU, by the layer's name, in its own words."""
    return {
        found["name"]: " ".join(found["reason"].split()).removeprefix("- ")
        for found in _LEFT_ON_CPU.finditer(log)
    }


def _type_of(code: OperatorCode, builtin: dict[int, str]) -> str:
    if code.CustomCode() is not None:
        return str(code.CustomCode().decode())
    # Files for old interpreters keep small codes in the first field, newer ones fill the second.
    return builtin[max(code.DeprecatedBuiltinCode(), code.BuiltinCode())]
