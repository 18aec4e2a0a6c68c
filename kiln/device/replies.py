"""What replies to commands say, as records.

Source: SSCMA-Micro, branch 1.0.x, docs/protocol/at_protocol.md and sscma/utility.hpp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kiln.device.at_errors import UnexpectedReply

_SLOT = ("id", "type", "address", "size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Which board, with which firmware; empty if unknown."""

    id: str
    name: str
    software: str
    hardware: str
    at_api: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSlot:
    """A model on the board's flash; ``type`` and ``size`` (bytes) are 0 if unknown."""

    id: int
    type: int
    address: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensor:
    """A camera; ``state`` 1 is ready for use. ``option`` is the number of its mode, and ``options``
    all modes in words, such as `240x240 Auto`; None and {} if the board does not tell.
    """

    id: int
    state: int
    option: int | None
    options: Mapping[int, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Invocation:
    """How the board invokes the model; thresholds in percent, None if it has none."""

    algorithm: int
    score: int | None
    iou: int | None


#: Algorithm types, by the names of the protocol's table.
ALGORITHMS: Mapping[int, str] = {
    **{0: "undefined", 1: "FOMO", 2: "PFLD", 3: "YOLOv5", 4: "classifier", 5: "YOLOv8 pose"},
    **{6: "YOLOv8", 7: "NVIDIA detection", 8: "YOLO-World", 9: "YOLO11", 10: "YOLO11 pose"},
}


def read_slot(data: object) -> ModelSlot:
    table = data if isinstance(data, Mapping) else {}
    values: dict[str, Any] = {name: table.get(name) for name in _SLOT}
    if any(type(value) is not int for value in values.values()):
        raise UnexpectedReply("MODEL?", data)
    return ModelSlot(**values)


def read_sensor(data: object) -> Sensor:
    table = data if isinstance(data, Mapping) else {}
    number, state = table.get("id"), table.get("state")
    if type(number) is not int or type(state) is not int:
        raise UnexpectedReply("SENSORS?", data)
    option, options = table.get("opt_id"), table.get("opts")
    told = options.items() if isinstance(options, Mapping) else ()
    named = {int(key): str(words) for key, words in told if key.isascii() and key.isdecimal()}
    return Sensor(
        id=number,
        state=state,
        option=option if type(option) is int else None,
        options=dict(sorted(named.items())),
    )


def read_invocation(data: object) -> Invocation:
    algorithm = data.get("algorithm") if isinstance(data, Mapping) else None
    table = algorithm if isinstance(algorithm, Mapping) else {}
    kind, config = table.get("type"), table.get("config")
    if type(kind) is not int:
        raise UnexpectedReply("INVOKE", data)
    limits = config if isinstance(config, Mapping) else {}
    return Invocation(
        algorithm=kind, score=_percent(limits, "tscore"), iou=_percent(limits, "tiou")
    )


def _percent(limits: Mapping[str, Any], name: str) -> int | None:
    value = limits.get(name)
    return value if type(value) is int else None
