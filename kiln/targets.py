"""Boards as data: ``targets/*.toml`` to frozen records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from kiln.errors import ModelError, RequestError, UnknownName
from kiln.records import read_record, read_toml
from kiln.request import Resize, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Firmware:
    """What the firmware's interpreter knows and how much memory it gives to it."""

    name: str
    source: str
    operators: tuple[str, ...]
    arena_kib: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputContract:
    """The model's input as the firmware fills it; ``scale`` and ``zero_point`` of the int8."""

    default_size: int
    multiple_of: int
    min: int
    dtype: Literal["int8"]
    scale: float
    zero_point: int
    resize: Resize


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashMap:
    """Where models lie in the board's flash, in bytes."""

    model_address: int
    model_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskContract:
    """Class counts that the firmware's post-processing can tell apart."""

    max_classes: int | None = None
    refused_classes: tuple[int, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VelaSettings:
    """The NPU and how Vela is to see the board's memories; ``ini`` is Vela's own config file."""

    accelerator: str
    system_config: str
    memory_mode: str
    optimise: Literal["Performance", "Size"]
    ini: Mapping[str, Mapping[str, str]]
    arguments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One board with one firmware."""

    name: str
    title: str
    description: str
    firmware: Firmware
    input: InputContract
    flash: FlashMap
    tasks: Mapping[str, TaskContract]
    vela: VelaSettings | None = None

    def check_size(self, imgsz: int) -> None:
        """Raises RequestError for an image size that the firmware cannot fill."""
        if imgsz < self.input.min or imgsz % self.input.multiple_of:
            step = self.input.multiple_of
            below = max(self.input.min, imgsz // step * step)
            near = f"{below} or {below + step}" if imgsz >= self.input.min else str(below)
            raise RequestError(
                f"IMGSZ={imgsz} does not fit {self.name}: its firmware takes multiples of "
                f"{step} from {self.input.min}",
                hint=f"use IMGSZ={near}",
            )

    def check_classes(self, task: Task, count: int) -> None:
        """Raises ModelError for a class count that the firmware cannot tell apart."""
        contract = self.tasks[task]
        refused = count in contract.refused_classes or (
            contract.max_classes is not None and count > contract.max_classes
        )
        if refused:
            raise ModelError(
                f"{count} classes for {task} would not be understood by {self.name}",
                hint=contract.reason,
            )


def target_names(folder: Path) -> list[str]:
    """Every target there is, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_target(folder: Path, name: str) -> Target:
    """Read one target; raises UnknownName, which names the nearest, or RequestError."""
    names = target_names(folder)
    if name not in names:
        raise UnknownName("target", name, names)
    target = read_record(Target, read_toml(folder / f"{name}.toml"), f"targets/{name}.toml")
    if target.name != name:
        raise RequestError(f"targets/{name}.toml calls itself {target.name!r}")
    return target
