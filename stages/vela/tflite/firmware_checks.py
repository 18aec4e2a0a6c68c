"""A firmware's requirements of a model, one check for each thing that can be wrong.

A check has what was found, what is allowed, and what helps if they do not agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from stages.results.check_firmware import Check
from stages.results.dataset import Task
from stages.vela.tflite.arena import Arena
from stages.vela.tflite.file import Tensor
from stages.vela.tflite.heads import DETECT_ROLES
from stages.vela.tflite.model import Model, plural, shape_text
from stages.vela.tflite.notes import noted_help
from stages.vela.tflite.probabilities import probabilities_help
from stages.vela.tflm.runner import Trial
from stages.yolo import BOX_CHANNELS, BOX_SIDES

#: The firmware fills the input as if its scale were the wanted one, so one that differs makes every
#: pixel brighter or darker. In parts of the scale: what nobody sees, and what is the same number.
SCALE_TOLERANCE = 0.02
SAME_SCALE = 1e-3
#: Scores of an output decoded in the graph are multiplied by 100 only below this scale; without,
#: none ever reaches a threshold in percent. Source: el_algorithm_yolov8.cpp, postprocess.
DECODED_SCALE = np.float32(0.1)

_KIB = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What a firmware accepts, for one task; the step's parameters.

    ``sizes`` lists the accepted image sizes, () for all that ``input`` allows; ``order`` is
    ``fixed`` if output i must be the i-th of ``outputs``; ``keypoints`` is the number for which the
    firmware is built; ``accelerator`` is None on a board without an NPU. ``decoded_max_classes`` is
    the most classes that the firmware accepts in one output decoded in the graph, None if it
    accepts no such output. ``min_classes`` is the fewest of a classifier. ``tried`` are the forms
    for which it looks, in this order, with ``exact_outputs`` each for its number of outputs; those
    of ``forms`` are decoded as the task. ``frames``: [width, height] of the camera's frames, first
    in the mode in which the model is to run, then in the others.
    """

    task: Task
    input: Mapping[str, Any]
    sizes: Sequence[int]
    outputs: Sequence[str]
    order: Literal["any", "fixed"]
    max_classes: int | None
    refused_classes: Sequence[int]
    keypoints: int | None
    reason: str
    operators: Sequence[str]
    arena_kib: float
    flash_kib: float
    accelerator: str | None
    firmware: str
    min_classes: int = 1
    per_channel: bool = False
    decoded_max_classes: int | None = None
    forms: Sequence[str] = ()
    tried: Sequence[str] = ()
    exact_outputs: bool = False
    frames: Sequence[Sequence[int]] = ()


def check_input(model: Model, contract: Contract) -> Check:
    """One square image, int8, quantised as the firmware writes its pixels."""
    sources = model.file.inputs
    return _check(
        name="input",
        title="input",
        figure="; ".join(map(_tensor_text, sources)) or "none",
        limit=_input_limit(contract),
        help=_input_help(model, sources[0], contract)
        if len(sources) == 1
        else "give a model that takes one image and nothing else",
        note=_input_note(sources[0], contract) if len(sources) == 1 else "",
    )


def check_outputs(model: Model, contract: Contract) -> Check:
    """Number, shapes and type of the outputs, and their order if the firmware relies on it."""
    heads = model.heads
    read = _read_outputs(model)
    types = sorted({tensor.dtype for tensor in read} - {"int8"})
    shapes = [shape_text(tensor.shape) for tensor in model.file.outputs]
    is_named = heads.form in ("raw-heads", "classifier")
    named = heads.roles if is_named else [None] * len(shapes)
    found = [role or shape for role, shape in zip(named, shapes, strict=True)]
    points = f", {heads.keypoints} keypoints" if contract.keypoints and heads.keypoints else ""
    order = ", in any order" if contract.order == "any" else ", in this order"
    order = order if len(contract.outputs) > 1 else " from 0 to 1"
    wanted = f", {contract.keypoints} keypoints" if contract.keypoints else ""
    decoded = contract.decoded_max_classes if contract.task == "detect" else None
    other = f"; or one decoded [1,4+classes,N], up to {decoded} classes" if decoded else ""
    ignored = ", ".join(shapes[len(read) :])
    return _check(
        name="outputs",
        title="outputs",
        figure=", ".join([*found, *types]) + points,
        limit=f"{', '.join(contract.outputs)}{order}, int8{wanted}{other}",
        help=_outputs_help(model, contract, types),
        note=f"the firmware reads the first {len(read)} and ignores {ignored}" if ignored else "",
    )


def check_classes(model: Model, contract: Contract) -> Check | None:
    """The number of classes; None if the outputs do not show it, or are of another task."""
    classes, decoded = model.heads.classes, model.heads.form == "decoded"
    if decoded and contract.task == "detect":  # the firmware takes all but the box as scores
        classes = model.file.outputs[0].shape[1] - BOX_SIDES
    if classes is None or model.heads.task not in (contract.task, None):
        return None
    most = contract.decoded_max_classes if decoded else contract.max_classes
    refused = () if decoded else contract.refused_classes
    least = contract.min_classes
    limits = [f"at least {least}"] if least > 1 else []
    limits += [f"at most {most}"] if most is not None else []
    limits += [f"any but {', '.join(map(str, refused))}"] if refused else []
    fits = classes >= least and (most is None or classes <= most) and classes not in refused
    return _check(
        name="classes",
        title="classes",
        figure=plural(classes, "class"),
        limit=" and ".join(limits) or "any",
        help=""
        if fits
        else (contract.reason or "train with fewer classes") + _taken_for(model, contract),
    )


def check_operators(model: Model, contract: Contract) -> Check:
    """The interpreter on the board has every operator that is left to the CPU."""
    found = model.cpu_operators
    unknown = [f"{name} {count}" for name, count in found.items() if name not in contract.operators]
    if unknown and contract.accelerator and model.kind != "vela":
        remedy = "compile the model for the NPU, which runs these"
    else:
        remedy = (
            "export it with Kiln, which leaves none on the CPU"
            if contract.accelerator
            else "use other activations and layers, and leave input and outputs int8"
        )
    known = ", ".join(f"{name} {count}" for name, count in found.items()) or "none"
    return _check(
        name="operators",
        title="operators on the CPU",
        figure=f"{', '.join(unknown)} unknown to {contract.firmware}" if unknown else known,
        limit=", ".join(sorted(contract.operators)),
        help=remedy if unknown else "",
    )


def check_accelerator(model: Model, contract: Contract) -> Check:
    """The command stream is compiled for the board's NPU, or there is neither of them."""
    wanted, found = contract.accelerator, model.accelerator
    if wanted == found:
        remedy = ""
    elif wanted is None:
        remedy = "give the int8 file as it was before Vela: *_full_integer_quant.tflite"
    else:
        remedy = f"compile the int8 file from before Vela for {wanted}"
    return _check(
        name="accelerator",
        title="NPU",
        figure=found or "not compiled for an NPU",
        limit=wanted or "no NPU",
        help=remedy,
    )


def check_arena(model: Model, contract: Contract, arena: Arena) -> Check:
    """Tensors and interpreter fit into the memory that the firmware reserves."""
    fits = arena.used <= contract.arena_kib * _KIB
    return _check(
        name="arena",
        title="tensor arena",
        # Two decimals, because a hundred bytes may decide.
        figure=" + ".join(f"{size / _KIB:.2f} KiB" for size in (arena.planned, arena.interpreter)),
        limit=f"{contract.arena_kib:g} KiB",
        help="" if fits else _arena_help(model, contract, arena),
    )


def check_flash(model: Model, contract: Contract) -> Check:
    """The file fits into the part of the flash in which the firmware looks for models."""
    remedy = "a narrower MODEL; IMGSZ hardly matters here"
    if model.kind == "float32":
        remedy = "quantise to int8, which takes a quarter"
    elif contract.per_channel:
        remedy = f"QUANT=per-tensor, or {remedy}"
    fits = model.file.nbytes <= contract.flash_kib * _KIB
    return _check(
        name="flash",
        title="file on the flash",
        figure=f"{model.file.nbytes / _KIB:.1f} KiB",
        limit=f"{contract.flash_kib:g} KiB",
        help="" if fits else remedy,
    )


def check_interpreter(trial: Trial) -> Check:
    """TensorFlow Lite Micro loads the model, and runs it if there are images."""
    ran = f"runs {plural(trial.images, 'image')}" if trial.images else "loads"
    return _check(
        name="interpreter",
        title="TensorFlow Lite Micro",
        figure=trial.refusal or ran,
        limit="loads and runs",
        help="use layers that its int8 kernels know" if trial.refusal else "",
    )


def check_kernels(trial: Trial) -> Check:
    """Its kernels give exactly the values of TensorFlow Lite's reference kernels."""
    equal = f"equal on {plural(trial.images, 'image')}"
    if trial.ties:
        equal += f", but for {plural(trial.ties, 'value')} rounded the other way"
    return _check(
        name="kernels",
        title="same values as TFLite",
        figure=trial.difference or equal,
        limit="equal to the reference kernels, byte for byte but for ties in rounding",
        help="report the model: its accuracy here says nothing about the board"
        if trial.difference
        else "",
    )


def _check(*, name: str, title: str, figure: str, limit: str, help: str, note: str = "") -> Check:
    """A check that is passed if it needs no ``help``; only then it has its ``note``."""
    return Check(
        name=name,
        title=title,
        figure=figure,
        limit=limit,
        help=help,
        ok=not help,
        note="" if help else note,
    )


def _input_limit(contract: Contract) -> str:
    rules = contract.input
    sizes = (
        f"S one of {', '.join(map(str, contract.sizes))}"
        if contract.sizes
        else f"S a multiple of {rules['multiple_of']} from {rules['min']} on"
    )
    return (
        f"[1,S,S,3] or [1,S,S,1], {sizes}, {rules['dtype']}, "
        f"scale {_scale_text(rules['scale'])}, zero point {rules['zero_point']}"
    )


def _input_help(model: Model, source: Tensor, contract: Contract) -> str:
    """What helps with the first thing that is wrong about the input; "" if nothing is wrong."""
    rules = contract.input
    if model.size is None:
        return "export for a square image of fixed size, [1,S,S,3]"
    if contract.sizes and model.size not in contract.sizes:
        return f"IMGSZ={' or '.join(map(str, contract.sizes))}"
    if model.size < rules["min"] or model.size % rules["multiple_of"]:
        return f"an IMGSZ that is a multiple of {rules['multiple_of']}, {rules['min']} or more"
    if source.dtype != rules["dtype"]:
        return f"quantise in full, the input to {rules['dtype']} too"
    scale = rules["scale"]
    if source.scale is None or abs(source.scale - scale) > SCALE_TOLERANCE * scale:
        return "calibrate on images that reach from 0 to 255, given to the model as 0..1"
    if source.zero_point != rules["zero_point"]:
        return "calibrate on images given to the model as 0..1, not around 0"
    return ""


def _input_note(source: Tensor, contract: Contract) -> str:
    """What another scale does to the pixels, if it is accepted."""
    share = (source.scale or 0) / contract.input["scale"] - 1
    if abs(share) <= SAME_SCALE:
        return ""
    effect = f"{100 * abs(share):.1f} % {'brighter' if share > 0 else 'darker'}"
    return f"the board's pixels are {effect} to this model than its images were"


def _read_outputs(model: Model) -> list[Tensor]:
    """The outputs that the firmware reads: those behind the ones of its form are ignored."""
    outputs = model.file.outputs
    if model.heads.form not in ("raw-heads", "classifier"):
        return outputs
    roles = zip(model.heads.roles, outputs, strict=True)
    return [tensor for role, tensor in roles if role is not None]


def _outputs_help(model: Model, contract: Contract, types: Sequence[str]) -> str:
    """What helps with the first thing that is wrong about the outputs; "" if nothing is wrong."""
    heads = model.heads
    if noted := noted_help(model, contract.task):
        return noted
    if heads.form == "unknown":
        return "export raw heads with Kiln from the trained weights"
    if heads.form == "decoded":
        helps = _decoded_help(model, contract)
        if helps:
            return helps
    elif heads.task != contract.task:
        return f"TASK={heads.task}: the model is one for {heads.task}"
    if types:
        return "quantise in full, the outputs to int8 too"
    if not all(tensor.scale for tensor in _read_outputs(model)):
        return (
            "quantise with a converter that writes the outputs' scales: without one the firmware "
            "reads nothing but zeros"
        )
    if heads.form == "classifier":
        return probabilities_help(model.file.outputs[0])
    if contract.keypoints and heads.keypoints != contract.keypoints:
        return f"train with {contract.keypoints} keypoints: the firmware is built for these"
    if contract.order == "fixed" and [role for role in heads.roles if role] != list(
        contract.outputs
    ):
        return "export for this board again: its firmware reads outputs by their position"
    return ""


def _decoded_help(model: Model, contract: Contract) -> str:
    """Why a firmware does not accept an output decoded in the graph; "" if it does."""
    remedy = "export raw heads with Kiln from the trained weights"
    if contract.decoded_max_classes is None:
        return f"{remedy}: the firmware decodes boxes itself"
    if contract.task == "pose" or model.heads.task == "pose":
        classes = model.file.outputs[0].shape[1] - BOX_SIDES
        return f"{remedy}: the firmware would take this for a detection of {classes} classes"
    scale = model.file.outputs[0].scale
    if scale is not None and np.float32(scale) >= DECODED_SCALE:
        return (
            f"{remedy}, or boxes in parts of the image: with a scale of {scale:.3g}, as pixels "
            f"need it, the firmware takes scores of 0 to 1 for percents and never detects"
        )
    return ""


def _taken_for(model: Model, contract: Contract) -> str:
    """What the firmware takes a pose model of several classes for, if for anything."""
    heads = model.heads
    by_shape = contract.task == "pose" and contract.order == "any" and heads.form == "raw-heads"
    if not by_shape or "keypoints" in heads.roles[: len(DETECT_ROLES)]:
        return ""
    if heads.classes == BOX_CHANNELS:
        return ""
    classes = plural(heads.classes or 0, "class")
    return f"; as it is, the firmware would take it for a detection model of {classes}"


def _arena_help(model: Model, contract: Contract, arena: Arena) -> str:
    """What would fit: tensors grow with the area of the image, the rest does not.

    A firmware that accepts only some image sizes has an arena for these.
    """
    rules, now = contract.input, model.size or 0
    needs = {
        size: arena.planned * (size / now) ** 2 + arena.interpreter
        for size in range(rules["min"], now, rules["multiple_of"])
    }
    fitting = [size for size, need in needs.items() if need <= contract.arena_kib * _KIB]
    if model.kind == "float32":
        return "quantise to int8, which takes a quarter"
    if not fitting or contract.sizes:
        return "a narrower MODEL"
    size = max(fitting)
    return f"IMGSZ={size}, which takes about {needs[size] / _KIB:.0f} KiB, or a narrower MODEL"


def _tensor_text(tensor: Tensor) -> str:
    text = f"{shape_text(tensor.shape)}, {tensor.dtype}"
    if tensor.scale is None:
        return text
    return f"{text}, scale {_scale_text(tensor.scale)}, zero point {tensor.zero_point}"


def _scale_text(scale: float) -> str:
    return "1/255" if abs(scale * 255 - 1) < 1e-6 else f"{scale:.6g}"
