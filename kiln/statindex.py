"""Spares re-reading files that have not moved since they were last hashed.

Equal times alone prove nothing: a file may be rewritten within the clock tick in which it was
hashed. As git does, a file whose times are too close to the moment of hashing is not remembered
(https://git-scm.com/docs/racy-git).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from kiln.tree import File, hash_file

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._fresh:
            self.save()

    def files(
        self, paths: Mapping[str, Path], *, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, File]:
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
        for done, (name, file) in enumerate(self._hash(stale, paths, stats), start=1):
            found[name] = file
            if progress:
                progress(done, len(stale))
        return found

    def save(self) -> None:
        """Write the index; a full or read-only disk only costs the next run some reading."""
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self._known | self._fresh, separators=(",", ":"))
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)

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
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, digest in zip(names, pool.map(hash_file, map(paths.get, names)), strict=True):
                stat = stats[name]
                if max(stat.st_mtime_ns, stat.st_ctime_ns) + _TICK_NS < started_ns:
                    self._fresh[str(paths[name])] = [*_times(stat), digest]
                yield name, File(path=paths[name], sha256=digest, size=stat.st_size)


def _times(stat: os.stat_result) -> _Stamp:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _load(path: Path) -> dict[str, _Stamp]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: stamp for key, stamp in known.items() if _is_stamp(stamp)}


def _is_stamp(stamp: object) -> bool:
    return isinstance(stamp, list) and len(stamp) == 5 and isinstance(stamp[4], str)
