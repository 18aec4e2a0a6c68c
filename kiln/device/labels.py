"""The description of a model that a board stores: names of its classes and keypoints.

SenseCraft's page writes it with ``AT+INFO=`` after a flash and reads it when it connects: base64
of JSON, the interface ``Model`` in src/sscma/types.ts of Seeed-Studio/SenseCraft-Web-Toolkit,
written in src/pages/setup/process/components/Device.vue (``setInfo``) and read in .../process/
grove_ai_we2/Device.vue and components/Preview.vue, where ``classes`` label the boxes. Kiln writes
the same, and what the page has no field for under the key ``kiln``.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from kiln.errors import BoardError
from kiln.report.result import BuildResult
from stages import coco
from stages.results.onnx import OnnxResult

#: Of the 4095 bytes of a request; the rest holds `AT+`, a tag, `@INFO=""` and the end.
MAX_INFO_CHARACTERS = 4064

_CATEGORIES = {
    "pose": "Pose Detection",
    "detect": "Object Detection",
    "classify": "Image Classification",
}
_ALGORITHMS = {"pose": "YOLOv8 Pose", "detect": "YOLOv8", "classify": "YOLOv8 Classification"}
#: What may be left out of a description, the least useful first, as paths of keys.
_OPTIONAL = (
    *(("description",), ("author",), ("model_type",), ("algorithm",), ("checksum",)),
    *(("kiln", "skeleton"), ("kiln", "keypoints")),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a model; fields are empty if unknown.

    ``size`` is in bytes; ``skeleton`` joins keypoints by their numbers; ``task`` is a build's.
    """

    name: str
    sha256: str = ""
    size: int = 0
    task: str = ""
    classes: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def label(self, target: int) -> str:
        """The name of a class, or its number if it has none."""
        return self.classes[target] if 0 <= target < len(self.classes) else str(target)


class DescriptionTooLong(BoardError):
    """The class names alone are longer than the board can store."""

    def __init__(self, classes: int) -> None:
        super().__init__(
            f"the names of {classes} classes are too long for the board's label memory",
            hint="shorten the names in data.yaml; the model itself is not affected, but boxes "
            "keep the labels that the board had before",
        )


def describe(build: BuildResult) -> Description:
    """What a build says of the model that goes onto the board."""
    exported = build.step("onnx")
    network: OnnxResult | None = exported.result if exported else None
    count = network.kpt_shape[0] if network and network.kpt_shape else 0
    is_coco = count == len(coco.KEYPOINTS)
    return Description(
        name=build.name,
        sha256=build.deployed_file.sha256,
        size=build.deployed_file.bytes,
        task=build.task,
        classes=network.names if network else (),
        keypoints=coco.KEYPOINTS if is_coco else tuple(f"point {n}" for n in range(count)),
        skeleton=tuple((first, second) for first, second in build.evidence.skeleton),
    )


def to_info(description: Description) -> str:
    """The text for ``AT+INFO=``; the same description gives the same text.

    Optional fields are left out, one after another, if the text is too long for a request. Raises
    DescriptionTooLong if that is not enough.
    """
    document = _document(description)
    for path in (None, *_OPTIONAL):
        if path is not None:
            _remove(document, path)
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        info = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
        if len(info) <= MAX_INFO_CHARACTERS:
            return info
    raise DescriptionTooLong(len(description.classes))


def from_info(text: str) -> Description | None:
    """Parse the text of ``AT+INFO?``, Kiln's or SenseCraft's; None if it is no description."""
    try:
        document = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(document, Mapping):
        return None
    own = document.get("kiln")
    kiln: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    keypoints = _texts(kiln.get("keypoints"))
    return Description(
        name=_text(document.get("name")),
        sha256=_text(kiln.get("sha256")),
        size=_size(document.get("size")),
        task=_text(kiln.get("task")),
        classes=_texts(document.get("classes")),
        keypoints=keypoints,
        skeleton=_pairs(kiln.get("skeleton"), len(keypoints)),
    )


def _document(description: Description) -> dict[str, Any]:
    digest = description.sha256
    own: dict[str, Any] = {"sha256": digest, "task": description.task}
    if description.keypoints:
        own |= {"keypoints": description.keypoints, "skeleton": description.skeleton}
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}")),
        "name": description.name,
        # A model has no version; its digest tells it from others.
        "version": digest[:8],
        "category": _CATEGORIES.get(description.task, ""),
        "classes": description.classes,
        "model_type": "TFLite",
        "algorithm": _ALGORITHMS.get(description.task, ""),
        "description": "Made by Kiln",
        "checksum": f"SHA-256: {digest}",
        "size": str(description.size),
        "author": "Kiln",
        "isCustom": True,  # the page then shows it as the user's own model
        "kiln": own,
    }


def _remove(document: dict[str, Any], path: Sequence[str]) -> None:
    for key in path[:-1]:
        document = document[key]
    document.pop(path[-1], None)


def _text(value: object) -> str:
    """Text that can be encoded: JSON can spell half of a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    """Names by number; one that is not text becomes empty."""
    return tuple(_text(each) for each in value) if isinstance(value, list) else ()


def _size(value: object) -> int:
    """SenseCraft writes it as text, sometimes with a unit."""
    if type(value) is int:
        return value
    digits = "".join(itertools.takewhile(str.isdecimal, value)) if isinstance(value, str) else ""
    return int(digits[:12] or "0")


def _pairs(value: object, count: int) -> tuple[tuple[int, int], ...]:
    pairs = [each for each in value if isinstance(each, list)] if isinstance(value, list) else []
    return tuple(
        (pair[0], pair[1])
        for pair in pairs
        if len(pair) == 2 and all(type(n) is int and 0 <= n < count for n in pair)
    )
