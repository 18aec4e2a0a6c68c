"""What the page shows of the bytes that an inference reads from the flash."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kiln.report.result import Numbers
from stages.results.compile import Layer, Traffic

#: Operators with a row of their own.
MOST = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorUse:
    """An operator on the NPU: its cycles as Vela estimates them, as the NPU takes at its full rate,
    and as the flash takes for its bytes."""

    operator: str
    name: str
    flash_bytes: int
    cycles: int
    floor_cycles: int
    flash_cycles: float

    @property
    def waits(self) -> bool:
        """Whether the flash takes longer than the NPU at its full rate."""
        return self.flash_cycles > self.floor_cycles


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashUse:
    """All operators on the NPU in their order, and what they take together."""

    total: Traffic
    cycles: int
    operators: Sequence[OperatorUse]

    @property
    def waiting(self) -> list[OperatorUse]:
        return [each for each in self.operators if each.waits]

    @property
    def most(self) -> list[OperatorUse]:
        """Those that read most from the flash."""
        return sorted(self.operators, key=lambda each: -each.flash_bytes)[:MOST]


def flash_use(numbers: Numbers, operators: Sequence[Layer]) -> FlashUse | None:
    """What was counted; None for a board without an NPU and for a build without these figures."""
    total = numbers.traffic
    counted = [(each, each.counted) for each in operators if each.counted is not None]
    if total is None or numbers.cycles is None or not counted:
        return None
    return FlashUse(
        total=total,
        cycles=numbers.cycles,
        operators=[
            OperatorUse(
                operator=each.operator,
                name=each.name,
                flash_bytes=cost.flash_bytes,
                cycles=each.cycles or 0,
                floor_cycles=cost.floor_cycles,
                flash_cycles=total.flash_cycles(cost),
            )
            for each, cost in counted
        ],
    )
