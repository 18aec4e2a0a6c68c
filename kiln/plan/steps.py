"""The steps that prove what a model is worth: pictures, verify, evaluate, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kiln.plan.request import BuildRequest, Task
from kiln.plan.step import FromStep, Input, Step
from kiln.plan.targets import Target

_EVALUATION = FromStep(step="pictures", path="evaluation")
_PAIR = ("float32.tflite", "int8.tflite")
#: What a build judges, by the step that gives it.
JUDGED: Mapping[str, FromStep] = {
    "model.onnx": FromStep(step="onnx", path="model.onnx"),
    **{name: FromStep(step="quantize", path=name) for name in _PAIR},
}
REFERENCE = FromStep(step="reference", path="reference.npz")
_EVIDENCE = {
    "accuracy": FromStep(step="evaluate", path="evidence.json"),
    "operators": FromStep(step="compile", path="layers.json"),
    "layers": FromStep(step="layers", path="layers.json"),
    "curves": FromStep(step="train", path="curves.csv"),
}


def pictures_step(request: BuildRequest, target: Target, data: Input, imgsz: int) -> Step:
    """The pictures to calibrate and to judge with, as the board would see them."""
    resize = request.calibration.resize or target.input.resize
    return Step(
        name="pictures",
        title="prepare pictures",
        environment="train",
        module="stages.train.images",
        params={
            "imgsz": imgsz,
            "calibration": request.calibration.images,
            "evaluation": request.evaluation.images,
            "letterbox": resize == "letterbox",
        },
        inputs={"data": data, "dataset.json": FromStep(step="check", path="dataset.json")},
    )


def proof_steps(target: Target, task: Task, imgsz: int, model: FromStep) -> list[Step]:
    """Hold the file that would be flashed against the firmware's contract.

    Without an NPU the board computes what TFLite's reference kernels do, and the host can tell.
    """
    if target.vela is not None:
        return [verify_step(target, task, imgsz, model)]
    return [
        reference_step({"model.tflite": model, "evaluation": _EVALUATION}),
        verify_step(target, task, imgsz, model, REFERENCE),
    ]


def reference_step(inputs: Mapping[str, Input]) -> Step:
    """What TFLite's reference kernels give, on evaluation pictures or on noise."""
    return Step(
        name="reference",
        title="run the reference kernels",
        environment="export",
        module="stages.export.reference",
        params={},
        inputs=inputs,
    )


def verify_step(
    target: Target,
    task: Task,
    imgsz: int | None,
    model: Input,
    reference: FromStep | None = None,
) -> Step:
    """The checks; with ``reference`` TensorFlow Lite Micro must give those bytes too."""
    return Step(
        name="verify",
        title=f"verify against {target.firmware.name}",
        environment="vela",
        module="stages.vela.check_firmware",
        params=target.contract(task, imgsz),
        inputs={"model.tflite": model, **({"reference.npz": reference} if reference else {})},
    )


def evaluate_step(models: Mapping[str, Input]) -> Step:
    """Measure the accuracy of models: model.onnx, float32.tflite, int8.tflite, any of them."""
    return Step(
        name="evaluate",
        title="measure accuracy",
        environment="export",
        module="stages.export.evaluate",
        params={},
        inputs={**models, "evaluation": _EVALUATION},
    )


def layers_step() -> Step:
    models = {name: JUDGED[name] for name in _PAIR}
    return Step(
        name="layers",
        title="compare layer by layer",
        environment="export",
        module="stages.export.layers",
        params={},
        inputs={**models, "evaluation": _EVALUATION},
    )


def evidence_of(steps: Sequence[str]) -> dict[str, FromStep]:
    """Files that hold what the report shows, of the steps that a plan has."""
    return {name: source for name, source in _EVIDENCE.items() if source.step in steps}
