"""A board of which a test says what it answers, at the other end of no line at all."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any

_REQUEST = re.compile(r"AT\+(?:(\w+)@)?(\w+\??)(?:=(.*))?", re.DOTALL)

#: What a board says to a command: bytes as they are, or the data of a reply with code 0.
Answer = bytes | dict[str, Any] | list[Any] | str | int


def frame(kind: int, name: str, data: object, code: int = 0) -> bytes:
    document = {"type": kind, "name": name, "code": code, "data": data}
    return b"\r" + json.dumps(document).encode() + b"\n"


class ScriptedLink:
    """A Link whose answers are looked up by command; one without an entry is met with silence.

    An entry is an answer, or is called with the tag and the arguments and gives one.
    """

    def __init__(self, **answers: Answer | Callable[[str, str], Answer]) -> None:
        self.answers: dict[str, Answer | Callable[[str, str], Answer]] = {
            name.replace("_Q", "?"): answer for name, answer in answers.items()
        }
        self.requests: list[tuple[str, str]] = []
        self.sent: deque[bytes] = deque()
        self.reads = 0

    def read(self, timeout_s: float) -> bytes:
        assert timeout_s >= 0
        self.reads += 1
        return self.sent.popleft() if self.sent else b""

    def write(self, data: bytes) -> None:
        assert data.endswith(b"\r")
        match = _REQUEST.fullmatch(data[:-1].decode("ascii"))
        assert match is not None
        tag, command, arguments = match[1], match[2], match[3] or ""
        self.requests.append((command, arguments))
        answer = self.answers.get(command, b"")
        if callable(answer):
            answer = answer(tag, arguments)
        if not isinstance(answer, bytes):
            answer = frame(0, f"{tag}@{command}", answer)
        if answer:
            self.sent.append(answer)

    def reset(self) -> None:
        self.requests.append(("RESET", ""))

    def close(self) -> None:
        pass
