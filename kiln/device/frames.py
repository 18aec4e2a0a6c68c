"""Finds the frames in what a board with SSCMA firmware sends.

A frame is one JSON object between ``\\r`` and ``\\n`` (SSCMA-Micro, branch 1.0.x,
docs/protocol/at-protocol-en_US.md). Between frames come boot texts, logs and crash dumps, and on a
line of 921,600 baud now and then a byte is lost: of a frame, or the one that ends it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

#: An image of a 640x480 camera is some 100 kB of base64; a line that is longer by far has lost
#: its end, and what comes after it is worth more than the rest of it.
MAX_LINE_BYTES = 2 << 20

_LINE_END = re.compile(rb"[\r\n]")
#: How the firmware begins every frame (``REPLY_CMD_HEADER`` and its like in sscma/callback/).
_FRAME_START = '{"type"'


@dataclasses.dataclass(frozen=True)
class Reply:
    """The answer to the request of this ``tag``; ``code`` 0 is success, ``data`` any JSON."""

    name: str
    tag: str
    code: int
    data: Any


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that a request has set going; ``tag`` is that request's, empty if it had none."""

    name: str
    code: int
    data: Any
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Log:
    """What the firmware reports outside of any request, as of a line that is no command."""

    text: str
    code: int = 0


Frame = Reply | Event | Log


class FrameReader:
    """Takes bytes as they come and gives the frames that are whole; no input makes it raise.

    A frame is given when its line ends, so the same bytes give the same frames however they are
    cut. The time is linear in the bytes, and never more than ``MAX_LINE_BYTES`` are held.
    ``skipped`` counts bytes that were part of no frame, line ends aside; ``broken`` counts frames
    among them that could not be read.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self.broken = 0
        self._line = bytearray()
        self._given_up = False

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
        if not self._given_up and len(self._line) + len(piece) > MAX_LINE_BYTES:
            self._given_up = True
            self.broken += 1
            self.skipped += len(self._line)
            self._line.clear()
        if self._given_up:
            self.skipped += len(piece)
        else:
            self._line += piece

    def _end_line(self) -> list[Frame]:
        line, self._line, self._given_up = self._line, bytearray(), False
        if b"{" not in line:
            self.skipped += len(line)
            return []
        # Bytes that are no UTF-8 must not cost the frames beside them.
        frames, rest = _frames_in(line.decode("utf-8", "surrogateescape"))
        self.skipped += len(rest.encode("utf-8", "surrogateescape"))
        self.broken += '"type"' in rest or rest.startswith("{")
        return frames


def _frames_in(text: str) -> tuple[list[Frame], str]:
    """The frames of a line, and all of it that is none of them."""
    begin = text.find("{")
    frames, end = _frames_at(text, begin)
    if end == len(text):
        return frames, text[:begin]
    # A frame whose own line end was lost begins behind text, or behind a frame cut short. Only
    # the last one is looked for: each further try would read the same bytes again.
    last = text.rfind(_FRAME_START, end + (not frames))
    if last < 0:
        return frames, text[:begin] + text[end:]
    more, tail = _frames_at(text, last)
    return frames + more, text[:begin] + text[end:last] + text[tail:]


def _frames_at(text: str, start: int) -> tuple[list[Frame], int]:
    """The frames that follow each other from ``start`` on, and where they end."""
    frames: list[Frame] = []
    while start < len(text):
        try:
            document, end = _DECODER.raw_decode(text, start)
            text[start:end].encode()  # a damaged character fails here
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
