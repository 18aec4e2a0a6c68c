"""Request and target to the steps of a build: pure, no file is opened here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from kiln.plan.request import BuildRequest, GpuChoice
from kiln.plan.step import FromHost, FromStep, Input, Step
from kiln.plan.steps import (
    JUDGED,
    evaluate_step,
    evidence_of,
    layers_step,
    pictures_step,
    proof_steps,
)
from kiln.plan.targets import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in the order in which they run; the files that the user gets, by name, the last of
    them the one that goes onto the board; and what the report shows beyond figures, by name.
    """

    name: str
    target: Target
    request: BuildRequest
    imgsz: int
    notes: tuple[str, ...]
    steps: tuple[Step, ...]
    files: Mapping[str, FromStep]
    evidence: Mapping[str, FromStep]

    @property
    def deployed(self) -> str:
        """The name of the file that goes onto the board."""
        return list(self.files)[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How large the demo data set is, and how it is trained where the user does not say."""

    train: int
    val: int
    epochs: int
    batch: int
    overrides: Mapping[str, Any]


#: What reaches its accuracy soonest on two CPU cores: many small steps, and no mosaics, which a
#: short training has no time to learn from.
DEMO = DemoSettings(
    train=256,
    val=48,
    epochs=14,
    batch=8,
    overrides={"optimizer": "AdamW", "lr0": 0.002, "momentum": 0.9, "mosaic": 0.0},
)
DEMO_SEED = 0

DEFAULT_EPOCHS = 100
DEFAULT_BATCH = 16


def make_plan(request: BuildRequest, target: Target) -> Plan:
    """Decide every step of a build; raises RequestError if the target cannot take the request."""
    imgsz = request.imgsz or target.input.default_size
    target.check_size(imgsz)
    target.task(request.task)
    data, data_steps = data_steps_of(request)
    weights, weight_steps = _weight_steps(request, data, imgsz)
    pictures = pictures_step(request, target, data, imgsz)
    onnx = _onnx(weights, imgsz)
    steps = [*data_steps, *weight_steps, pictures, onnx, _quantize(request, target)]
    deployed = FromStep(step="quantize", path="int8.tflite")
    name = request.name or _default_name(request, imgsz)
    files = {
        f"{name}.safetensors": weights,
        f"{name}.onnx": FromStep(step="onnx", path="model.onnx"),
        f"{name}_float32.tflite": FromStep(step="quantize", path="float32.tflite"),
        f"{name}_full_integer_quant.tflite": deployed,
    }
    if target.vela is not None:
        steps.append(_compile(target, imgsz))
        deployed = FromStep(step="compile", path="vela.tflite")
        files[f"{name}_full_integer_quant_vela.tflite"] = deployed
    steps += proof_steps(target, request.task, imgsz, deployed)
    steps.append(evaluate_step(JUDGED))
    if request.evaluation.layers:
        steps.append(layers_step())
    return Plan(
        name=name,
        target=target,
        request=request,
        imgsz=imgsz,
        notes=tuple(_notes(request)),
        steps=tuple(steps),
        files=files,
        evidence=evidence_of([step.name for step in steps]),
    )


def needs_host_data(request: BuildRequest) -> bool:
    """True if the data set lies on this host, rather than being drawn or fetched."""
    return request.data is not None and PurePosixPath(request.data).is_absolute()


def data_steps_of(request: BuildRequest) -> tuple[Input, list[Step]]:
    """Where the data set comes from, and the check that nothing is trained without."""
    steps: list[Step] = []
    data: Input
    if request.data is None:
        steps.append(
            Step(
                name="demo",
                title="draw the demo data set",
                environment="train",
                module="stages.train.demo",
                params={
                    "task": request.task,
                    "train": DEMO.train,
                    "val": DEMO.val,
                    "seed": DEMO_SEED,
                },
                inputs={},
            )
        )
        data = FromStep(step="demo", path="data")
    elif needs_host_data(request):
        data = FromHost(source="data")
    else:
        steps.append(_fetch("fetch-data", "data", request.data))
        data = FromStep(step="fetch-data", path="data")
    steps.append(
        Step(
            name="check",
            title="check the data set",
            environment="train",
            module="stages.train.check",
            params={"task": request.task},
            inputs={"data": data},
        )
    )
    return data, steps


def _weight_steps(request: BuildRequest, data: Input, imgsz: int) -> tuple[FromStep, list[Step]]:
    """Own or published weights are imported; then they are trained, or are final as they are."""
    steps: list[Step] = []
    start: Input | None = None
    if request.weights is not None and request.weights != "scratch":
        source: Input = FromHost(source="weights")
        if request.weights_file is None:
            steps.append(_fetch("fetch-weights", "weights", request.weights))
            source = FromStep(step="fetch-weights", path="weights.pt")
        suffix = PurePosixPath(request.weights).suffix
        file_name = "weights.safetensors" if suffix == ".safetensors" else "weights.pt"
        steps.append(
            Step(
                name="import",
                title="import the weights",
                environment="train",
                module="stages.train.import_weights",
                params={"task": request.task, "trust": request.trust_weights},
                inputs={file_name: source},
            )
        )
        start = FromStep(step="import", path="weights.safetensors")
    if request.trains:
        steps.append(_train(request, data, start, imgsz))
    return FromStep(step=steps[-1].name, path="weights.safetensors"), steps


def _fetch(name: str, kind: str, what: str) -> Step:
    return Step(
        name=name,
        title=f"fetch {what}",
        environment="train",
        module="stages.train.fetch",
        params={"kind": kind, "name": what},
        inputs={},
        network=True,
    )


def _train(request: BuildRequest, data: Input, start: Input | None, imgsz: int) -> Step:
    settings = request.train
    demo = DEMO if request.data is None else None
    gpu: GpuChoice = "none" if settings.reproducible else settings.gpu
    inputs: dict[str, Input] = {
        "data": data,
        "dataset.json": FromStep(step="check", path="dataset.json"),
    }
    if start is not None:
        inputs["weights.safetensors"] = start
    return Step(
        name="train",
        title="train",
        environment="train",
        module="stages.train.train",
        params={
            "task": request.task,
            "model": request.architecture,
            "imgsz": imgsz,
            "epochs": settings.epochs or (demo.epochs if demo else DEFAULT_EPOCHS),
            "batch": settings.batch or (demo.batch if demo else DEFAULT_BATCH),
            "seed": settings.seed,
            "gpu": gpu,
            "reproducible": bool(demo) if settings.reproducible is None else settings.reproducible,
            "overrides": {**(demo.overrides if demo else {}), **settings.overrides},
        },
        inputs=inputs,
        gpu=gpu,
        resumable=True,
    )


def _onnx(weights: Input, imgsz: int) -> Step:
    return Step(
        name="onnx",
        title="export raw heads",
        environment="train",
        module="stages.train.onnx",
        params={"imgsz": imgsz},
        inputs={"weights.safetensors": weights},
    )


def _quantize(request: BuildRequest, target: Target) -> Step:
    form = target.task(request.task)
    return Step(
        name="quantize",
        title="quantise to int8",
        environment="export",
        module="stages.export.quantize",
        params={
            "granularity": request.quantize.granularity,
            "order": list(form.outputs) if form.order == "fixed" else None,
        },
        inputs={
            "model.onnx": FromStep(step="onnx", path="model.onnx"),
            "calibration.npy": FromStep(step="pictures", path="calibration.npy"),
        },
    )


def _compile(target: Target, imgsz: int) -> Step:
    assert target.vela is not None
    return Step(
        name="compile",
        title=f"compile for {target.vela.accelerator}",
        environment="vela",
        module="stages.vela.compile",
        params=target.compilation(imgsz),
        inputs={"int8.tflite": FromStep(step="quantize", path="int8.tflite")},
    )


def _default_name(request: BuildRequest, imgsz: int) -> str:
    """Own weights keep their name; a training is named by architecture and data set."""
    if not request.trains and request.weights is not None:
        return f"{_stem(request.weights)}-{imgsz}"
    suffix = "-pose" if request.task == "pose" else ""
    return f"{request.architecture}{suffix}-{_data_name(request.data)}-{imgsz}"


def _data_name(data: str | None) -> str:
    """A file called data.yaml says nothing; its folder does."""
    if data is None:
        return "demo"
    stem = _stem(data)
    return _clean(PurePosixPath(data).parent.name) if stem == "data" else stem


def _stem(text: str) -> str:
    return _clean(PurePosixPath(urlsplit(text).path if "://" in text else text).stem)


def _clean(text: str) -> str:
    """Letters, digits, dots, dashes and underscores: what every file system and shell takes."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)
    return kept.strip(".-_")[:60] or "model"


def _notes(request: BuildRequest) -> list[str]:
    """What a user should know before anything runs."""
    notes = []
    if request.data is None:
        notes.append("no DATA given: using the built-in demo data set")
    if request.trains and request.train.reproducible and request.train.gpu == "auto":
        notes.append("reproducible training: on the CPU, also where there is a GPU")
    if not request.trains and request.weights_file is not None:
        notes.append(
            f"own weights {request.weights_file.name}: no training (EPOCHS=n trains them further)"
        )
        if request.data is None:
            notes.append("calibrating own weights on the demo pictures costs accuracy: pass DATA=")
    return notes
