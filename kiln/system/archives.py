"""Members of tar archives that others may have made, unpacked with care."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath


def place_of(member: tarfile.TarInfo) -> str | None:
    """A member's path below the archive's top folder, or None if it must not be unpacked.

    That is what is neither a regular file nor a folder, and a name that leads out of the folder.
    """
    name = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
        return None
    return "/".join(name.parts[1:])


def unpack_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a regular file to a new ``path``; raises OSError, and ReadError if it is cut short."""
    source = archive.extractfile(member)
    assert source is not None
    with source, path.open("xb") as stream:
        shutil.copyfileobj(source, stream)
