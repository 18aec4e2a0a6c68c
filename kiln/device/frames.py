"""Finds the frames in what a board with SSCMA firmware sends.

A frame is one JSON object between ``\\r`` and ``\\n`` (SSCMA-Micro, branch 1.0.x,
docs/protocol/at-protocol-en_US.md). Between frames come boot texts, logs and crash dumps, and a
line of 921,600 baud loses a byte now and then, of a frame or of its end.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

#: An image of a 640x480 camera is some 100 kB of base64; a much longer line has lost its end and is
#: dropped.
MAX_LINE_BYTES = 2 << 20

_LINE_END = re.compile(rb"[\r\n]")
#: How every frame of the firmware begins (``REPLY_CMD_HEADER`` and its like in sscma/callback/).
_FRAME_START = '{"type"'


@dataclasses.dataclass(frozen=True)
class Reply:
    """The reply to the request of this ``tag``; ``code`` 0 is success, ``data`` any JSON."""

    name: str
    tag: str
    code: int
    data: Any


@dataclasses.dataclass(frozen=True)
class Event:
    """A result of a running request; ``tag`` is that request's, empty if it had none."""

    name: str
    code: int
    data: Any
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Log:
    """What the firmware reports outside of any request, such as an unknown command."""

    text: str
    code: int = 0


Frame = Reply | Event | Log


class FrameReader:
    """Takes bytes in pieces of any size and gives the intact frames; no input makes it raise.

    A frame is given when its line ends. The time is linear in the bytes, and at most
    ``MAX_LINE_BYTES`` are held. ``skipped`` counts bytes that were part of no frame, without line
    ends; ``broken`` counts damaged frames among them.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self.broken = 0
        self._line = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete, in order."""
        frames: list[Frame] = []
        start = 0
        for end in _LINE_END.finditer(data):
            self._extend(data[start : end.start()])
            frames += self._end_line()
            start = end.end()
        self._extend(data[start:])
        return frames

    def _extend(self, piece: bytes) -> None:
        if not self._too_long and len(self._line) + len(piece) > MAX_LINE_BYTES:
            self._too_long = True
            self.broken += 1
            self.skipped += len(self._line)
            self._line.clear()
        if self._too_long:
            self.skipped += len(piece)
        else:
            self._line += piece

    def _end_line(self) -> list[Frame]:
        line, self._line, self._too_long = self._line, bytearray(), False
        if b"{" not in line:
            self.skipped += len(line)
            return []
        # Bytes that are not UTF-8 must not spoil the frames beside them.
        frames, rest = _frames_in(line.decode("utf-8", "surrogateescape"))
        self.skipped += len(rest.encode("utf-8", "surrogateescape"))
        self.broken += '"type"' in rest or rest.startswith("{")
        return frames


def _frames_in(text: str) -> tuple[list[Frame], str]:
    """The frames of a line, and the rest of its text."""
    begin = text.find("{")
    frames, end = _frames_at(text, begin)
    if end == len(text):
        return frames, text[:begin]
    # A frame before which a line end was lost begins after text, or after a truncated frame. Only
    # the last one is searched: each further try would read the same bytes again.
    last = text.rfind(_FRAME_START, end + (not frames))
    if last < 0:
        return frames, text[:begin] + text[end:]
    more, tail = _frames_at(text, last)
    return frames + more, text[:begin] + text[end:last] + text[tail:]


def _frames_at(text: str, start: int) -> tuple[list[Frame], int]:
    """The frames that follow each other from ``start`` on, and the position after them."""
    frames: list[Frame] = []
    while start < len(text):
        try:
            document, end = _DECODER.raw_decode(text, start)
            text[start:end].encode()  # raises for a damaged character
        except (ValueError, RecursionError):
            break
        frame = _frame_of(document)
        if frame is None:
            break
        frames.append(frame)
        start = end
    return frames, start


def _frame_of(document: object) -> Frame | None:
    if not isinstance(document, Mapping):
        return None
    name, code, data = document.get("name"), document.get("code"), document.get("data")
    if not isinstance(name, str) or type(code) is not int:
        return None
    # The firmware takes the last @ for the end of the tag (sscma/repl/server.hpp).
    tag, _, command = name.rpartition("@")
    match document.get("type"):
        case 0:
            return Reply(command, tag, code, data)
        case 1:
            return Event(command, code, data, tag)
        case 2:
            return Log(data if isinstance(data, str) else json.dumps(data), code)
    return None


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("neither NaN nor Infinity is JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
