"""A TFLite file as a model: its kind, its form, its NPU, and a sentence that describes it."""

from __future__ import annotations

import collections
import dataclasses

from stages.results.check_firmware import Kind, ModelDescription, Operators, Output
from stages.results.tensors import Tensor as TensorDescription
from stages.vela.npu.payload import accelerator_of
from stages.vela.tflite.file import NPU_OPERATOR, Tensor, TFLiteFile, open_file
from stages.vela.tflite.heads import (
    Heads,
    Shape,
    image_size,
    read_heads,
    unread_keypoints,
    unread_task,
)
from stages.vela.tflite.layer_traffic import count_all
from stages.yolo import BOX_SIDES, KEYPOINT_VALUES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A file and what kind of model it is.

    ``size`` is the side of the square image that it takes, None if it takes no such image;
    ``accelerator`` the NPU for which it is compiled, None if for none.
    """

    file: TFLiteFile
    kind: Kind
    size: int | None
    heads: Heads
    accelerator: str | None

    @property
    def cpu_operators(self) -> dict[str, int]:
        """How many operators of each type run on the CPU."""
        names = (each.name for each in self.file.operators if each.name != NPU_OPERATOR)
        return dict(sorted(collections.Counter(names).items()))


def read_model(content: bytes) -> Model:
    """Read an untrusted TFLite file; raises StepFailed if it is none or damaged."""
    file = open_file(content)
    size = image_size(file.inputs[0].shape) if len(file.inputs) == 1 else None
    names = sorted({accelerator_of(stream) for stream in file.command_streams()})
    return Model(
        file=file,
        kind="vela" if names else _kind(file),
        size=size,
        heads=read_heads(size, [tensor.shape for tensor in file.outputs], file.notes),
        accelerator=" and ".join(names) or None,
    )


def describe(model: Model) -> ModelDescription:
    """The description of a model in the step's result."""
    heads, file = model.heads, model.file
    return ModelDescription(
        kind=model.kind,
        what=sentence(model),
        task=heads.task,
        form=heads.form,
        imgsz=model.size,
        classes=heads.classes,
        keypoints=heads.keypoints,
        input=_described(file.inputs[0]) if file.inputs else None,
        outputs=tuple(
            Output(role=role, **dataclasses.asdict(_described(tensor)))
            for role, tensor in zip(heads.roles, file.outputs, strict=True)
        ),
        operators=Operators(
            npu=len(file.command_streams()) if model.kind == "vela" else None,
            cpu=model.cpu_operators,
        ),
        accelerator=model.accelerator,
        bytes=file.nbytes,
        counted=count_all(file.command_streams()),
    )


def sentence(model: Model) -> str:
    """Describe a model in one line."""
    size = f", {model.size}x{model.size}" if model.size else ""
    state = f"compiled for {model.accelerator}" if model.accelerator else model.kind
    return f"{_form(model)}{size}, {state}"


def shape_text(shape: Shape) -> str:
    """As ``[1,192,192,3]``."""
    return f"[{','.join(map(str, shape))}]"


def plural(count: int, noun: str) -> str:
    """As ``1 class`` or ``2 classes``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{ending}"


def _form(model: Model) -> str:
    heads = model.heads
    shapes = ", ".join(shape_text(tensor.shape) for tensor in model.file.outputs)
    if task := unread_task(model.file.notes):
        return f"a model for {task}, as its metadata say, with outputs {shapes}"
    if shape := unread_keypoints(model.file.notes):
        return f"a pose model with kpt_shape {shape}, as its metadata say, with outputs {shapes}"
    if heads.form == "unknown":
        return f"no form of YOLOv8 that Kiln knows, with outputs {shapes}"
    counts = [
        plural(number, noun)
        for number, noun in ((heads.classes, "class"), (heads.keypoints, "keypoint"))
        if number is not None
    ]
    if heads.form == "classifier":
        return f"a classifier, {', '.join(counts)}"
    if heads.form == "raw-heads":
        return f"YOLOv8 {heads.task} with raw heads, {', '.join(counts)}"
    if heads.task is None:
        rest = model.file.outputs[0].shape[1] - BOX_SIDES
        points = plural((rest - 1) // KEYPOINT_VALUES, "keypoint")
        counts = [f"{plural(rest, 'class')}, or 1 class and {points}"]
    return (
        f"YOLO {heads.task or 'detect or pose'} decoded in the graph into one output {shapes}, "
        f"as ultralytics exports it, {', '.join(counts)}"
    )


def _kind(file: TFLiteFile) -> Kind:
    types = {tensor.dtype for tensor in file.tensors}
    floats = any("float" in dtype for dtype in types)
    if floats and types & {"int8", "uint8", "int16"}:
        return "mixed"
    return "float32" if floats else "int8"


def _described(tensor: Tensor) -> TensorDescription:
    return TensorDescription(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )
