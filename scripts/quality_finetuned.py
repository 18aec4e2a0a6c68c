"""Fine-tunes one network to several coarsenesses by the steps of a build, for `bench_quality`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from kiln.plan.finetuning import finetune
from kiln.plan.request import BuildRequest
from kiln.plan.targets import Target
from scripts.stage_jobs import run_step

#: Parts of the plain file's cycles to come to; None: accuracy alone.
COARSENESSES = (None, 0.7, 0.6, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a fine-tuning starts from: the float and the int8 file, what Vela wrote of the latter
    and of the plain int8 file, and images, uint8 [n,S,S,3]."""

    float32: Path
    int8: Path
    compiled: Path
    plain: Path
    training: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """A fine-tuned int8 file, and how long that took."""

    name: str
    file: Path
    seconds: float


def finetuned(start: Start, request: BuildRequest, target: Target, work: Path) -> Iterator[Tuned]:
    """Fine-tune to each coarseness, one after the other."""
    models = {"float32.tflite": start.float32, "int8.tflite": start.int8}
    graph = run_step("stages.export.graph", work / "graph", {}, models).out
    inputs = {
        **{name: graph / name for name in ("network.json", "network.npz")},
        "layers.json": start.compiled / "layers.json",
        "start.csv": start.compiled / "summary.csv",
        "plain.csv": start.plain / "summary.csv",
        "training.npy": start.training,
    }
    for cycles in COARSENESSES:
        folder = work / f"finetuned-{cycles}"
        settings = dataclasses.replace(request.finetune, cycles=cycles)
        step = finetune(dataclasses.replace(request, finetune=settings), target)
        started = time.monotonic()
        learned = run_step(step.module, folder / "finetune", step.params, inputs).out
        seconds = time.monotonic() - started
        written = {"int8.tflite": start.int8, "learned.npz": learned / "learned.npz"}
        out = run_step("stages.export.requantize", folder / "requantize", {}, written).out
        name = "finetuned" if cycles is None else f"finetuned, cycles {cycles:g}"
        yield Tuned(name=name, file=out / "int8.tflite", seconds=seconds)
