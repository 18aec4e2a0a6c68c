"""Which networks Kiln accepts: the YOLOv8 family with its plain Detect, Pose or Classify head.

The table of an architecture comes from a user's file, and ultralytics evaluates parts of it as
code, so every word is checked before a network is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stages.contract import StepFailed
from stages.yolo import KEYPOINT_VALUES, MAX_KEYPOINTS, REG_MAX, STRIDES

HEADS: Mapping[str, str] = {"detect": "Detect", "pose": "Pose", "classify": "Classify"}
#: The layers of yolov8.yaml and its variants, and how many arguments they have at most. Later
#: families have attention and depthwise heads, whose transposes and matrix products an Ethos-U55
#: leaves to the CPU.
_ARGUMENTS: Mapping[str, int] = {
    **{"Conv": 3, "C2f": 2, "SPPF": 2, "nn.Upsample": 3, "Concat": 1},
    **{"Detect": 1, "Pose": 2, "Classify": 1},
}
CHANNELS = 3
_KEPT = (
    "nc",
    "kpt_shape",
    "scale",
    "scales",
    "depth_multiple",
    "width_multiple",
    "activation",
    "channels",
    "end2end",
    "reg_max",
    "backbone",
    "head",
)
_ACTIVATION = re.compile(
    r"(torch\.)?nn\.(SiLU|ReLU|ReLU6|Hardswish|LeakyReLU)\(((negative_slope=)?\d*\.?\d*)\)",
    re.ASCII,
)
#: Of a network whose description names none.
_USUAL = "silu"
#: Yolov8 has 23 rows, none repeated more than 6 times, and a depth of at most 1.
_MAX_ROWS = 100
_MAX_REPEATS = 100
_MAX_DEPTH = 4
_WORDS = frozenset({"nc", "kpt_shape", "None", "True", "False", "nearest"})
_HINT = (
    "use weights of YOLOv8: yolov8n.pt, yolov8n-pose.pt, yolov8n-cls.pt or what was trained "
    "from them"
)


def canonical_architecture(table: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an ultralytics model yaml that defines the network: no paths, one scale."""
    kept = {key: table[key] for key in _KEPT if table.get(key) is not None}
    scale = kept.get("scale") or next(iter(kept.get("scales", {})), None)
    if scale in kept.get("scales", {}):
        kept |= {"scale": scale, "scales": {scale: list(kept["scales"][scale])}}
    if "kpt_shape" in kept:
        kept["kpt_shape"] = [int(value) for value in kept["kpt_shape"]]
    return kept


def activation_of(table: Mapping[str, Any]) -> str:
    """The activation of an architecture's layers, such as silu or relu."""
    found = _ACTIVATION.fullmatch(str(table.get("activation") or ""))
    return found[2].lower() if found else _USUAL


def with_relu(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same architecture with ReLU; all tensors keep their shapes."""
    return {**table, "activation": "torch.nn.ReLU()"}


def check_architecture(table: Mapping[str, Any], *, task: str, nc: int) -> None:
    """Raise StepFailed unless the firmware can decode the outputs of this network."""
    _check_words(table)
    head = table["head"][-1]
    if head[2] != HEADS[task]:
        raise StepFailed(
            "weights", f"the network ends in {head[2]}, which is no {task} head", hint=_HINT
        )
    if task == "classify":
        _check_chain(table)
    elif len(head[0]) != len(STRIDES):
        raise StepFailed(
            "model",
            f"the network has {len(head[0])} heads; the firmware reads {len(STRIDES)} "
            "(strides 8, 16 and 32)",
            hint="use the plain yolov8 architecture, not its p2 or p6 variant",
        )
    if table.get("nc") != nc:
        raise StepFailed(
            "weights", f"the network has {table.get('nc')!r:.80} classes but names {nc}", hint=_HINT
        )
    shape = table.get("kpt_shape")
    if task == "pose":
        check_keypoints(shape)
    arguments = {"nc": nc, "kpt_shape": shape} if task == "pose" else {"nc": nc}
    if head[3] not in (list(arguments), list(arguments.values())):
        raise _refused(f"{head[2]} with {head[3]!r:.80}")


def check_keypoints(shape: object) -> None:
    """Raise StepFailed("model") unless each keypoint is x, y and visibility."""
    if not isinstance(shape, (list, tuple)) or len(shape) != 2 or shape[1] != KEYPOINT_VALUES:
        raise StepFailed(
            "model",
            f"the pose network has keypoints of the shape {shape}; the firmware reads "
            f"[keypoints, {KEYPOINT_VALUES}]: x, y and visibility",
            hint="leave WEIGHTS out, or start from yolov8n-pose.pt: Kiln trains data sets of "
            f"[n, 2] with {KEYPOINT_VALUES} numbers each",
        )
    if not 0 < shape[0] <= MAX_KEYPOINTS:
        raise StepFailed("model", f"the pose network has {shape[0]} keypoints", hint=_HINT)


def _check_chain(table: Mapping[str, Any]) -> None:
    """Raise StepFailed unless each layer takes the output of the one before alone."""
    for row in (*table["backbone"], *table["head"]):
        if row[0] not in (-1, [-1]):
            raise _refused(f"a classifier whose {row[2]} takes the layers {row[0]!r:.80}")


def _check_words(table: Mapping[str, Any]) -> None:
    """Raise StepFailed unless every layer is known and every word in it is harmless."""
    for key, value in (("reg_max", REG_MAX), ("end2end", False), ("channels", CHANNELS)):
        if table.get(key, value) != value:
            raise _refused(f"{key} {table[key]!r}")
    activation = table.get("activation")
    if activation is not None and not _ACTIVATION.fullmatch(str(activation)):
        raise _refused(f"activation {activation!r:.80}")
    for row in _rows(table):
        _from, _repeats, name, arguments = row
        if name not in _ARGUMENTS:
            raise _refused(f"layers of the kind {name}")
        known = all(word in _WORDS for word in arguments if isinstance(word, str))
        doubles = name != "nn.Upsample" or arguments[1:] == [2, "nearest"]
        if not known or not doubles or len(arguments) > _ARGUMENTS[name]:
            raise _refused(f"{name} with {arguments!r:.80}")


def _rows(table: Mapping[str, Any]) -> list[list[Any]]:
    """The layers, each of the right form and repeated within limits; raises StepFailed."""
    backbone, head = table.get("backbone", []), table.get("head")
    if not isinstance(backbone, list) or not isinstance(head, list) or not head:
        raise _refused("no layers")
    if len(backbone) + len(head) > _MAX_ROWS:
        raise _refused(f"{len(backbone) + len(head)} layers")
    scales = table.get("scales") or {}
    factors = scales.get(table.get("scale"), ()) if isinstance(scales, Mapping) else scales
    depth = (*factors[:1], table.get("depth_multiple", 1.0))
    if not all(isinstance(each, (int, float)) and 0 < each <= _MAX_DEPTH for each in depth):
        raise _refused(f"a depth of {depth[0]!r}")
    for row in (*backbone, *head):
        if not _is_row(row):
            raise _refused(f"the row {row!r:.80}")
    if not (isinstance(head[-1][0], list) or head[-1][2] == HEADS["classify"]):
        raise _refused(f"the row {head[-1]!r:.80} at its end")
    return [*backbone, *head]


def _is_row(row: object) -> bool:
    """Whether a row is [from, repeats, name, arguments]."""
    if not isinstance(row, list) or len(row) != 4:
        return False
    source, repeats, name, arguments = row
    sources = source if isinstance(source, list) else [source]
    return (
        all(type(each) is int for each in sources)
        and type(repeats) is int
        and 0 < repeats <= _MAX_REPEATS
        and isinstance(name, str)
        and isinstance(arguments, list)
    )


def _refused(what: str) -> StepFailed:
    return StepFailed(
        "weights",
        f"the network is not of the YOLOv8 family with a plain head: it has {what}",
        hint=_HINT,
    )
