"""Spares re-reading files that have not moved since they were last hashed.

Equal times alone prove nothing: a file may be rewritten within the clock tick in which it was
hashed. As git does, a file whose times are too close to the moment of hashing is not remembered
(https://git-scm.com/docs/racy-git).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kiln.errors import Changed
from kiln.store.tree import File, Tree, hash_bytes, tree_of
from kiln.store.verified_read import hash_all
from kiln.system.files import write_atomically

#: Coarsest time stamp of the file systems in use (FAT: 2 s).
_TICK_NS = 2_000_000_000

_Stamp = list[int | str]


class StatIndex:
    """Digests by path, size, mtime, ctime and inode, kept in one JSON file.

    Use it as a context manager: it is written back, whole, at the end. A damaged or missing file
    is an empty index. Two writers do not mix their lines: the last one wins, which costs reading.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, _Stamp] = _load(path)
        self._fresh: dict[str, _Stamp] = {}

    def __enter__(self) -> StatIndex:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._fresh:
            self.save()

    def files(self, paths: Mapping[str, Path]) -> dict[str, File]:
        """Hash what is new or has moved, on all cores; raises OSError for an unreadable file."""
        stats = {name: path.stat() for name, path in paths.items()}
        found: dict[str, File] = {}
        stale: list[str] = []
        for name, path in paths.items():
            digest = self._lookup(path, stats[name])
            if digest is None:
                stale.append(name)
            else:
                found[name] = File(path=path, sha256=digest, size=stats[name].st_size)
        found.update(self._hash(stale, paths, stats))
        return found

    def save(self) -> None:
        """Write the index; a full or read-only disk only costs the next run some reading."""
        _write(self._path, self._known | self._fresh)

    def knows(self, paths: Iterable[Path]) -> bool:
        """True if none of these files would be read again, were it asked for now."""
        return all(str(path) in self._fresh or str(path) in self._known for path in paths)

    def _lookup(self, path: Path, stat: os.stat_result) -> str | None:
        stamp = self._known.get(str(path))
        if stamp is not None and stamp[:4] == _times(stat):
            return str(stamp[4])
        return None

    def _hash(
        self, names: Iterable[str], paths: Mapping[str, Path], stats: Mapping[str, os.stat_result]
    ) -> Iterator[tuple[str, File]]:
        names = list(names)
        started_ns = time.time_ns()
        digests = hash_all([paths[name] for name in names])
        for name, digest in zip(names, digests, strict=True):
            stat = stats[name]
            if max(stat.st_mtime_ns, stat.st_ctime_ns) + _TICK_NS < started_ns:
                self._fresh[str(paths[name])] = [*_times(stat), digest]
            yield name, File(path=paths[name], sha256=digest, size=stat.st_size)


def tree_at(paths: Mapping[str, str], more: Mapping[str, File], *, index: Path) -> Tree:
    """The tree of files at ``paths``, by their name in it, and of ``more``; raises OSError.

    If none has moved since it was last asked for, its digest is known, and the files themselves
    are looked up only if they are asked for: for 20,000 files that is the time of a whole build.
    """
    known = index.with_suffix(".tree")
    state = _state(paths, more)
    document = _read(known)
    if document.get("state") == state:
        digest = str(document.get("digest"))
        return Tree(digest=digest, list_files=lambda: _files_of(digest, paths, more, index))
    with StatIndex(index) as files:
        places = {name: Path(path) for name, path in paths.items()}
        tree = tree_of({**files.files(places), **more})
        if files.knows(places.values()):
            _write(known, {"state": state, "digest": tree.digest})
    return tree


def _state(paths: Mapping[str, str], more: Mapping[str, File]) -> str:
    """Changes if a name, a place, a size, a time or an inode does."""
    lines = [f"{name}\0{file.sha256}" for name, file in more.items()]
    for name, path in paths.items():
        stat = os.stat(path)  # noqa: PTH116 - 20,000 of them
        lines.append(
            f"{name}\0{path}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
        )
    return hash_bytes("\n".join(lines).encode())


def _files_of(
    digest: str, paths: Mapping[str, str], more: Mapping[str, File], index: Path
) -> Mapping[str, File]:
    """Raises Changed if they are not those that the digest was of."""
    with StatIndex(index) as files:
        tree = tree_of({**files.files({name: Path(path) for name, path in paths.items()}), **more})
    if tree.digest != digest:
        raise Changed(Path(os.path.commonpath(paths.values())))
    return tree.files


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all; a disk that takes nothing only costs the next run some reading."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document, separators=(",", ":")))


def _times(stat: os.stat_result) -> _Stamp:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _load(path: Path) -> dict[str, _Stamp]:
    return {key: stamp for key, stamp in _read(path).items() if _is_stamp(stamp)}


def _read(path: Path) -> dict[str, Any]:
    """Nothing if nothing can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_stamp(stamp: object) -> bool:
    return isinstance(stamp, list) and len(stamp) == 5 and isinstance(stamp[4], str)
