"""What files take on this host's disk, and how they go."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

#: Without it neither a finished step nor an environment is taken for whole; it goes first.
_SEALS = ("entry.json", ".complete")


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
