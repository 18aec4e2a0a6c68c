"""One image size at which SSCMA's firmware stops: that of the camera's frame."""

from __future__ import annotations

from stages.results.check_firmware import Check
from stages.vela.tflite.firmware_checks import Contract
from stages.vela.tflite.model import Model

_HELP = (
    "another IMGSZ or CAMERA: in a frame of the model's own size this firmware reads outside an "
    "array and stops"
)


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
    size = f"{model.size}x{model.size}"
    clashes = [list(frame) == [model.size, model.size] for frame in contract.frames]
    chosen, other = clashes[0], any(clashes[1:])
    return Check(
        name="frame",
        title="size against the frame",
        figure=size,
        limit="another size than the camera's frame",
        help=_HELP if chosen else "",
        ok=not chosen,
        note=f"set no camera mode of {size}: the firmware stops in it"
        if other and not chosen
        else "",
    )
