"""Which YOLOv8 a training builds: what MODEL says."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Literal

from kiln.errors import RequestError

Activation = Literal["silu", "relu"]

_SIZES = "nsmlx"
_NAME = re.compile(rf"yolov8(?P<size>[{_SIZES}])(?P<relu>-relu)?")
_NAMES = [f"yolov8{size}{end}" for size in _SIZES for end in ("", "-relu")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A size of YOLOv8 and the activation of its layers."""

    size: str
    activation: Activation = "silu"

    @property
    def plain(self) -> str:
        """Ultralytics' name of this size."""
        return f"yolov8{self.size}"

    @property
    def name(self) -> str:
        return self.plain if self.activation == "silu" else f"{self.plain}-{self.activation}"


def read_architecture(name: str) -> Architecture:
    """The architecture of this name; raises RequestError with the nearest one."""
    found = _NAME.fullmatch(name)
    if found is None:
        # Of yolov8n-pose, which TASK makes of yolov8n, none is near.
        near = difflib.get_close_matches(name, _NAMES, n=len(_NAMES), cutoff=0.85)
        guess = f"did you mean {min(near, key=_NAMES.index)}? " if near else ""
        raise RequestError(
            f"MODEL={name!r:.80} is no YOLOv8 that Kiln builds",
            hint=f"{guess}known: yolov8n, yolov8s, yolov8m, yolov8l and yolov8x, each also with "
            "-relu; a board takes yolov8n; TASK says what it finds",
        )
    return Architecture(size=found["size"], activation="relu" if found["relu"] else "silu")
