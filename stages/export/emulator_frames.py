"""Make the frames that the emulated board gives: images, and what its model finds in each before
suppression.

``params``: frame (side of a frame in pixels), score (least score of a candidate, 0 to 1),
candidates (at most so many of a frame are kept, best first).
``in/``: model.tflite (int8), outputs.npz of the step `tflm_outputs`, evaluation/ (images.npy, uint8
[m,S,S,3] RGB).
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

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.evaluation.decode import (
    Detections,
    Labels,
    Shape,
    Slot,
    decode,
    find_roles,
)
from stages.export.models.preprocess import Pixels, dequantised
from stages.export.models.tflite_interpreter import TFLiteModel
from stages.results.emulator_frames import EmulatorFramesResult, Frame, Frames
from stages.yolo import BOX_CHANNELS, KEYPOINT_VALUES, STRIDES

#: About the quality of the camera's own encoder.
_JPEG_QUALITY = 80
#: No two boxes overlap so much: nothing is suppressed.
_KEEP_ALL = 2.0
PACKAGES = ("tensorflow-cpu", "numpy")


def run(job: Job, events: Events) -> EmulatorFramesResult:
    """Decode the outputs of every image as the firmware does, and encode its frame."""
    images = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    recorded = dict(np.load(job.inputs / "outputs.npz"))
    numbers = recorded.pop("numbers")
    outputs = TFLiteModel((job.inputs / "model.tflite").read_bytes(), kernels="reference").outputs
    shapes = [output.shape for output in outputs]
    labels = labels_of(shapes, images.shape[1])
    roles = find_roles(shapes, labels)
    side = int(job.params["frame"])
    frames = []
    for index, number in enumerate(numbers):
        values = [
            dequantised(recorded[f"output_{i}"][index], output.scale, output.zero_point)
            for i, output in enumerate(outputs)
        ]
        found = candidates(values, roles, labels, job.params)
        listed = described(found, scale=side / labels.size)
        frames.append(Frame(image=jpeg(images[number], side), candidates=listed))
        events.progress(len(frames), len(numbers), "frames")
    document = Frames(pose=labels.keypoints > 0, size=side, frames=tuple(frames))
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


def candidates(
    values: Sequence[Any], roles: Mapping[str, Slot], labels: Labels, params: Mapping[str, Any]
) -> Detections:
    """Candidates of the least score and more, the best last, equals in the order of their cells."""
    rows = {role: slot.rows(values) for role, slot in roles.items()}
    found = decode(rows, labels, score_threshold=params["score"], iou_threshold=_KEEP_ALL)
    return found[np.arange(len(found))[: int(params["candidates"])][::-1]]


def described(found: Detections, *, scale: float) -> tuple[tuple[Any, ...], ...]:
    """Candidates as frames.json has them; ``scale`` is frame pixels in a pixel of the model's."""
    boxes = np.round(found.boxes.astype(float) * scale, 3).tolist()
    scores = np.round(found.scores.astype(float), 5).tolist()
    points = np.round(found.keypoints.astype(float) * (scale, scale, 1), 3).tolist()
    return tuple(zip(boxes, scores, found.classes.tolist(), points, strict=True))


def jpeg(image: Pixels, side: int) -> str:
    """An image [S,S,3] stretched to the frame, as the base64 of a JPEG."""
    frame = tf.cast(tf.round(tf.image.resize(image, (side, side))), tf.uint8)
    encoded = tf.io.encode_jpeg(frame, quality=_JPEG_QUALITY).numpy()
    return base64.b64encode(encoded).decode("ascii")


if __name__ == "__main__":
    main(run)
