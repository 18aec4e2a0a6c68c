"""One image size at which SSCMA's firmware stops: that of the camera's frame."""

from __future__ import annotations

from stages.results.check_firmware import Check
from stages.vela.tflite.firmware_checks import Contract
from stages.vela.tflite.model import Model

_HELP = """
another IMGSZ: in a frame of the model's own size this firmware reads outside an array and stops"""


def check_frame(model: Model, contract: Contract) -> Check | None:
    """A detection model is smaller or larger than the frame; None for other models.

    el_algorithm_yolo_world.cpp, run: the strides are scaled when the frame's scale changes, and the
    scale is 1 from the start. So for a frame of the model's own size they are never made, and
    postprocess reads outside of an empty array.
    """
    heads = model.heads
    by_shape = contract.task == "detect" and contract.order == "any"
    if heads.form != "raw-heads" or heads.task != "detect" or not by_shape or not contract.frames:
        return None
    own = [model.size, model.size]
    clashes = [list(frame) == own for frame in contract.frames]
    size = f"{model.size}x{model.size}"
    return Check(
        name="frame",
        title="size against the frame",
        figure=size,
        limit="another size than the camera's frame",
        help=_HELP.strip() if all(clashes) else "",
        ok=not all(clashes),
        note=f"set no camera mode of {size}: the firmware stops in it"
        if any(clashes) and not all(clashes)
        else "",
    )
