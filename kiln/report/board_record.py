"""What a board was found to do with a build's model: the record ``board.json`` beside it.

It is kept out of build.json, which says the same wherever and whenever it is made.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from kiln.errors import KilnError, os_errors
from kiln.plan.schema import read_record

FILE = "board.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that the board was asked, and what it should have said."""

    title: str
    ok: bool
    figure: str
    expected: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """The model of ``sha256`` on a board, at ``time`` (UTC); times are medians over ``frames``.

    ``most_seen`` is the largest number of objects in a frame; ``estimated_ms`` is what the build
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
    most_seen: int
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


def write_proof(folder: Path, proof: Proof) -> Path:
    """Leave it in a result folder; raises StoreError and DiskFull."""
    text = json.dumps(dataclasses.asdict(proof), indent=2, ensure_ascii=False) + "\n"
    path, temporary = folder / FILE, folder / f".{FILE}.part"
    with os_errors("cannot write what was measured"):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return path


def proof_of(folder: Path, sha256: str) -> Proof | None:
    """What a board did with the model of this digest; None if it has not been measured.

    A record of an earlier model, or one that cannot be read, is none: a board is measured again
    by flashing it again.
    """
    try:
        table = json.loads((folder / FILE).read_text(encoding="utf-8"))
        proof = read_record(Proof, table, FILE)
    except (OSError, ValueError, RecursionError, KilnError):
        return None
    return proof if sha256 == proof.sha256 else None
