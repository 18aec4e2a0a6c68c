"""The hardware of a training: the GPU if one may be used and is there, else the CPU."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from stages.contract import StepFailed

_SHARED_MEMORY = Path("/dev/shm")
_MOST_WORKERS = 8
#: Threads of a reproducible training on any number of cores: they decide how sums are split, and so
#: rounded. On two cores, four threads take a tenth longer than two, eight take half as long again.
FIXED_THREADS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """``argument`` is ultralytics' name of the device."""

    kind: Literal["cpu", "cuda"]
    name: str
    argument: str


def choose_hardware(gpu: str) -> Hardware:
    """``gpu``: none, auto, required; raises StepFailed("device") if a required one is missing."""
    if gpu != "none" and torch.cuda.is_available():
        return Hardware(kind="cuda", name=torch.cuda.get_device_name(0), argument="0")
    if gpu == "required":
        raise StepFailed(
            "device",
            "a GPU is required, and torch sees none here",
            hint='set gpu = "auto" in [train] to train on the CPU, '
            "or see 'kiln doctor' for what the engine and the driver say",
        )
    return Hardware(kind="cpu", name=_cpu_name(), argument="cpu")


def set_threads(*, reproducible: bool) -> None:
    """Use a thread a core, or a fixed number; ultralytics would use one less than the host has."""
    torch.set_num_threads(FIXED_THREADS if reproducible else len(os.sched_getaffinity(0)))


def why_not_reproducible(
    hardware: Hardware, overrides: Mapping[str, Any], *, reproducible: bool
) -> str | None:
    """What the weights depend on besides the job; None if on nothing else."""
    if hardware.kind != "cpu":
        return f"device {hardware.kind}"
    if not reproducible:
        return "thread count follows the cores"
    return "ended by the clock" if overrides.get("time") else None


def hardware_arguments(
    hardware: Hardware, overrides: dict[str, Any], *, imgsz: int
) -> dict[str, Any]:
    """Training arguments that depend on the hardware; raises StepFailed("request")."""
    if hardware.kind == "cpu":
        return {"device": "cpu", "workers": 0, "amp": overrides.get("amp", False)}
    # bfloat16 needs neither loss scaling nor a check; ultralytics checks float16 with a network
    # that it downloads.
    amp = overrides.get("amp", "bf16" if torch.cuda.is_bf16_supported(False) else False)
    if amp not in ("bf16", False, "fp32"):
        raise StepFailed(
            "request",
            f"[train] amp = {amp!r}: float16 would be checked with a network that is downloaded",
            hint='amp = "bf16" or amp = false',
        )
    workers = overrides.get("workers", _workers_that_fit(imgsz, int(overrides["batch"])))
    return {"device": hardware.argument, "workers": workers, "amp": amp}


def _workers_that_fit(imgsz: int, batch: int) -> int:
    """How many loader processes fit into the shared memory, of which a container has little."""
    images = 16 * max(1, batch)  # four batches ahead for train, two of double size twice for val
    each = images * 3 * imgsz * imgsz
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)), free // each)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, 'CPU')}, {len(os.sched_getaffinity(0))} cores"
