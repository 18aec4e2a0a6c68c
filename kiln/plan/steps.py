"""The catalogue of steps: every step that Kiln can run, as data, by one function each.

The modules of ``stages`` say what a step takes and gives; here stands with which inputs and
parameters each is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from kiln.plan.demo_settings import demo_settings
from kiln.plan.request import BuildRequest, GpuChoice, Task
from kiln.plan.step import FromHost, FromStep, Input, Step
from kiln.plan.targets import CameraMode, Target

_DATASET = FromStep(step="check", path="dataset.json")
_FRAMES = FromStep(step="frames", path="data")
_EVALUATION = FromStep(step="images", path="evaluation")
_CALIBRATION = FromStep(step="images", path="calibration.npy")
_ONNX = FromStep(step="onnx", path="model.onnx")
FLOAT32 = FromStep(step="quantize", path="float32.tflite")
INT8 = FromStep(step="quantize", path="int8.tflite")
COMPILED = FromStep(step="compile", path="vela.tflite")
FINETUNED = FromStep(step="requantize", path="int8.tflite")
LEARNED = FromStep(step="finetune", path="learned.npz")
#: The int8 model with one scale for all weights of a layer: what a fine-tuned one is measured by.
PLAIN = FromStep(step="quantize-plain", path="int8.tflite")
COMPILED_PLAIN = FromStep(step="compile-plain", path="vela.tflite")
#: What the user calls the folder of images to fine-tune with.
FINETUNE_FOLDER = "finetune.folder"
OUTPUTS = FromStep(step="outputs", path="outputs.npz")

#: Files that hold what the report shows beyond figures.
EVIDENCE: Mapping[str, FromStep] = {
    "accuracy": FromStep(step="evaluate", path="evidence.json"),
    "operators": FromStep(step="compile", path="layers.json"),
    "layers": FromStep(step="layers", path="layers.json"),
    "curves": FromStep(step="train", path="curves.csv"),
    "finetuning": FromStep(step="finetune", path="curves.csv"),
}


DEFAULT_EPOCHS = 100
DEFAULT_BATCH = 16


def model_files(int8: FromStep) -> dict[str, FromStep]:
    """The files of a build that the user gets, by the end of their name, in the order in which they
    are made; of a fine-tuning also what it has learned."""
    learned = {} if int8 == INT8 else {"_learned.npz": LEARNED}
    return {
        ".onnx": _ONNX,
        "_float32.tflite": FLOAT32,
        **learned,
        "_full_integer_quant.tflite": int8,
    }


def evaluated(int8: FromStep) -> dict[str, Input]:
    """The forms of the network whose accuracy a build measures; of a fine-tuned one the plain int8
    form, too."""
    plain = {} if int8 == INT8 else {"plain.tflite": PLAIN}
    return {"model.onnx": _ONNX, "float32.tflite": FLOAT32, **plain, "int8.tflite": int8}


def reference_of(int8: FromStep) -> FromStep:
    """What the reference kernels give for an int8 model of a build."""
    return FromStep(step=int8.step, path="reference.npz")


def _module(environment: str, step: str, task: Task) -> str:
    """The module of a step that works differently for whole images than for objects in them."""
    return f"stages.{environment}.{step}{'_classes' if task == 'classify' else ''}"


def demo(task: Task) -> Step:
    """Draw the demo data set."""
    settings = demo_settings(task)
    return Step(
        name="demo",
        title="draw the demo data set",
        environment="train",
        module="stages.train.demo",
        params={
            "task": task,
            **{key: getattr(settings, key) for key in ("train", "val", "seed")},
        },
        inputs={},
    )


def fetch(kind: str, name: str) -> Step:
    """Fetch a published data set or weights: the one step that has a network."""
    return Step(
        name=f"fetch-{kind}",
        title=f"fetch {name}",
        environment="train",
        module="stages.train.fetch",
        params={"kind": kind, "name": name},
        inputs={},
        network=True,
    )


def check(task: Task, data: Input) -> Step:
    """The check that nothing is trained without."""
    return Step(
        name="check",
        title="check the data set",
        environment="train",
        module=_module("train", "check", task),
        params={"task": task},
        inputs={"data": data},
    )


def import_weights(request: BuildRequest, source: Input) -> Step:
    """Turn own or published weights into the canonical file."""
    suffix = PurePosixPath(request.weights or "").suffix
    file_name = "weights.safetensors" if suffix == ".safetensors" else "weights.pt"
    return Step(
        name="import",
        title="import the weights",
        environment="train",
        module="stages.train.import_weights",
        params={
            "task": request.task,
            "trust": request.trust_weights,
            **({} if request.trains else _other_activation(request)),
        },
        inputs={file_name: source},
    )


def _other_activation(request: BuildRequest) -> dict[str, str]:
    """The activation that MODEL names, if it is not that of YOLOv8 as it is."""
    activation = request.architecture.activation
    return {} if activation == "silu" else {"activation": activation}


def frames(request: BuildRequest, target: Target, data: Input, imgsz: int) -> Step:
    """The images to train on, as the board would see them but for single pixels: boards with one
    size of frame share a training.
    """
    mode = target.camera.mode(request.camera.mode)
    frame = {"width": mode.width, "height": mode.height, "framing": request.camera.framing}
    return Step(
        name="frames",
        title="look through the camera",
        environment="train",
        module=_module("train", "frames", request.task),
        params={"imgsz": imgsz, "camera": frame},
        inputs={"data": data, "dataset.json": _DATASET},
    )


def train(request: BuildRequest, start: Input | None, imgsz: int) -> Step:
    """Train from ``start``, or the architecture from nothing."""
    settings = request.train
    demo = demo_settings(request.task) if request.data is None else None
    gpu = chosen_gpu(request)
    return Step(
        name="train",
        title="train",
        environment="train",
        module="stages.train.train",
        params={
            "task": request.task,
            "model": request.architecture.plain,
            **_other_activation(request),
            "imgsz": imgsz,
            "epochs": settings.epochs or (demo.epochs if demo else DEFAULT_EPOCHS),
            "batch": settings.batch or (demo.batch if demo else DEFAULT_BATCH),
            "seed": settings.seed,
            "gpu": gpu,
            "reproducible": reproducible(request),
            "overrides": overrides(request),
        },
        inputs={
            "data": _FRAMES,
            "dataset.json": _DATASET,
            **({} if start is None else {"weights.safetensors": start}),
        },
        gpu=gpu,
        resumable=True,
    )


def chosen_gpu(request: BuildRequest) -> GpuChoice:
    """Whether what learns may take a GPU; what must be reproducible may not."""
    return "none" if request.train.reproducible else request.train.gpu


def overrides(request: BuildRequest) -> dict[str, Any]:
    """The training arguments of ultralytics that differ from its own."""
    demo = demo_settings(request.task) if request.data is None else None
    return {**(demo.overrides if demo else {}), **request.train.overrides}


def reproducible(request: BuildRequest) -> bool:
    """Whether weights are to be the same on any number of cores; of the demo they are."""
    asked = request.train.reproducible
    return request.data is None if asked is None else asked


def images(request: BuildRequest, target: Target, data: Input, imgsz: int) -> Step:
    """The images to calibrate and to evaluate with, as the board would see them."""
    camera, mode = target.camera, target.camera.mode(request.camera.mode)
    return Step(
        name="images",
        title="prepare images",
        environment="train",
        module=_module("train", "images", request.task),
        params={
            "imgsz": imgsz,
            "camera": {
                "width": mode.width,
                "height": mode.height,
                "framing": request.camera.framing,
                "sampling": camera.sampling,
                "pixels": camera.pixels,
            },
            "calibration": request.calibration.images,
            "evaluation": request.evaluation.images,
            **({"training": request.finetune.images} if request.finetunes else {}),
            **({"skeleton": request.skeleton} if request.skeleton else {}),
        },
        inputs={
            "data": data,
            "dataset.json": _DATASET,
            **({"finetune": FromHost(source=FINETUNE_FOLDER)} if request.finetune_folder else {}),
        },
    )


def onnx(weights: Input, imgsz: int) -> Step:
    """Export the network with the outputs that the firmware reads."""
    return Step(
        name="onnx",
        title="export to ONNX",
        environment="train",
        module="stages.train.onnx",
        params={"imgsz": imgsz},
        inputs={"weights.safetensors": weights},
    )


def quantize(request: BuildRequest, target: Target) -> Step:
    """Quantise to full int8, with the outputs in the order that the firmware wants, if any."""
    contract = target.task(request.task)
    return Step(
        name="quantize",
        title="quantise to int8",
        environment="export",
        module="stages.export.quantize",
        params={
            # A fine-tuning goes on from the coarsest weights that rounding alone can find.
            "granularity": "mixed" if request.finetunes else request.quantize.granularity,
            "order": list(contract.outputs) if contract.order == "fixed" else None,
        },
        inputs={"model.onnx": _ONNX, "calibration.npy": _CALIBRATION},
    )


def compile_npu(target: Target, imgsz: int, int8: FromStep) -> Step:
    """Compile the int8 model with Vela, and execute the result; for a target with an NPU."""
    params = target.compilation(imgsz)
    proof = {"reference.npz": reference_of(int8)} if target.vela and target.vela.executed else {}
    return Step(
        name="compile",
        title=f"compile for {params['accelerator']}",
        environment="vela",
        module="stages.vela.compile",
        params=params,
        inputs={"int8.tflite": int8, **proof},
    )


def reference(model: Input) -> Step:
    """What TFLite's reference kernels give, for a file that no build has made."""
    return Step(
        name="reference",
        title="run the reference kernels",
        environment="export",
        module="stages.export.reference",
        params={},
        inputs={"model.tflite": model},
    )


def describe(model: Input) -> Step:
    """Say what a TFLite file is."""
    return Step(
        name="describe",
        title="read the file",
        environment="vela",
        module="stages.vela.describe",
        params={},
        inputs={"model.tflite": model},
    )


def check_firmware(
    request: BuildRequest,
    target: Target,
    imgsz: int | None,
    model: Input,
    *,
    reference: Input | None = None,
) -> Step:
    """Hold the file that would be flashed against the firmware's contract.

    With ``reference``, a reference.npz, TensorFlow Lite Micro must give its bytes too.
    """
    return Step(
        name="check-firmware",
        title=f"check against {target.firmware.name}",
        environment="vela",
        module="stages.vela.check_firmware",
        params=target.contract(request.task, imgsz, request.camera.mode),
        inputs={"model.tflite": model, **({"reference.npz": reference} if reference else {})},
    )


def outputs(model: Input, *, images: int | None = None) -> Step:
    """Run a file as the board does on the evaluation images, at most so many of them."""
    return Step(
        name="outputs",
        title="run the file as the board does",
        environment="vela",
        module="stages.vela.outputs",
        params={"images": images},
        inputs={"model.tflite": model, "evaluation": _EVALUATION},
    )


def evaluate(request: BuildRequest, target: Target, models: Mapping[str, Input]) -> Step:
    """Measure the accuracy of models: model.onnx, float32.tflite, int8.tflite, and outputs.npz of a
    compiled one, any of them."""
    mode = target.camera.mode(request.camera.mode)
    return Step(
        name="evaluate",
        title="measure accuracy",
        environment="export",
        module=_module("export", "evaluate", request.task),
        params={"frame": [mode.width, mode.height]},
        inputs={**models, "evaluation": _EVALUATION},
    )


def layers(int8: FromStep) -> Step:
    """Compare the int8 model with the float model, layer by layer."""
    return Step(
        name="layers",
        title="compare layer by layer",
        environment="export",
        module="stages.export.layers",
        params={},
        inputs={"float32.tflite": FLOAT32, "int8.tflite": int8, "evaluation": _EVALUATION},
    )


def difference(name: str, suffix: str) -> Step:
    """Say where two files of a model differ, ``left`` and ``right`` of this host."""
    return Step(
        name="difference",
        title=f"compare {name}",
        environment="export",
        module="stages.export.difference",
        params={"suffix": suffix},
        inputs={f"{side}.{suffix}": FromHost(source=side) for side in ("left", "right")},
    )


def emulator_frames(task: Task, mode: CameraMode, *, score: float, candidates: int) -> Step:
    """What an emulated board sees: frames of a camera mode and what the model of the step `outputs`
    finds in them, at most ``candidates`` of at least ``score``, before suppression.
    """
    return Step(
        name="emulator-frames",
        title="decode what the model sees",
        environment="export",
        module=_module("export", "emulator_frames", task),
        params={
            "frame": [mode.width, mode.height],
            "score": score,
            "candidates": candidates,
        },
        inputs={"outputs.npz": OUTPUTS, "evaluation": _EVALUATION},
    )
