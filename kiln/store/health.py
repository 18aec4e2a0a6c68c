"""Whether what the store holds is still what was put there."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.store.tree import hash_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """What a look into a store found; paths are below ``entries/``, sizes are bytes."""

    entries: int
    bytes: int
    checked_bytes: int
    unreadable: tuple[str, ...]
    damaged: tuple[str, ...]


def examine_store(folder: Path, *, sample_bytes: int | None) -> Health:
    """Read every entry.json, and hash files at random up to about ``sample_bytes``, or all."""
    entries = sorted((folder / "entries").glob("*/"))
    listed: dict[Path, tuple[str, int]] = {}
    unreadable = []
    for entry in entries:
        try:
            files = _files_of(entry)
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(entry.name)
        else:
            listed |= {
                entry / "out" / name: (str(file[0]), file[1]) for name, file in files.items()
            }
    damaged, checked = [], 0
    for path in random.sample(sorted(listed), len(listed)):
        sha256, size = listed[path]
        if sample_bytes is not None and checked + size > sample_bytes:
            continue
        checked += size
        if _digest(path) != sha256:
            damaged.append(path.relative_to(folder / "entries").as_posix())
    return Health(
        entries=len(entries),
        bytes=sum(size for _sha256, size in listed.values()),
        checked_bytes=checked,
        unreadable=tuple(unreadable),
        damaged=tuple(sorted(damaged)),
    )


def _files_of(entry: Path) -> Mapping[str, Any]:
    document = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
    files: Mapping[str, Any] = document["files"]
    return files


def _digest(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None
