"""Make the frames of the emulated board: images, and the candidates of its model in each before
suppression.

``params``: frame (width and height in pixels), score (least score of a candidate, 0 to 1),
candidates (at most so many of a frame are kept, the best).
``in/``: outputs.npz of the step `outputs`, evaluation/ (images.npy, uint8 [m,S,S,3] RGB).
``out/frames.json``: the fields of ``stages.results.emulator_frames.Frames``.

A board's camera gives the frame and its firmware stretches it to the model's input; here the
model's input is stretched to the frame.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.evaluation.decode import (
    Candidates,
    Labels,
    Shape,
    candidates,
    find_roles,
)
from stages.export.evaluation.fast_math import highest_thresholds
from stages.export.models.preprocess import Floats, Pixels
from stages.export.models.recorded_outputs import read_outputs
from stages.results.emulator_frames import EmulatorFramesResult, Frame, Frames
from stages.yolo import BOX_CHANNELS, KEYPOINT_VALUES, STRIDES

#: About the quality of the camera's own encoder.
_JPEG_QUALITY = 80
PACKAGES = ("tensorflow-cpu", "numpy")


def run(job: Job, events: Events) -> EmulatorFramesResult:
    """Decode the outputs of every image as the firmware does, and encode its frame."""
    images = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    recorded = read_outputs(job.inputs / "outputs.npz")
    labels = labels_of(recorded.shapes, images.shape[1])
    roles = find_roles(recorded.shapes, labels)
    width, height = job.params["frame"]
    quanta = {role: recorded.scales[slot.output] for role, slot in roles.items()}
    frames = []
    for number in recorded.numbers:
        values = recorded.values(number)
        rows = {role: slot.rows(values) for role, slot in roles.items()}
        found = candidates(rows, labels, frame=(width, height))
        listed = described(found, limits(found, rows, quanta), job.params)
        frames.append(Frame(image=jpeg(images[number], width, height), candidates=listed))
        events.progress(len(frames), len(recorded.numbers), "frames")
    document = Frames(pose=labels.keypoints > 0, width=width, height=height, frames=tuple(frames))
    write_json(job.out / "frames.json", document)
    return EmulatorFramesResult(
        frames=len(frames),
        candidates=sum(len(frame.candidates) for frame in frames),
        versions={package: version(package) for package in PACKAGES},
    )


def labels_of(shapes: Sequence[Shape], size: int) -> Labels:
    """Classes and keypoints of raw heads [1,N,C], by their widths; raises StepFailed("model")."""
    square = Labels(size=size, classes=0, keypoints=0)
    keypoints = [shape[-1] // KEYPOINT_VALUES for shape in shapes if shape[1] == square.all_cells]
    fine = [shape[-1] for shape in shapes if shape[1] == square.cells(STRIDES[0])]
    classes = [width for width in fine if width != BOX_CHANNELS]
    if len(classes) != 1 or len(keypoints) > 1:
        raise StepFailed(
            "model",
            f"its outputs {[list(shape) for shape in shapes]} are not the raw heads of one model",
            hint="it takes a model that Kiln has built",
        )
    return Labels(size=size, classes=classes[0], keypoints=sum(keypoints))


def limits(
    each: Candidates, rows: Mapping[str, Floats], quanta: Mapping[str, float]
) -> NDArray[np.int64]:
    """The highest score threshold, in percent, that lets each candidate through."""
    if each.found.keypoints.shape[1]:
        steps = np.arange(101, dtype=np.float32) / np.float32(100)
        return np.searchsorted(steps, each.found.scores, side="right") - 1
    roles = [f"score{stride}" for stride in STRIDES]
    return np.concatenate(
        [highest_thresholds(rows[role].max(axis=1), quanta[role]) for role in roles]
    )


def described(
    each: Candidates, limits: NDArray[np.int64], params: Mapping[str, Any]
) -> tuple[tuple[Any, ...], ...]:
    """Candidates as frames.json has them: the best of those of the least score and more."""
    found = each.found
    best = np.argsort(-found.scores, kind="stable")[: int(params["candidates"])]
    chosen = np.sort(best[found.scores[best] >= params["score"]])
    whole = (each.boxes, each.percents[:, None], found.classes[:, None])
    boxes = np.concatenate(whole, axis=1)[chosen].tolist()
    points = each.points[chosen].tolist()
    corners, scores = each.corners[chosen].tolist(), found.scores[chosen].tolist()
    return tuple(zip(limits[chosen].tolist(), boxes, points, corners, scores, strict=True))


def jpeg(image: Pixels, width: int, height: int) -> str:
    """An image [S,S,3] stretched to the frame, as the base64 of a JPEG."""
    frame = tf.cast(tf.round(tf.image.resize(image, (height, width))), tf.uint8)
    encoded = tf.io.encode_jpeg(frame, quality=_JPEG_QUALITY).numpy()
    return base64.b64encode(encoded).decode("ascii")


if __name__ == "__main__":
    main(run)
