"""Which firmware an attached board has, and whether that can run a model.

SSCMA-Micro 1.0.x answers ``AT+VER?`` with the date of its build (core/el_version.h), and
``AT+ALGOS?`` with the algorithms that it holds (sscma/callback/algorithm.hpp). Its main line
answers the first with a constant (MA_VERSION in sscma/core/ma_common.h) and does not know the
second. A date says only that the code is not younger: an old commit may have been built late. So
what ``AT+ALGOS?`` lists outranks the date, whose generation is the newest that it can be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kiln.device.at_errors import CommandRefused, NoReply, UnexpectedReply
from kiln.device.replies import ALGORITHMS
from kiln.device.sscma import AtClient
from kiln.plan.request import Task
from kiln.plan.targets import Firmware, Target

#: The algorithm of ``AT+ALGOS?`` that takes a form of ``Firmware.forms``.
_ALGORITHM_OF: Mapping[str, int] = {
    "yolov8-pose": 5,
    "yolo-world": 8,
    "yolov8-decoded": 6,
    "classifier": 4,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardFirmware:
    """What a board says of its firmware; ``algorithms`` is None if it does not list them."""

    software: str
    algorithms: frozenset[int] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelNeeds:
    """What a model asks of a firmware: operators on the CPU by type, and KiB of the arena."""

    task: Task
    classes: int | None
    operators: Sequence[str]
    arena_kib: float


def ask_firmware(board: AtClient) -> BoardFirmware | None:
    """What the board says of its firmware; None if it says nothing that can be understood."""
    try:
        software = board.version()
    except (NoReply, CommandRefused, UnexpectedReply):
        return None
    try:
        return BoardFirmware(software=software, algorithms=board.algorithms())
    except (NoReply, CommandRefused, UnexpectedReply):
        return BoardFirmware(software=software, algorithms=None)


def generation_of(found: BoardFirmware, target: Target) -> Firmware | None:
    """The generation that a board has, or the newest that it can have; None if unknown."""
    if found.algorithms is None:
        named = (each for each in target.generations if found.software in each.software)
        return next(named, None)
    built = found.software.replace(".", "-")
    able = [each for each in target.generations if each.since and each.since <= built]
    return able[-1] if able else None


def describe_firmware(found: BoardFirmware, target: Target) -> str:
    """Which firmware a board has, as exactly as that is known."""
    generation = generation_of(found, target)
    if generation is None:
        return f"of version {found.software}, which targets/{target.name}.toml does not know"
    if found.algorithms is None:
        return generation.name
    return f"{generation.name} or older, built on {found.software}"


def refusal(needs: ModelNeeds, found: BoardFirmware, target: Target) -> str:
    """Why a board's firmware cannot run a model, and which can, in a sentence; "" if it can."""
    generation = generation_of(found, target)
    forms = target.task(needs.task).forms
    algorithm = _ALGORITHM_OF.get(forms[0]) if forms else None
    listed = found.algorithms
    reason = ""
    if listed is not None and algorithm is not None and algorithm not in listed:
        reason = f"it has no {ALGORITHMS[algorithm]}"
    elif generation is not None:
        reason = _reason(needs, generation, listed=listed is not None)
    if not reason:
        return ""
    able = [each.name for each in target.generations if not _reason(needs, each, listed=False)]
    others = f"; {' and '.join(able)} can" if able else "; no firmware that Kiln knows can"
    return (
        f"the board's firmware, {describe_firmware(found, target)}, cannot run this model: "
        f"{reason}{others}"
    )


def _reason(needs: ModelNeeds, firmware: Firmware, *, listed: bool) -> str:
    """Why a generation cannot run a model; "" if it can. ``listed`` says that the board has the
    task's algorithm, whatever the generation of its date has."""
    contract = firmware.tasks.get(needs.task)
    if contract is None:
        flaw = firmware.flaws.get(needs.task, "")
        return flaw if flaw or listed else f"it does not do {needs.task}"
    missing = sorted(set(needs.operators) - set(firmware.operators))
    if missing:
        return f"its interpreter does not know {', '.join(missing)}"
    if needs.arena_kib > firmware.arena_kib:
        return (
            f"its tensor arena has {firmware.arena_kib} KiB, and the model needs "
            f"{needs.arena_kib:.0f} KiB"
        )
    if needs.classes in contract.refused_classes:
        return " ".join(contract.reason.split())
    return ""
