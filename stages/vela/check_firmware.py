"""Check a model file against what a board's firmware accepts, before it is flashed.

``params``: the fields of ``stages.vela.tflite.firmware_checks.Contract``. ``in/``: model.tflite,
the file that would be flashed; on a board without an NPU perhaps reference.npz of the step
`reference`.

A model that breaks the contract does not fail the step: the result is not ``accepted`` and lists
the checks that fail. Only a file that is no TFLite file fails the step. What the board would refuse
unseen is not run here either: an interpreter need not survive it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from stages.contract import Events, Job, StepFailed, main
from stages.results.check_firmware import (
    ArenaUsage,
    Check,
    CheckFirmwareResult,
    FlashUsage,
    InterpreterTrial,
)
from stages.vela.tflite.arena import Arena, estimate, is_exact
from stages.vela.tflite.firmware_checks import (
    Contract,
    check_accelerator,
    check_arena,
    check_classes,
    check_flash,
    check_input,
    check_interpreter,
    check_kernels,
    check_operators,
    check_outputs,
)
from stages.vela.tflite.frame_check import check_frame
from stages.vela.tflite.model import Model, describe, read_model
from stages.vela.tflite.taken_for import check_taken_for
from stages.vela.tflm.runner import Trial, try_model

PACKAGES = ("ethos-u-vela", "tflite-micro", "numpy")

_PLANNED = "Vela's plan in the file"
_UNPLANNED = "the plan that TensorFlow Lite Micro makes"
_STRUCTURES = " and the interpreter's own structures, worked out for a 32-bit board"
_ALLOWANCE = ", with an allowance for the kernels of the operators on the CPU"
_RAN = (
    "TensorFlow Lite Micro on this 64-bit host, whose pointers are twice as long as the board's; "
    "kernels made for the board's chip may ask for scratch memory besides"
)


def run(job: Job, _events: Events) -> CheckFirmwareResult:
    """Read the file, try it in the interpreter if it runs on this host, and check it."""
    contract = Contract(**job.params)
    path = job.inputs / "model.tflite"
    model = read_model(path.read_bytes())
    reference = job.inputs / "reference.npz"
    seen = look_at(model, contract)
    trial = None
    if all(check.ok for check in seen) and contract.accelerator is None and model.kind != "vela":
        trial = try_model(path, usable_reference(reference, model))
    arena, source = measure_arena(model, trial)
    checks = [
        *seen,
        check_arena(model, contract, arena),
        check_flash(model, contract),
        *(trial_checks(trial) if trial else []),
    ]
    return CheckFirmwareResult(
        accepted=all(check.ok for check in checks),
        checks=tuple(checks),
        model=describe(model),
        arena=ArenaUsage(
            used_kib=arena.used / 1024,
            planned_kib=arena.planned / 1024,
            interpreter_kib=arena.interpreter / 1024,
            limit_kib=contract.arena_kib,
            source=source,
        ),
        flash=FlashUsage(used_kib=model.file.nbytes / 1024, limit_kib=contract.flash_kib),
        interpreter=None if trial is None else _trial_result(trial),
        versions={package: version(package) for package in PACKAGES},
    )


def look_at(model: Model, contract: Contract) -> list[Check]:
    """What the file itself shows, all checks that apply to this model."""
    checks = [
        check_input(model, contract),
        check_outputs(model, contract),
        check_classes(model, contract),
        check_taken_for(model, contract),
        check_frame(model, contract),
        check_operators(model, contract),
        check_accelerator(model, contract),
    ]
    return [check for check in checks if check is not None]


def trial_checks(trial: Trial) -> list[Check]:
    """What the interpreter of the board made of the file."""
    kernels = [check_kernels(trial)] if trial.images else []
    return [check_interpreter(trial), *kernels]


def measure_arena(model: Model, trial: Trial | None) -> tuple[Arena, str]:
    """The arena that a model takes, and how that is known."""
    if trial is not None and not trial.refusal:
        return Arena(planned=trial.head, interpreter=trial.tail), _RAN
    plan = _UNPLANNED if model.file.plan is None else _PLANNED
    allowance = "" if is_exact(model.file) else _ALLOWANCE
    return estimate(model.file), f"{plan}{_STRUCTURES}{allowance}"


def usable_reference(path: Path, model: Model) -> Path | None:
    """The reference if there is one and the model is int8; raises StepFailed if it is of another
    model.

    Float models are not compared: two builds of one float kernel may differ in the last bit.
    """
    if not path.exists() or model.kind != "int8":
        return None
    with np.load(path) as arrays:
        images = arrays["images"]
        shapes = [arrays[f"output_{i}"].shape[1:] for i in range(len(arrays.files) - 1)]
    wanted = [tensor.shape for tensor in model.file.outputs]
    sources = [(tensor.shape, tensor.dtype) for tensor in model.file.inputs]
    if sources != [((1, *images.shape[1:]), images.dtype.name)] or shapes != wanted:
        raise StepFailed(
            "model",
            f"reference.npz, with images {list(images.shape)}, is not of this model",
            hint="model.tflite and reference.npz must come from the same run of `reference`",
        )
    return path


def _trial_result(trial: Trial) -> InterpreterTrial:
    return InterpreterTrial(
        ran=not trial.refusal,
        images=trial.images,
        equal=not trial.difference and not trial.ties if trial.images else None,
        arena_bytes=trial.head + trial.tail,
        seconds=trial.seconds,
    )


if __name__ == "__main__":
    main(run)
