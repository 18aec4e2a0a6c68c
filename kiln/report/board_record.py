"""The record of an on-device check: what a board was found to do with a build's model.

It is written to ``board.json`` beside build.json, which stays the same wherever and whenever it is
made.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from kiln.errors import KilnError, os_errors
from kiln.plan.schema import read_record
from kiln.system.files import write_atomically

FILE = "board.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that the board was asked, and what it should have answered."""

    title: str
    ok: bool
    figure: str
    expected: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardRecord:
    """The model of ``sha256`` on a board, at ``time`` (UTC); times are medians over ``frames``.

    ``most_objects`` is the largest number of objects in a frame; ``estimated_ms`` is what the build
    had estimated for the inference, None if it had not.
    """

    kiln: str
    time: str
    board_id: str
    board_name: str
    firmware: str
    sha256: str
    decoder: str
    frames: int
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    most_objects: int
    estimated_ms: float | None
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> list[str]:
        """A line for each check that failed."""
        return [
            f"{check.title}: {check.figure}, expected {check.expected}"
            for check in self.checks
            if not check.ok
        ]


def write_board_record(folder: Path, record: BoardRecord) -> Path:
    """Leave it in a result folder; raises StoreError and DiskFull."""
    text = json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n"
    path = folder / FILE
    with os_errors("cannot write the record of the on-device check"):
        write_atomically(path, text)
    return path


def read_board_record(folder: Path, sha256: str) -> BoardRecord | None:
    """What a board did with the model of this digest; None if it was not checked on one.

    A record of an earlier model, or one that cannot be read, counts as none: flashing again makes a
    new one.
    """
    try:
        table = json.loads((folder / FILE).read_text(encoding="utf-8"))
        record = read_record(BoardRecord, table, FILE)
    except (OSError, ValueError, RecursionError, KilnError):
        return None
    return record if sha256 == record.sha256 else None
