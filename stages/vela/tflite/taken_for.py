"""What a firmware takes a model for: it tries the forms that it knows until one fits the shapes.

Source: Seeed-Studio/SSCMA-Micro, branch 1.0.x, ``is_model_valid`` of core/algorithm/*.cpp, called
in the order of el_algorithm_delegate.cpp; branch main, ``isValid`` of sscma/core/model/*.cpp, in
the order of ma_model_factory.cpp. Both look at shapes alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from stages.results.check_firmware import Check
from stages.vela.tflite.firmware_checks import Contract
from stages.vela.tflite.heads import Shape
from stages.vela.tflite.model import Model
from stages.vela.tflite.notes import noted_help
from stages.yolo import BOX_CHANNELS, KEYPOINT_VALUES, STRIDES

#: Of an RTMDet, whose boxes are four numbers.
_RTMDET_CHANNELS = 4
_NVIDIA_STRIDE = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shapes:
    """A model as the firmware looks at it: the side and channels of its image, its outputs."""

    size: int
    channels: int
    outputs: Sequence[Shape]

    @property
    def cells(self) -> list[int]:
        return [(self.size // stride) ** 2 for stride in STRIDES]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Form:
    """A form: what the user knows it as, how many outputs it reads, and whether they fit."""

    title: str
    outputs: int
    fits: Callable[[_Shapes], bool]


def check_taken_for(model: Model, contract: Contract) -> Check | None:
    """The firmware takes the model for one of the task.

    None for what other checks judge: an output decoded in the graph, another task's model by its
    shapes or its notes, a number of classes that the task cannot have, and what neither Kiln nor
    the firmware recognises.
    """
    heads = model.heads
    judged = (
        heads.form == "decoded"
        or heads.task not in (contract.task, None)
        or (heads.task == "pose" and heads.classes != 1)
        or (heads.task == "detect" and heads.classes == BOX_CHANNELS)
    )
    taken = taken_for(model, contract.tried, exact=contract.exact_outputs)
    unknown = heads.form == "unknown"
    judged |= taken in contract.forms and bool(noted_help(model, contract.task))
    if judged or not contract.forms or not contract.tried or (taken is None and unknown):
        return None
    title = _FORMS[taken].title if taken else "nothing"
    # A file that Kiln does not recognise is not what its first outputs look like.
    fits = taken in contract.forms and not unknown
    return Check(
        name="taken-for",
        title="taken for",
        figure=title,
        limit=" or ".join(_FORMS[form].title for form in contract.forms),
        help="" if fits else _help(contract.firmware, title if taken else None),
        ok=fits,
    )


def _help(firmware: str, title: str | None) -> str:
    if title is None:
        return f"{firmware} wants no further outputs: export raw heads with Kiln"
    return (
        f"{firmware} would read its outputs as {title}, whatever they are: for a YOLOv8, export "
        "raw heads with Kiln, or choose a FIRMWARE that tries another form first"
    )


def taken_for(model: Model, tried: Sequence[str], *, exact: bool) -> str | None:
    """The first form that fits a model; None if none does, or if it takes no square image."""
    if model.size is None:
        return None
    shapes = _Shapes(
        size=model.size,
        channels=model.file.inputs[0].shape[-1],
        outputs=[tensor.shape for tensor in model.file.outputs],
    )
    return next((form for form in tried if _is(_FORMS[form], shapes, exact=exact)), None)


def _is(form: _Form, shapes: _Shapes, *, exact: bool) -> bool:
    """Without ``exact`` further outputs at the end are not looked at."""
    count = len(shapes.outputs)
    if count < form.outputs or (exact and count != form.outputs):
        return False
    return form.fits(shapes)


def _is_pose(shapes: _Shapes) -> bool:
    rows: dict[int, Counter[int]] = {1: Counter(), BOX_CHANNELS: Counter()}
    for shape in shapes.outputs[:7]:
        if len(shape) != 3 or shape[0] != 1:
            return False
        if shape[2] in rows:
            rows[shape[2]][shape[1]] += 1
        elif shape[2] % KEYPOINT_VALUES or shape[1] != sum(shapes.cells):
            return False
    return all(found == Counter(shapes.cells) for found in rows.values())


def _has_heads(shapes: _Shapes, channels: int) -> bool:
    """Six outputs, of which three are ``channels`` wide and three are not, one for each stride."""
    wide: Counter[int] = Counter()
    rest: Counter[int] = Counter()
    for shape in shapes.outputs[:6]:
        if len(shape) != 3 or shape[0] != 1:
            return False
        (wide if shape[2] == channels else rest)[shape[1]] += 1
    return wide == rest == Counter(shapes.cells)


def _is_decoded(shapes: _Shapes) -> bool:
    shape = shapes.outputs[0]
    rows = sum(shapes.cells)
    return len(shape) == 3 and (shape[0], shape[2]) == (1, rows) and 5 <= shape[1] <= 84


def _is_nchw(shapes: _Shapes) -> bool:
    """Three boxes, then three scores, each [1, channels, rows, columns]."""
    for number, stride in enumerate(STRIDES):
        box, score = shapes.outputs[number], shapes.outputs[number + 3]
        grid = (shapes.size // stride, shapes.size // stride)
        if box != (1, BOX_CHANNELS, *grid) or len(score) != 4:
            return False
        if (score[0], *score[2:]) != (1, *grid):
            return False
    return True


def _is_nvidia(shapes: _Shapes) -> bool:
    grid = (shapes.size // _NVIDIA_STRIDE, shapes.size // _NVIDIA_STRIDE)
    return all(len(shape) >= 4 and shape[1:3] == grid for shape in shapes.outputs[:2])


def _is_yolov5(shapes: _Shapes) -> bool:
    shape = shapes.outputs[0]
    rows = sum(shapes.cells) * shapes.channels
    return len(shape) == 3 and shape[:2] == (1, rows) and 6 <= shape[2] <= 85


def _is_fomo(shapes: _Shapes) -> bool:
    shape = shapes.outputs[0]
    return (
        len(shape) == 4
        and shape[0] == 1
        and all(2 <= side <= shapes.size for side in shape[1:3])
        and shape[3] >= 2
    )


def _is_classifier(shapes: _Shapes) -> bool:
    shape = shapes.outputs[0]
    return len(shape) == 2 and shape[0] == 1 and shape[1] >= 2


def _is_pfld(shapes: _Shapes) -> bool:
    shape = shapes.outputs[0]
    return len(shape) == 2 and shape[0] == 1 and shape[1] % 2 == 0


_FORMS: Mapping[str, _Form] = {
    "yolov8-pose": _Form(title="YOLOv8 pose", outputs=7, fits=_is_pose),
    "yolo-world": _Form(
        title="YOLO-World", outputs=6, fits=lambda shapes: _has_heads(shapes, BOX_CHANNELS)
    ),
    "rtmdet": _Form(
        title="RTMDet", outputs=6, fits=lambda shapes: _has_heads(shapes, _RTMDET_CHANNELS)
    ),
    "yolov8-decoded": _Form(title="decoded YOLOv8", outputs=1, fits=_is_decoded),
    "yolov8-nchw": _Form(title="YOLOv8 in NCHW", outputs=6, fits=_is_nchw),
    "nvidia-det": _Form(title="NVIDIA's detection", outputs=2, fits=_is_nvidia),
    "yolov5": _Form(title="YOLOv5", outputs=1, fits=_is_yolov5),
    "fomo": _Form(title="FOMO", outputs=1, fits=_is_fomo),
    "classifier": _Form(title="a classifier", outputs=1, fits=_is_classifier),
    "pfld": _Form(title="PFLD", outputs=1, fits=_is_pfld),
}
