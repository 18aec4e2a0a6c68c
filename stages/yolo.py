"""Facts of YOLOv8 that steps of several environments and the driver share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Pixels a cell, one head each.
STRIDES = (8, 16, 32)
#: Distances from a cell's centre to the left, top, right and bottom of a box; a raw head gives
#: each as a distribution over ``REG_MAX`` bins, a cell's side apart.
BOX_SIDES = 4
REG_MAX = 16
BOX_CHANNELS = BOX_SIDES * REG_MAX
#: x, y and visibility.
KEYPOINT_VALUES = 3

#: The most detailed models of a face have 478.
MAX_KEYPOINTS = 1000

#: A data set lies in images/<split>/ and labels/<split>/, with data.yaml beside them.
SPLITS = ("train", "val")
#: What ultralytics takes for val in a data set of classes, the first that is there.
VAL_FOLDERS = ("val", "validation", "valid", "test")
#: Endings of files that ultralytics reads as images.
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".mpo", ".dng", ".pfm", ".heic")
)
#: Keys of data.yaml that a data set may do without.
KEYPOINT_KEYS = ("kpt_shape", "flip_idx", "kpt_names", "skeleton")


def data_yaml(names: Mapping[int, str], keypoints: Mapping[str, Any]) -> dict[str, Any]:
    """The content of data.yaml beside images/ and labels/; ``keypoints``: its `KEYPOINT_KEYS`."""
    folders = {split: f"images/{split}" for split in SPLITS}
    return {"path": ".", **folders, "names": names, **keypoints}


def label_path(image: str) -> str:
    """Where ultralytics looks for an image's labels: the last folder called images becomes labels,
    and without one they lie beside the image."""
    before, found, after = f"/{image}".rpartition("/images/")
    moved = f"{before}/labels/{after}"[1:] if found else image
    return f"{moved.rpartition('.')[0] or moved}.txt"


def image_name(path: str) -> str:
    """An image's name in its split: a second folder called images would mislead `label_path`."""
    return "/".join(part for part in path.split("/") if part != "images")


def fault_of_skeleton(skeleton: object, keypoints: int) -> str | None:
    """What is wrong with pairs of keypoints that are to be joined when drawn; None if nothing."""
    if not isinstance(skeleton, list | tuple):
        return f"skeleton is {skeleton!r:.80}, not a list of pairs of keypoints: [[0, 1], [1, 2]]"
    if len(skeleton) > MAX_KEYPOINTS:
        return f"skeleton has {len(skeleton)} pairs, and at most {MAX_KEYPOINTS} are drawn"
    for pair in skeleton:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or any(type(number) is not int for number in pair)
        ):
            return f"skeleton holds {pair!r:.80}, which is no pair of keypoints: [0, 1]"
        for number in pair:
            if not 0 <= number < keypoints:
                return (
                    f"skeleton joins keypoint {number}, and there are keypoints 0 to "
                    f"{keypoints - 1}: they are counted from 0"
                )
    return None
