"""The registers that a command stream sets, as its operations read them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from stages.vela.npu.errors import NpuError
from stages.vela.npu.operations import Scale
from stages.vela.npu.registers import Long, Short


class RegisterFile:
    """The registers' content; to read one that was never set is an error."""

    def __init__(self) -> None:
        self._short: dict[int, int] = {}
        self._long: dict[int, tuple[int, int]] = {}
        self._reader = ""

    def name(self, reader: str) -> None:
        """Say what reads from now on, for messages."""
        self._reader = reader

    def set_short(self, code: int, param: int, where: str) -> None:
        self._known(Short, code, where)
        self._short[code] = param

    def set_long(self, code: int, param: int, data: int, where: str) -> None:
        self._known(Long, code, where)
        self._long[code] = (param, data)

    def has(self, register: Short) -> bool:
        return register in self._short

    def unsigned(self, register: Short) -> int:
        return self._get(self._short, register)

    def signed(self, register: Short) -> int:
        return (self.unsigned(register) ^ 0x8000) - 0x8000

    def size(self, register: Short) -> int:
        """A size that is stored less one."""
        return self.unsigned(register) + 1

    def address(self, register: Long) -> int:
        param, data = self._get(self._long, register)
        return param << 32 | data

    def stride(self, register: Long) -> int:
        """A distance in bytes, negative where Vela mirrors a tensor: of 40 bits, as Vela 5 writes
        it (ethos_u65_interface.hpp); Vela 4 extends its sign to 48 (cmd1_with_address)."""
        low = self.address(register) & (1 << 40) - 1
        return (low ^ 1 << 39) - (1 << 39)

    def scale(self, register: Long) -> Scale:
        param, data = self._get(self._long, register)
        if param >= 64:
            raise NpuError(f"{self._reader}: {register.name} shifts by {param}")
        return Scale(multiplier=data, shift=param)

    def pick(self, choices: tuple[Any, ...], number: int, what: str) -> Any:
        """A choice by its number; raises NpuError for one that is not known."""
        if number >= len(choices):
            raise NpuError(f"{self._reader}: {what} {number} is unknown")
        return choices[number]

    def refuse(self, what: str) -> NpuError:
        return NpuError(f"{self._reader}: {what}")

    def _get(self, values: Mapping[int, Any], register: IntEnum) -> Any:
        if register not in values:
            raise NpuError(f"{self._reader} uses {register.name}, which the stream has not set")
        return values[register]

    @staticmethod
    def _known(kind: type[IntEnum], code: int, where: str) -> None:
        try:
            kind(code)
        except ValueError:
            raise NpuError(f"{where} sets an unknown register: {code:#x}") from None
