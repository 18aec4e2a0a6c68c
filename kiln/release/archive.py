"""A release's archive: a tar file whose bytes depend on names and contents alone.

Not compressed: the bytes of a compressor differ from one version of zlib to the next.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from kiln.errors import BundleError, os_errors
from kiln.store.tree import hash_file
from kiln.system.archives import place_of, unpack_file
from kiln.system.files import replacing

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
#: What cannot be listed in the sums: they themselves, and what signs them.
_UNLISTED = frozenset((SUMS, SIGNATURE))

Content = bytes | Path


def write_archive(path: Path, root: str, files: Mapping[str, Content]) -> None:
    """Write ``files``, by their name below the folder ``root``; raises StoreError, DiskFull."""
    with os_errors("cannot write the release"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as temporary,
            tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in sorted(files.items()):
                _add(archive, f"{root}/{name}", content)


def read_archive(path: Path, target: Path) -> None:
    """Lay an archive's files out in ``target``, emptied first, without their common root folder.

    Raises BundleError for what is no archive of Kiln: links, devices, and names that lead out of
    the folder, are doubled, or are written in more than one way.
    """
    with os_errors(f"cannot unpack {path.name}"):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        try:
            with tarfile.open(path, "r:") as archive:
                for member, name in _members(archive):
                    _extract(archive, member, target / name)
        except tarfile.TarError as error:
            raise BundleError(f"{path.name} is no whole archive: {error}") from error


def check_sums(folder: Path) -> dict[str, str]:
    """Digests by name of an unpacked archive; raises BundleError unless all are as it says."""
    listed = _read_sums(folder / SUMS)
    found = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in _UNLISTED
    }
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise BundleError(f"{name} is missing from the release")
        if name not in listed:
            raise BundleError(f"{name} is in the release, and {SUMS} does not list it")
        if listed[name] != found[name]:
            raise BundleError(
                f"{name} is not what {SUMS} says: {found[name][:12]}… instead of "
                f"{listed[name][:12]}…"
            )
    return found


def _add(archive: tarfile.TarFile, name: str, content: Content) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o755 if isinstance(content, Path) and content.suffix == ".sh" else 0o644
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    member.size = content.stat().st_size
    with content.open("rb") as stream:
        archive.addfile(member, stream)


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    seen: set[str] = set()
    for member in archive:
        place = place_of(member)
        written_otherwise = member.name != str(PurePosixPath(member.name))
        if not place or member.isdir() or written_otherwise or place in seen:
            raise BundleError(
                f"the release holds {member.name[:80]!r}, which no release of Kiln does"
            )
        seen.add(place)
        yield member, place


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    unpack_file(archive, member, place)
    place.chmod(0o755 if member.mode & 0o100 else 0o644)


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"the release has no readable {SUMS}: it is none of Kiln's") from error
    pairs = [line.partition("  ") for line in lines]
    return {name: sha256 for sha256, _spaces, name in pairs}
