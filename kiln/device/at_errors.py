"""Errors of the AT protocol, with what to do about each.

The codes are ``el_err_code_t`` of SSCMA-Micro, docs/protocol/at-protocol-en_US.md; what they mean
for AT+INVOKE is read from sscma/callback/invoke.hpp, branch 1.0.x.
"""

from __future__ import annotations

from collections.abc import Mapping

from kiln.errors import BoardError

_RESET = "press the board's reset button, and run the same command again"
_UNKNOWN = ("for a reason that Kiln does not know", _RESET)
#: By code: what it means, and what to do.
_CODES: Mapping[int, tuple[str, str]] = {
    1: ("try again", "run the same command again"),
    2: ("logic error", _RESET),
    3: ("it ran out of time", _RESET),
    4: ("input or output failed", "check the camera's cable, then " + _RESET),
    5: ("invalid argument", "its firmware may be another version than 1.0.x"),
    6: ("out of memory", "flash a smaller model, or one for a smaller IMGSZ"),
    7: ("busy", _RESET),
    8: ("not supported", "its firmware may be another version than 1.0.x"),
    9: ("not permitted", _RESET),
}
_INVOKE_CODES: Mapping[int, tuple[str, str]] = {
    4: ("the camera is not there", "push both ends of its ribbon cable home, then reset the board"),
    5: ("there is no model that it can run", "flash one: kiln flash"),
    8: ("it has no decoder for this model", "flash one that `kiln inspect` accepts"),
    9: ("the model does not load", "flash one that `kiln inspect` accepts"),
}


class CommandRefused(BoardError):
    """The firmware answered a command with an error ``code``, and perhaps a ``message``."""

    def __init__(self, command: str, code: int, message: str = "") -> None:
        codes = {**_CODES, **_INVOKE_CODES} if command == "INVOKE" else _CODES
        meaning, advice = codes.get(code, _UNKNOWN)
        details = f": {message:.200}" if message else ""
        super().__init__(
            f"the board refused AT+{command}: {meaning} (code {code}){details}", hint=advice
        )
        self.code = code


class UnknownCommand(CommandRefused):
    """The firmware has no such command, or not in its present state."""

    def __init__(self, command: str, code: int, message: str) -> None:
        super().__init__(command, code, message)
        if command.rstrip("?") in ("TSCORE", "TIOU"):
            self.hint = "it has thresholds only while it invokes a model"


class NoReply(BoardError):
    """The board did not reply in time; ``other_bytes`` came that are part of no frame."""

    def __init__(self, command: str, other_bytes: int) -> None:
        message = f"the board does not answer AT+{command}"
        if other_bytes:
            message += f"; it sends text that is not of the AT protocol ({other_bytes} bytes)"
            hint = (
                "its firmware may be another one, or use another baud rate: flash the SSCMA "
                "firmware once at https://sensecraft.seeed.cc, or press its reset button"
            )
        else:
            hint = (
                "check that the port is that of the board and that it runs SSCMA firmware; press "
                "its reset button, or unplug it and plug it in again"
            )
        super().__init__(message, hint=hint)


class InvocationEnded(BoardError):
    """The board stopped invoking by itself."""

    def __init__(self) -> None:
        super().__init__(
            "the board stopped in the middle of an invocation: it may have restarted",
            hint="a weak USB port or cable does that; use another one and run the command again",
        )


class UnexpectedReply(BoardError):
    """A well-formed reply that the protocol does not allow."""

    def __init__(self, command: str, data: object) -> None:
        super().__init__(
            f"the board answered AT+{command} in a form that Kiln does not know: {data!r:.200}",
            hint="its firmware may be another version than 1.0.x",
        )
