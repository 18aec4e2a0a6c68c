"""Which networks Kiln takes: the YOLOv8 family with its plain Detect or Pose head.

The table of an architecture comes out of a file that a user brings, and ultralytics evaluates
parts of it, so it is checked word by word before a network is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stages.contract import StepFailed

#: What yolov8.yaml and yolov8-pose.yaml are made of. Later families bring attention and
#: depthwise heads, whose transposes and matrix products an Ethos-U55 leaves to the CPU.
LAYERS = frozenset({"Conv", "C2f", "SPPF", "nn.Upsample", "Concat"})
HEADS: Mapping[str, str] = {"detect": "Detect", "pose": "Pose"}
#: Each side of a box is a distribution over 16 bins, which the firmware decodes.
REG_MAX = 16
FIRMWARE_HEADS = 3
#: x, y and visibility: the firmware reads keypoints in threes.
KEYPOINT_VALUES = 3
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
    r"(torch\.)?nn\.(SiLU|ReLU|ReLU6|Hardswish|LeakyReLU)\(((negative_slope=)?\d*\.?\d*)\)"
)
_WORDS = frozenset({"nc", "kpt_shape", "None", "True", "False", "nearest"})
_HINT = "use weights of YOLOv8: yolov8n.pt, yolov8n-pose.pt or what was trained from them"


def canonical_architecture(table: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an ultralytics model yaml that decides the network: no paths, one scale."""
    kept = {key: table[key] for key in _KEPT if table.get(key) is not None}
    scale = kept.get("scale") or next(iter(kept.get("scales", {})), None)
    if scale in kept.get("scales", {}):
        kept |= {"scale": scale, "scales": {scale: list(kept["scales"][scale])}}
    if "kpt_shape" in kept:
        kept["kpt_shape"] = [int(value) for value in kept["kpt_shape"]]
    return kept


def check_architecture(table: Mapping[str, Any], *, task: str, nc: int) -> None:
    """Raise StepFailed unless the firmware can be given the raw heads of this network."""
    _check_words(table)
    head = table["head"][-1]
    if head[2] != HEADS[task]:
        raise StepFailed(
            "weights", f"the network ends in {head[2]}, which is no {task} head", hint=_HINT
        )
    if len(head[0]) != FIRMWARE_HEADS:
        raise StepFailed(
            "model",
            f"the network has {len(head[0])} heads; the firmware reads {FIRMWARE_HEADS} "
            "(strides 8, 16 and 32)",
            hint="use the plain yolov8 architecture, not its p2 or p6 variant",
        )
    if table.get("nc") != nc:
        raise StepFailed(
            "weights", f"the network has {table.get('nc')} classes but names {nc}", hint=_HINT
        )
    if task == "pose":
        check_keypoints(table.get("kpt_shape"))


def check_keypoints(shape: object) -> None:
    """Raise StepFailed("model") unless each keypoint is x, y and visibility."""
    if not isinstance(shape, (list, tuple)) or len(shape) != 2 or shape[1] != KEYPOINT_VALUES:
        raise StepFailed(
            "model",
            f"the pose network has keypoints of the shape {shape}; the firmware reads "
            f"[keypoints, {KEYPOINT_VALUES}]: x, y and visibility",
            hint=f"train with kpt_shape: [n, {KEYPOINT_VALUES}]; a visibility of 2 in every label "
            "will do",
        )


def _check_words(table: Mapping[str, Any]) -> None:
    """Every layer is a known one, and every word in it one that cannot do anything."""
    for key, value in (("reg_max", REG_MAX), ("end2end", False), ("channels", CHANNELS)):
        if table.get(key, value) != value:
            raise _refused(f"{key} {table[key]!r}")
    activation = table.get("activation")
    if activation is not None and not _ACTIVATION.fullmatch(str(activation)):
        raise _refused(f"activation {activation!r}")
    rows = [*table.get("backbone", ()), *table.get("head", ())]
    if not table.get("head"):
        raise _refused("no layers")
    for row in rows:
        if not isinstance(row, list) or len(row) != 4 or not isinstance(row[3], list):
            raise _refused(f"the row {row!r}")
        _from, _repeats, name, arguments = row
        if name not in LAYERS | set(HEADS.values()):
            raise _refused(f"layers of the kind {name}")
        for word in arguments:
            if isinstance(word, str) and word not in _WORDS:
                raise _refused(f"{name} with {word!r}")


def _refused(what: str) -> StepFailed:
    return StepFailed(
        "weights",
        f"the network is not of the YOLOv8 family with a plain head: it has {what}",
        hint=_HINT,
    )
