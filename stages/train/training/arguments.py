"""Which of ultralytics' training arguments a user may set, and which Kiln sets itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from ultralytics.cfg import DEFAULT_CFG_DICT

from stages.contract import StepFailed
from stages.results.dataset import Task
from stages.suppression import IOU

#: Arguments that Kiln sets, and a hint for each.
OWNED: Mapping[str, str] = {
    "batch": "set batch in [train]",
    "cfg": "set its keys in [train]",
    "data": "pass DATA=",
    "deterministic": "Kiln's trainings are always reproducible",
    "device": "set gpu in [train]",
    "distill_model": "a step has no network to fetch a teacher with",
    "epochs": "pass EPOCHS=",
    "exist_ok": "results lie below build/",
    "imgsz": "pass IMGSZ=",
    "mode": "the train step trains",
    "model": "set model in kiln.toml, or pass WEIGHTS=",
    "name": "pass NAME=",
    "nbs": "every batch is one update of the optimizer: set batch in [train]",
    "plots": "the curves are in the result",
    "pretrained": "pass WEIGHTS=",
    "project": "results lie below build/",
    "quantize": "quantising is a step of its own",
    "resume": "an interrupted training continues by itself",
    "save": "the best weights are always kept",
    "save_dir": "results lie below build/",
    "save_period": "the best weights are always kept",
    "seed": "set seed in [train]",
    "split": "a training is evaluated on val",
    "task": "pass TASK=",
}
#: Arguments of other modes and tasks, which have no effect on a training of any task.
_WITHOUT_EFFECT = frozenset(
    (
        "overlap_mask",
        "mask_ratio",
        "save_json",
        "dnn",
        "nms",
        "source",
        "vid_stride",
        "stream_buffer",
        "visualize",
        "augment",
        "retina_masks",
        "embed",
        "show",
        "save_frames",
        "save_txt",
        "save_conf",
        "save_crop",
        "show_labels",
        "show_conf",
        "show_boxes",
        "line_width",
        "format",
        "optimize",
        "dynamic",
        "simplify",
        "opset",
        "workspace",
        "dis",
        "rle",
        "angle",
        "dlog",
        "dgrad",
        "dlam",
        "copy_paste",
        "copy_paste_mode",
        "tracker",
    )
)
_OF_CLASSIFIERS = frozenset(("auto_augment", "dropout", "erasing"))
_OF_DETECTORS = frozenset(
    (
        *("box", "cls", "dfl", "pose", "kobj", "rect", "single_cls", "multi_scale", "mosaic"),
        *("close_mosaic", "mixup", "cutmix", "degrees", "translate", "shear", "perspective"),
        *("bgr", "cls_pw", "conf", "iou", "max_det", "agnostic_nms"),
    )
)
_SET_WITH_OPTIMIZER = frozenset(("lr0", "momentum"))
_FIXED: Mapping[str, Any] = {
    "deterministic": True,
    "exist_ok": True,
    "mode": "train",
    "plots": False,  # needs a font that ultralytics downloads
    "save": True,
}


def training_arguments(overrides: Mapping[str, Any], *, task: Task, batch: int) -> dict[str, Any]:
    """Kiln's arguments and the user's; raises StepFailed("request") for one that is Kiln's."""
    _check_names(overrides, task)
    if str(overrides.get("optimizer", "auto")).lower() == "auto":
        for key in _SET_WITH_OPTIMIZER & set(overrides):
            raise StepFailed(
                "request",
                f"[train] {key} has no effect while ultralytics chooses the optimizer",
                hint='set optimizer too: "SGD" or "AdamW"',
            )
    # ultralytics accumulates gradients over 64 images. A set of a hundred images would get two
    # updates an epoch, and a resumed training could not continue between two updates.
    given = {**_FIXED, "batch": batch, "nbs": batch, **overrides}
    # The best epoch is the one whose detections the board would tell apart best.
    return given if task == "classify" else {"iou": IOU / 100, **given}


def _check_names(overrides: Mapping[str, Any], task: Task) -> None:
    without_effect = _WITHOUT_EFFECT | (_OF_DETECTORS if task == "classify" else _OF_CLASSIFIERS)
    usable = sorted(set(DEFAULT_CFG_DICT) - set(OWNED) - without_effect)
    for key in overrides:
        if key in OWNED:
            raise StepFailed("request", f"[train] {key} is Kiln's to set", hint=OWNED[key])
        if key in usable:
            continue
        what = "has no effect on" if key in without_effect else "is no argument of"
        nearest = difflib.get_close_matches(key, usable, n=1, cutoff=0.5)
        guess = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise StepFailed(
            "request",
            f"[train] {key} {what} a training for {task}",
            hint=f"{guess}known: {', '.join(usable)}",
        )
