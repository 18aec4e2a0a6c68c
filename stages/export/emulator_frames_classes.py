"""Make the frames of the emulated board for a classifier: images, and the classes in each.

``params``: frame (side of a frame in pixels), score (least probability of a class, 0 to 1),
candidates (at most so many classes of a frame are kept, best first).
``in/``: model.tflite (int8), outputs.npz of the step `tflm-outputs`, evaluation/ (images.npy, uint8
[m,S,S,3] RGB).
``out/frames.json``: the fields of ``stages.results.emulator_frames.ClassFrames``.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.emulator_frames import PACKAGES, jpeg
from stages.export.models.preprocess import dequantised
from stages.export.models.tflite_interpreter import TFLiteModel
from stages.results.emulator_frames import ClassFrame, ClassFrames, EmulatorFramesResult


def run(job: Job, events: Events) -> EmulatorFramesResult:
    """Read the outputs of every image as the firmware does, and encode its frame."""
    images = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    recorded = dict(np.load(job.inputs / "outputs.npz"))
    numbers = recorded.pop("numbers")
    outputs = TFLiteModel((job.inputs / "model.tflite").read_bytes(), kernels="reference").outputs
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise StepFailed(
            "model",
            f"its outputs {[list(output.shape) for output in outputs]} are not those of a "
            "classifier",
            hint="it takes a model that Kiln has built",
        )
    most, least = int(job.params["candidates"]), 100 * job.params["score"]
    side, (output,) = int(job.params["frame"]), outputs
    frames = []
    for index, number in enumerate(numbers):
        values = dequantised(recorded["output_0"][index][0], output.scale, output.zero_point)
        best = np.argsort(-values, kind="stable")[:most]
        percents = [(round(100 * float(values[each]), 4), int(each)) for each in best]
        kept = tuple(sorted((each for each in percents if each[0] >= least), key=lambda e: e[1]))
        frames.append(ClassFrame(image=jpeg(images[number], side), percents=kept))
        events.progress(len(frames), len(numbers), "frames")
    write_json(job.out / "frames.json", ClassFrames(size=side, frames=tuple(frames)))
    return EmulatorFramesResult(
        frames=len(frames),
        candidates=sum(len(frame.percents) for frame in frames),
        versions={package: version(package) for package in PACKAGES},
    )


if __name__ == "__main__":
    main(run)
