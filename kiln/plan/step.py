"""One step of a plan, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kiln.executors.environments import EnvironmentName
from kiln.executors.protocol import Gpu


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromHost:
    """An input that the user brought: ``data``, ``weights`` or ``finetune.folder``."""

    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromStep:
    """An input that an earlier step gave: a file, a folder, or all of its outputs ("")."""

    step: str
    path: str = ""


Input = FromHost | FromStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a plan."""

    name: str
    title: str
    environment: EnvironmentName
    module: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Input]
    network: bool = False
    gpu: Gpu = "none"
    resumable: bool = False
