"""What goes wrong between Kiln and a board's firmware, as sentences.

The codes are ``el_err_code_t`` of SSCMA-Micro, docs/protocol/at-protocol-en_US.md; why AT+INVOKE
gives which is read from sscma/callback/invoke.hpp, branch 1.0.x.
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


class Refused(BoardError):
    """The firmware answered a command with an error ``code``; ``said`` are its own words."""

    def __init__(self, command: str, code: int, said: str = "") -> None:
        codes = {**_CODES, **_INVOKE_CODES} if command == "INVOKE" else _CODES
        what, advice = codes.get(code, _UNKNOWN)
        words = f": {said:.200}" if said else ""
        super().__init__(
            f"the board refused AT+{command}: {what} (code {code}){words}", hint=advice
        )
        self.code = code


class UnknownCommand(Refused):
    """The firmware has no such command, or not in the state that it is in."""

    def __init__(self, command: str, code: int, said: str) -> None:
        super().__init__(command, code, said)
        if command.rstrip("?") in ("TSCORE", "TIOU"):
            self.hint = "it has thresholds only while it invokes a model"


class Silent(BoardError):
    """The board gave no answer in time; ``noise`` is how many bytes came that are no frames."""

    def __init__(self, command: str, noise: int) -> None:
        what = f"the board does not answer AT+{command}"
        if noise:
            message = f"{what}; it sends text that is none of SSCMA's ({noise} bytes)"
            hint = (
                "its firmware may be another one, or speak at another baud rate: flash the SSCMA "
                "firmware once at https://sensecraft.seeed.cc, or press its reset button"
            )
        else:
            message = what
            hint = (
                "check that the port is that of the board and that it runs SSCMA firmware; press "
                "its reset button, or unplug it and plug it in again"
            )
        super().__init__(message, hint=hint)


class Ended(BoardError):
    """The board stopped invoking though nobody told it to."""

    def __init__(self) -> None:
        super().__init__(
            "the board stopped in the middle of an invocation: it may have restarted",
            hint="a weak USB port or cable does that; use another one and run the command again",
        )


class NotUnderstood(BoardError):
    """A reply that is well-formed and not what the protocol says."""

    def __init__(self, command: str, data: object) -> None:
        super().__init__(
            f"the board answered AT+{command} in a form that Kiln does not know: {data!r:.200}",
            hint="its firmware may be another version than 1.0.x",
        )
