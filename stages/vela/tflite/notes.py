"""What an exporter noted in a file, against what its outputs look like."""

from __future__ import annotations

from stages.results.dataset import Task
from stages.vela.tflite.heads import unread_keypoints, unread_task
from stages.vela.tflite.model import Model
from stages.yolo import KEYPOINT_VALUES


def noted_help(model: Model, wanted: Task) -> str:
    """What helps if by its notes the model is not what its shapes are; "" if they agree."""
    notes = model.file.notes
    task, points = unread_task(notes), unread_keypoints(notes)
    if task and task != wanted:
        return (
            f"train a model for {wanted}: the metadata say that this one is for {task}, which the "
            f"firmware would read as something else"
        )
    if points:
        return (
            f"train with kpt_shape [{points[0]}, {KEYPOINT_VALUES}]: the metadata say {points}, "
            f"and the firmware reads x, y and visibility of each keypoint"
        )
    noted = notes.get("task")
    if noted in ("pose", "detect", "classify") and model.heads.task not in (noted, None):
        return (
            f"export it again: the metadata say that it is for {noted}, and its outputs are those "
            f"of a model for {model.heads.task}"
        )
    return ""
