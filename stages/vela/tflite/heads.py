"""The roles of a model's outputs, recognised by their shapes as in the firmware.

Source: Seeed-Studio/SSCMA-Micro, branch 1.0.x, core/algorithm: el_algorithm_yolo_pose.cpp (seven
raw heads), el_algorithm_yolo_world.cpp (six), el_algorithm_yolov8.cpp (one output, decoded in the
graph), and last el_algorithm_imcls.cpp (a classifier's one output [1, classes]), which are tried in
this order; outputs behind these are ignored. There a score head of a pose model must be 1 wide;
here a score head may have any width, so that a wrong number of classes can be reported as such.

Shapes do not tell everything: of a model for oriented boxes (obb) they are those of a detection
model with one class more. What the exporter noted in the file decides then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from stages.results.check_firmware import Form
from stages.results.dataset import Task
from stages.yolo import BOX_CHANNELS, BOX_SIDES, KEYPOINT_VALUES, STRIDES

Shape = tuple[int, ...]

DETECT_ROLES = frozenset(f"{part}{stride}" for part in ("box", "score") for stride in STRIDES)
POSE_ROLES = DETECT_ROLES | {"keypoints"}
PROBABILITIES = "probabilities"

_UNREAD_TASKS = ("obb", "segment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heads:
    """The outputs of a model; ``roles`` has a name for each, None for one that is not read.

    ``task``, ``classes`` and ``keypoints`` are None if the shapes do not determine them.
    """

    form: Form
    task: Task | None
    roles: tuple[str | None, ...]
    classes: int | None
    keypoints: int | None


def image_size(shape: Shape) -> int | None:
    """The side of the square image [1,S,S,C] that a model takes; None for another input."""
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] not in (1, 3):
        return None
    return shape[1]


def read_heads(size: int | None, shapes: Sequence[Shape], notes: Mapping[str, Any]) -> Heads:
    """The outputs of a model for images of ``size``; ``notes`` are its exporter's metadata."""
    cells = {(size // stride) ** 2: stride for stride in STRIDES} if size is not None else {}
    if unread_task(notes) or unread_keypoints(notes):
        roles = _raw_roles(cells, shapes)
        return Heads(form="unknown", task=None, roles=roles, classes=None, keypoints=None)
    for wanted in (POSE_ROLES, DETECT_ROLES):
        if heads := _raw_heads(_raw_roles(cells, shapes[: len(wanted)]), shapes, wanted):
            return heads
    if len(shapes) == 1 and _is_decoded(shapes[0], sum(cells)):
        return _decoded(shapes[0][1], notes)
    if shapes and len(shapes[0]) == 2 and shapes[0][0] == 1:
        return Heads(
            form="classifier",
            task="classify",
            roles=(PROBABILITIES, *([None] * (len(shapes) - 1))),
            classes=shapes[0][1],
            keypoints=None,
        )
    roles = _raw_roles(cells, shapes)
    return Heads(form="unknown", task=None, roles=roles, classes=None, keypoints=None)


def unread_task(notes: Mapping[str, Any]) -> str | None:
    """The task that an exporter noted, if it is one of ultralytics' that is not read here."""
    task = notes.get("task")
    return task if isinstance(task, str) and task in _UNREAD_TASKS else None


def unread_keypoints(notes: Mapping[str, Any]) -> list[int] | None:
    """The noted ``kpt_shape`` of a pose model, if its keypoints do not have three values each."""
    shape = list(notes.get("kpt_shape") or ())
    if notes.get("task") != "pose" or len(shape) != 2 or shape[1] == KEYPOINT_VALUES:
        return None
    return shape


def _raw_heads(
    roles: tuple[str | None, ...], shapes: Sequence[Shape], wanted: frozenset[str]
) -> Heads | None:
    """Raw heads, if the first outputs have all wanted roles and agree on the classes."""
    widths = {role: shape[-1] for role, shape in zip(roles, shapes, strict=False) if role}
    scores = {width for role, width in widths.items() if role.startswith("score")}
    if set(widths) != wanted or len(scores) != 1:
        return None
    return Heads(
        form="raw-heads",
        task="pose" if "keypoints" in widths else "detect",
        roles=(*roles, *[None] * (len(shapes) - len(roles))),
        classes=scores.pop(),
        keypoints=widths["keypoints"] // KEYPOINT_VALUES if "keypoints" in widths else None,
    )


def _raw_roles(cells: Mapping[int, int], shapes: Sequence[Shape]) -> tuple[str | None, ...]:
    """A role for each output, none twice: the second output of one shape has no role, except that a
    second one of 64 channels for the same cells is the score of 64 classes."""
    roles: list[str | None] = []
    for shape in shapes:
        wanted = _role_candidates(cells, shape)
        roles.append(next((role for role in wanted if role not in roles), None))
    return tuple(roles)


def _role_candidates(cells: Mapping[int, int], shape: Shape) -> list[str]:
    if len(shape) != 3 or shape[0] != 1:
        return []
    _, rows, width = shape
    if rows in cells:
        score = f"score{cells[rows]}"
        return [f"box{cells[rows]}", score] if width == BOX_CHANNELS else [score]
    fits = rows == sum(cells) and width > 0 and width % KEYPOINT_VALUES == 0
    return ["keypoints"] if fits else []


def _is_decoded(shape: Shape, rows: int) -> bool:
    """Whether an output has the four numbers of a box, and scores, for each cell."""
    return len(shape) == 3 and shape[0] == 1 and shape[1] > BOX_SIDES and shape[2] == rows > 0


def _decoded(width: int, notes: Mapping[str, Any]) -> Heads:
    """One decoded output, whose width does not separate classes from keypoints; the notes may."""
    task, names, points = (notes.get(key) for key in ("task", "names", "kpt_shape"))
    if task == "pose" and isinstance(names, dict | list) and isinstance(points, tuple | list):
        return Heads(
            form="decoded",
            task="pose",
            roles=(None,),
            classes=len(names),
            keypoints=next(iter(points), None),
        )
    rest = width - BOX_SIDES - 1
    is_detect = task == "detect" or rest == 0 or rest % KEYPOINT_VALUES != 0
    return Heads(
        form="decoded",
        task="detect" if is_detect else None,
        roles=(None,),
        classes=width - BOX_SIDES if is_detect else None,
        keypoints=None,
    )
