"""Splits a step's stdout into events, whatever arrives on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

#: An event is far shorter; a step that prints more without a newline is not printing events.
MAX_LINE_BYTES = 1 << 20


class EventReader:
    """Feed it bytes as they come; it yields whole events and drops (and counts) the rest."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.dropped_lines = 0

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if self._skipping:
                self._skipping = False
                continue
            event = _parse(line)
            if event is not None:
                yield event
            elif line.strip():
                self.dropped_lines += 1
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
            if not self._skipping:
                self.dropped_lines += 1
            self._skipping = True


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("event"), str):
        return value
    return None
