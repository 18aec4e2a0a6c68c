"""Which code decides a step's bytes: its module and every ``stages`` module that it imports."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from kiln.store.tree import digest_of, hash_file

#: The formatter leaves no other form; parsing the code takes a tenth of a second at every start.
_IMPORT = re.compile(
    r"^\s*(?:from|import) (?P<module>stages[.\w]*)(?: import (?P<names>\([^)]*\)|.*))?$",
    re.MULTILINE,
)


def sources_digest(root: Path, module: str) -> str:
    """Digest of a step's own code, so that a change of one step leaves the others' results."""
    return digest_of({name: _digest(_path(root, name)) for name in sorted(_closure(root, module))})


def _closure(root: Path, module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(_path(root, name)))
    return found


def _path(root: Path, module: str) -> Path:
    return root.joinpath(*module.split(".")).with_suffix(".py")


@functools.cache
def _digest(path: Path) -> str:
    return hash_file(path)


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of ``stages`` that a file imports, at any depth of it."""
    root = path.parents[len(_parts(path)) - 1]
    return tuple(name for name in _named(path.read_text("utf-8")) if _path(root, name).is_file())


def _parts(path: Path) -> tuple[str, ...]:
    """The path's parts from ``stages`` on."""
    start = len(path.parts) - 1 - path.parts[::-1].index("stages")
    return path.parts[start:]


def _named(source: str) -> Iterator[str]:
    for found in _IMPORT.finditer(source):
        module = found["module"]
        yield module
        yield from (f"{module}.{name}" for name in re.findall(r"\w+", found["names"] or ""))
