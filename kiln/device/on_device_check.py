"""The on-device check: whether a board runs the model that was flashed, and how fast."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence

from kiln import __version__
from kiln.device.detections import Detections
from kiln.device.flash import PADDING_BYTES
from kiln.device.labels import Description, DescriptionTooLong, from_info, to_info
from kiln.device.replies import ALGORITHMS, ModelSlot
from kiln.device.sscma import AtClient
from kiln.report.board_record import BoardRecord, Check

#: From a reset to the first answer a board takes two or three seconds.
START_S = 20.0
#: Frames that the times are medians of.
FRAMES = 10

#: The decoders that fit a task, by ALGORITHMS' numbers: YOLO-World's reads the raw heads of a
#: detector, YOLOv8's an output that was decoded in the graph.
_DECODERS: Mapping[str, tuple[int, ...]] = {"pose": (5,), "detect": (6, 8), "classify": (4,)}


def check_on_device(
    board: AtClient, description: Description, *, address: int, estimated_ms: float | None
) -> BoardRecord:
    """Wait for a board to start, write the model's labels, and invoke the model.

    ``address`` is where the model was flashed, ``estimated_ms`` what the build expects of one
    inference. A check that fails is in the record; raises BoardError if the board cannot be asked,
    or refuses to invoke the model at all.
    """
    board.wait_until_ready(START_S)
    board.stop()  # it may be configured to invoke the model at start
    identity = board.identity()
    slot = board.model()
    if slot is None or slot.address != address:
        board.use_model_at(address)
        slot = board.model()
    warnings = _write_labels(board, description)
    frames = list(board.invoke(FRAMES, with_images=False))
    pre, inference, post = _medians(frames)
    decoder = board.invocation.algorithm
    checks = [*_slot_checks(slot, description, address), _decoder_check(decoder, description.task)]
    if not warnings:
        checks.append(_label_check(board, description))
    return BoardRecord(
        kiln=__version__,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        board_id=identity.id,
        board_name=identity.name,
        firmware=identity.software,
        sha256=description.sha256,
        decoder=_decoder(decoder),
        frames=len(frames),
        preprocess_ms=pre,
        inference_ms=inference,
        postprocess_ms=post,
        most_objects=max(
            (len(each.boxes) + len(each.poses) + len(each.classes) for each in frames), default=0
        ),
        estimated_ms=estimated_ms,
        checks=(*checks, _arrival_check(len(frames))),
        warnings=tuple(warnings),
    )


def _write_labels(board: AtClient, description: Description) -> list[str]:
    """Warnings, if the labels are more than the board can keep."""
    try:
        board.set_info(to_info(description))
    except DescriptionTooLong as error:
        return [f"{error.message}: {error.hint}"]
    return []


def _label_check(board: AtClient, description: Description) -> Check:
    kept = from_info(board.info())
    return Check(
        title="labels on the board",
        ok=kept is not None and kept.sha256 == description.sha256,
        figure=f"of the model {kept.sha256[:12] or kept.name}" if kept else "none",
        expected=f"of the model {description.sha256[:12]}",
    )


def _slot_checks(slot: ModelSlot | None, description: Description, address: int) -> list[Check]:
    checks = [
        Check(
            title="model that the board uses",
            ok=slot is not None and slot.address == address,
            figure=f"at 0x{slot.address:x}" if slot else "none",
            expected=f"at 0x{address:x}",
        )
    ]
    # Firmware 1.0.x does not know the size of a plain TFLite file.
    if slot is not None and slot.size:
        checks.append(
            Check(
                title="its size",
                ok=0 <= slot.size - description.size <= PADDING_BYTES,
                figure=f"{slot.size} bytes",
                expected=f"{description.size} bytes",
            )
        )
    return checks


def _decoder_check(algorithm: int, task: str) -> Check:
    fitting = _DECODERS.get(task, ())
    return Check(
        title="decoder that the board chose",
        ok=algorithm in fitting,
        figure=_decoder(algorithm),
        expected=" or ".join(_decoder(each) for each in fitting),
    )


def _arrival_check(frames: int) -> Check:
    """A line may lose a byte, and with it a frame, now and then; losing most is a fault."""
    least = FRAMES // 2 + 1
    return Check(
        title="frames that arrived",
        ok=frames >= least,
        figure=f"{frames} of {FRAMES}",
        expected=f"at least {least}",
    )


def _decoder(algorithm: int) -> str:
    return f"{ALGORITHMS.get(algorithm, 'unknown')} ({algorithm})"


def _medians(frames: Sequence[Detections]) -> tuple[float, float, float]:
    if not frames:
        return (0.0, 0.0, 0.0)
    pre, inference, post = (
        float(statistics.median(times))
        for times in zip(*(each.perf_ms for each in frames), strict=True)
    )
    return (pre, inference, post)
