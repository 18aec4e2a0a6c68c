"""Make the frames of the emulated board for a classifier: images, and the classes in each.

``params``: frame (width and height in pixels), score (least probability of a class, 0 to 1),
candidates (at most so many classes of a frame are kept, best first).
``in/``: outputs.npz of the step `outputs`, evaluation/ (images.npy, uint8 [m,S,S,3] RGB).
``out/frames.json``: the fields of ``stages.results.emulator_frames.ClassFrames``.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.emulator_frames import PACKAGES, jpeg
from stages.export.models.recorded_outputs import read_outputs
from stages.results.emulator_frames import ClassFrame, ClassFrames, EmulatorFramesResult


def run(job: Job, events: Events) -> EmulatorFramesResult:
    """Read the outputs of every image as the firmware does, and encode its frame."""
    images = np.load(job.inputs / "evaluation" / "images.npy", mmap_mode="r")
    recorded = read_outputs(job.inputs / "outputs.npz")
    if len(recorded.shapes) != 1 or len(recorded.shapes[0]) != 2:
        raise StepFailed(
            "model",
            f"its outputs {[list(shape) for shape in recorded.shapes]} are not those of a "
            "classifier",
            hint="it takes a model that Kiln has built",
        )
    most, least = int(job.params["candidates"]), 100 * job.params["score"]
    width, height = job.params["frame"]
    frames = []
    for number in recorded.numbers:
        ((values,),) = recorded.values(number)
        best = np.argsort(-values, kind="stable")[:most]
        percents = [(round(100 * float(values[each]), 4), int(each)) for each in best]
        kept = tuple(sorted((each for each in percents if each[0] >= least), key=lambda e: e[1]))
        frames.append(ClassFrame(image=jpeg(images[number], width, height), percents=kept))
        events.progress(len(frames), len(recorded.numbers), "frames")
    write_json(
        job.out / "frames.json", ClassFrames(width=width, height=height, frames=tuple(frames))
    )
    return EmulatorFramesResult(
        frames=len(frames),
        candidates=sum(len(frame.percents) for frame in frames),
        versions={package: version(package) for package in PACKAGES},
    )


if __name__ == "__main__":
    main(run)
