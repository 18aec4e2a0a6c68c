"""Damage to what a store holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.chaos.bench import Victim, step_of


def outputs_of(victim: Victim, step: str) -> list[Path]:
    """The files that a step gave."""
    for key, document in victim.documents().items():
        if step_of(document) == step:
            return [victim.entries / key / "out" / name for name in document["files"]]
    pytest.fail(f"{step} has no entry")


def flip(path: Path) -> None:
    """Change one bit."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)


def flip_unseen(victim: Victim, path: Path) -> None:
    """Change one bit as a disk does that fails: by size, times and inode the file has not moved.

    Nobody can set a change time back, so it is the index that is told the new one.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    flip(path)
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, digest]
    key = path.relative_to(victim.entries).parts[0]
    index = victim.home / "store" / "index" / f"{key}.json"
    index.write_text(json.dumps({str(path): stamp}), encoding="utf-8")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def forget(victim: Victim, step: str) -> None:
    """As if a step had not run yet."""
    shutil.rmtree(outputs_of(victim, step)[0].parents[1])
