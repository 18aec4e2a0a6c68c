"""Files with their digests: what goes into a step and what comes out of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """One file on this host: where its bytes are, their sha256 (hex) and their count."""

    path: Path
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A single file (the only key is "") or a folder (keys are POSIX paths within it).

    ``digest`` depends on names and bytes alone, never on where the files lie. ``list_files`` is
    called when somebody wants the files: of a large data set that has not changed, nobody does.
    """

    digest: str
    list_files: Callable[[], Mapping[str, File]]

    @functools.cached_property
    def files(self) -> Mapping[str, File]:
        return self.list_files()

    @property
    def is_file(self) -> bool:
        return "" in self.files

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def digest_of(value: object) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    return hash_bytes(canonical_json(value))


def hash_bytes(data: bytes) -> str:
    """sha256 (hex)."""
    return hashlib.sha256(data).hexdigest()


def tree_of(files: Mapping[str, File]) -> Tree:
    """Name a set of files by their content."""
    return Tree(
        digest=digest_of({name: [file.sha256, file.size] for name, file in files.items()}),
        list_files=lambda: dict(sorted(files.items())),
    )


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sums_of(files: Mapping[str, str]) -> str:
    """SHA256SUMS in the form that ``sha256sum -c`` reads, of digests by name."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
