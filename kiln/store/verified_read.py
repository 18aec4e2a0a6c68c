"""Reads files that have been hashed, and makes sure that they still are what they were.

An index of times and sizes spares reading files that are not used. It cannot know of a bit that a
disk has flipped, nor of a file that changes during a build: what uses a file checks it, once in
the life of a driver.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kiln.errors import Changed, DataError
from kiln.store.tree import File, hash_file
from kiln.system.files import replacing

_CHUNK_BYTES = 1 << 20

#: Files that this process has read and found to be what they should: device, inode, size, mtime
#: and digest. A file keeps all of them when it is moved into the store.
_seen: set[tuple[int, int, int, int, str]] = set()


def read_checked(file: File) -> Iterator[bytes]:
    """A file's bytes; raises Changed at their end unless they are the ones that were hashed.

    Never more of them than there were. Raises DataError if it cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with file.path.open("rb") as stream:
            stamp = _stamp_of(os.fstat(stream.fileno()))
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if size > file.size:
                    break
                yield chunk
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror}") from error
    if size != file.size or digest.hexdigest() != file.sha256:
        raise Changed(file.path)
    _seen.add((*stamp, file.sha256))


def hash_all(paths: Iterable[Path]) -> Iterator[str]:
    """sha256 (hex) of files, in their order, read on all cores; raises OSError."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_hash, paths)


def check_all(files: Iterable[File]) -> None:
    """Read files that nobody has read yet, on all cores; raises Changed and DataError."""
    unseen = [file for file in files if not _is_seen(file)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(_check, unseen):
            continue


def copy_checked(file: File, target: Path) -> None:
    """Put a copy at ``target``, whole or not at all; raises Changed, DataError and OSError."""
    with replacing(target) as temporary, temporary.open("wb") as stream:
        stream.writelines(read_checked(file))
        stream.flush()
        os.fsync(stream.fileno())


def _is_seen(file: File) -> bool:
    # What cannot be looked at is told by the attempt to read it.
    with contextlib.suppress(OSError):
        return (*_stamp_of(file.path.stat()), file.sha256) in _seen
    return False


def _check(file: File) -> None:
    for _chunk in read_checked(file):
        continue


def _hash(path: Path) -> str:
    stamp = _stamp_of(path.stat())
    digest = hash_file(path)
    _seen.add((*stamp, digest))
    return digest


def _stamp_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
