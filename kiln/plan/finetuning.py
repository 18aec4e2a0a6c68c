"""The steps of a fine-tuning: from the int8 model to the one whose weights were learned."""

from __future__ import annotations

import dataclasses

from kiln.plan import steps
from kiln.plan.request import BuildRequest
from kiln.plan.step import FromStep, Step
from kiln.plan.targets import Target


def quantize_plain(request: BuildRequest, target: Target) -> Step:
    """Quantise as TensorFlow Lite's users do: what a fine-tuning is measured by."""
    step = steps.quantize(request, target)
    return dataclasses.replace(
        step,
        name=steps.PLAIN.step,
        title="quantise to plain int8, to compare",
        params={**step.params, "granularity": "per-tensor"},
    )


def compile_before(target: Target, imgsz: int) -> list[Step]:
    """Compile the plain int8 model, and the one that a fine-tuning starts from."""
    return [
        dataclasses.replace(steps.compile_npu(target, imgsz, int8), name=name, title=title)
        for name, title, int8 in (
            (steps.COMPILED_PLAIN.step, "compile plain int8, to compare", steps.PLAIN),
            ("compile-start", "compile what the fine-tuning starts from", steps.INT8),
        )
    ]


def graph() -> Step:
    """Take the int8 network apart, for a fine-tuning."""
    return Step(
        name="graph",
        title="read the int8 network",
        environment="export",
        module="stages.export.graph",
        params={},
        inputs={"float32.tflite": steps.FLOAT32, "int8.tflite": steps.INT8},
    )


def finetune(request: BuildRequest, target: Target) -> Step:
    """Train the int8 network once more, in the board's arithmetic."""
    settings, gpu = request.finetune, steps.chosen_gpu(request)
    estimates = {
        "layers.json": FromStep(step="compile-start", path="layers.json"),
        "start.csv": FromStep(step="compile-start", path="summary.csv"),
        "plain.csv": FromStep(step=steps.COMPILED_PLAIN.step, path="summary.csv"),
    }
    return Step(
        name="finetune",
        title="fine-tune for the NPU" if target.vela else "fine-tune for int8",
        environment="train",
        module="stages.train.finetune",
        params={
            "updates": settings.updates,
            "batch": settings.batch,
            "seed": request.train.seed,
            "gpu": gpu,
            "reproducible": steps.reproducible(request),
            "overrides": steps.overrides(request),
            "cycles": settings.cycles,
            "flash_kib": settings.flash_kib,
        },
        inputs={
            "network.json": FromStep(step="graph", path="network.json"),
            "network.npz": FromStep(step="graph", path="network.npz"),
            "training.npy": FromStep(step="images", path="training.npy"),
            **(estimates if target.vela else {}),
        },
        gpu=gpu,
        resumable=True,
    )


def requantize() -> Step:
    """Write what a fine-tuning has learned into the int8 model."""
    return Step(
        name="requantize",
        title="write the learned weights",
        environment="export",
        module="stages.export.requantize",
        params={},
        inputs={
            "int8.tflite": steps.INT8,
            "learned.npz": steps.LEARNED,
        },
    )
