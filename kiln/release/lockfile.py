"""Reads lock files as uv writes them: every package with its version and hashes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:(?P<sha256>[0-9a-f]{64})")
_VIA = re.compile(r"^ +# +(?:via +)?(?P<name>[A-Za-z0-9._-]+)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pin:
    """One package: its files' sha256 (hex), and the packages that asked for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]


def read_lock(path: Path) -> list[Pin]:
    """All packages of a lock, in its order; raises OSError."""
    return [_pin(block) for block in _blocks(path.read_text(encoding="utf-8").splitlines())]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """A package begins at the margin, and all that is said of it is indented."""
    block: list[str] = []
    for line in lines:
        if _PIN.match(line) and block:
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _pin(block: list[str]) -> Pin:
    found = _PIN.match(block[0])
    assert found is not None, block[0]
    via = (_VIA.match(line) for line in block[1:])
    return Pin(
        name=found["name"],
        version=found["version"],
        hashes=tuple(_HASH.findall("\n".join(block))),
        wanted_by=tuple(each["name"] for each in via if each and each["name"] != "via"),
    )
