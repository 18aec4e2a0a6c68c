"""How the firmware parses a line: sscma/repl/server.hpp of SSCMA-Micro 1.0.x."""

from __future__ import annotations

import dataclasses
import re

_COMMAND = "AT+"
#: A quoted string with its escapes, or a number; everything between is ignored.
_ARGUMENT = re.compile(r"""(["'])((?:\\.|(?!\1).)*)(?:\1|$)|(-\d*|\d+)""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A request. ``name`` is in capitals, ``tagged`` has the tag before it, as in the reply."""

    name: str
    tagged: str
    arguments: str

    def take(self, count: int) -> list[str]:
        """The first ``count`` arguments, or fewer, without quotes and escapes."""
        found = []
        for match in list(_ARGUMENT.finditer(self.arguments))[:count]:
            text = match[3] if match[3] is not None else _ESCAPED.sub(r"\1", match[2])
            found.append(text)
        return found


def read_command(line: str) -> Command | None:
    """Parse a line without its end; None if it is no command."""
    name, _, arguments = line.partition("=")
    if not name.upper().startswith(_COMMAND):
        return None
    tagged = name[len(_COMMAND) :].upper()
    return Command(name=tagged.rpartition("@")[2], tagged=tagged, arguments=arguments)


def whole_number(text: str) -> int:
    """An argument as C's atoi reads it."""
    return int(text) if text.lstrip("-").isdigit() else 0


def crc16_maxim(data: bytes) -> int:
    """The checksum of INFO: polynomial 0x8005 reflected, its result inverted."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc ^ 0xFFFF
