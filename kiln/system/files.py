"""Files of this host: locks on them, writing them whole or not at all, what they take, removal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kiln.system.workers import stop_if_asked

#: How the name of a file ends that is being written.
UNFINISHED = ".part"

#: How often a lock that another process holds is tried for; a signal ends the wait too.
_TICK_S = 0.2
#: Without it neither a finished step nor an environment is taken for whole; it goes first.
_SEALS = ("entry.json", ".complete")


def _say_nothing() -> None:
    pass


@contextlib.contextmanager
def locked(
    path: Path, waiting: Callable[[], object] = _say_nothing, *, shared: bool = False
) -> Iterator[None]:
    """Hold a lock on a file, made if need be, or a folder: alone, or ``shared`` with others.

    ``waiting`` is called if somebody else holds it; it may raise, and then nobody waits. Raises
    OSError, and Stopped if the wait is not wanted any longer.
    """
    # Reading is enough to hold a lock, and is all that another user of the folder may do.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDONLY | os.O_CREAT
    handle = os.open(path, flags, 0o666)
    try:
        _lock(handle, waiting, shared=shared)
        yield
    finally:
        os.close(handle)


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder until it is closed; False if somebody else holds it."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold(path: Path, waiting: Callable[[], object] = _say_nothing) -> int:
    """Open a file, made if need be, and lock it; returns the descriptor.

    The file may be renamed or removed by its holder: what is returned is what has the name now.
    Raises OSError, and Stopped if the wait is not wanted any longer.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, waiting, shared=False)
            if is_at(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def is_at(path: Path, handle: int) -> bool:
    """Whether an open file still is the one of this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a new file at the path that is given; at the end it becomes ``path``, or is gone.

    Two who write the same file at once do it one after the other. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    handle = hold(temporary)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, text as UTF-8; raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def held_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, gone at the end unless it was renamed; raises OSError.

    It is locked for so long, so that `remove_unless_held` knows it from what a killed driver left.
    """
    folder, handle = _make_held(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_unless_held(path: Path) -> None:
    """Remove a file or folder that a killed driver has left unfinished, if it can be."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            if try_lock(handle):
                remove_tree(path)
        finally:
            os.close(handle)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 for what is not there."""
    if path.is_file():
        return path.lstat().st_size
    total = 0
    folders = [os.fspath(path)] if path.is_dir() else []
    while folders:
        # Another process may take away what is being counted.
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    folders.append(each.path)
                else:
                    total += each.stat(follow_symlinks=False).st_size
    return total


def shown_bytes(count: int) -> str:
    """A size in the unit that suits it."""
    if count < 1 << 20:
        return f"{count / (1 << 10):,.0f} KiB"
    return f"{count / (1 << 20):,.0f} MiB" if count < 1 << 30 else f"{count / (1 << 30):,.1f} GiB"


def remove_tree(path: Path) -> None:
    """Remove a file or folder so that no moment leaves what could pass for whole."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for seal in _SEALS:
        (path / seal).unlink(missing_ok=True)
    shutil.rmtree(path)


def _lock(handle: int, waiting: Callable[[], object], *, shared: bool) -> None:
    if try_lock(handle, shared=shared):
        return
    waiting()
    while not try_lock(handle, shared=shared):
        stop_if_asked()
        time.sleep(_TICK_S)


def _make_held(parent: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds it."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent))
        handle = os.open(folder, os.O_RDONLY)
        if try_lock(handle) and folder.exists():
            return folder, handle
        # Before it was held another driver has taken it for one that was left.
        os.close(handle)
