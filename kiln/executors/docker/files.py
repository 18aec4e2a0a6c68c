"""Files into an engine and out of it as archive streams, so that it need not see the driver's."""

from __future__ import annotations

import io
import posixpath
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import docker
from docker.models.containers import Container

from kiln.errors import EngineError, StepCrashed, os_errors
from kiln.executors.docker.engine import engine_errors
from kiln.store.tree import File, Tree
from kiln.store.verified_read import read_checked
from kiln.system.archives import place_of, unpack_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: The user of every image; see the Dockerfiles.
STEP_USER = 10001

_CHUNK_BYTES = 1 << 20
_MARKER = ".complete"
#: The folder of all inputs. A step cannot list it, and so finds only those that it was given.
_CLOSED = "trees"


def upload_tree(container: Container, folder: str, tree: Tree) -> str:
    """Bring a tree's files into ``folder`` of a container's volume; returns their path there.

    Uploaded once an engine. A marker that names the upload comes last: half of one is never
    taken for whole, and of two drivers neither writes into what the other's step is reading.
    """
    place = f"{folder}/{_CLOSED}"
    marker = f"{place}/{tree.digest}{_MARKER}"
    with engine_errors("take the inputs of a step"):
        found = _read_small(container, marker)
        if found is not None:
            return f"{place}/{found.decode()}"
        name = f"{tree.digest}-{uuid.uuid4().hex}"
        top = f"{_CLOSED}/{name}"
        files = {f"{top}/{path}" if path else top: file for path, file in tree.files.items()}
        container.put_archive(folder, _archive(files))
        put_files(container, place, {posixpath.basename(marker): name.encode()})
    return f"{place}/{name}"


def put_files(
    container: Container,
    folder: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    own: Iterable[str] = (),
) -> None:
    """Put small files, links and folders of the step's own into a container's folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in own:
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.uid = member.gid = STEP_USER
            archive.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    container.put_archive(folder, stream.getvalue())


def download_folder(container: Container, folder: str, target: Path, *, step: str) -> None:
    """Copy a container's folder into an existing one of this host, owned by the caller.

    Raises StepCrashed if there is anything but files and folders in it, DiskFull, EngineError.
    """
    with engine_errors("give the outputs of a step"):
        chunks, _stat = container.get_archive(folder, chunk_size=_CHUNK_BYTES)
        try:
            with tarfile.open(fileobj=io.BufferedReader(_Stream(chunks)), mode="r|") as archive:
                for member in archive:
                    _extract(archive, member, target, step)
        except tarfile.TarError as error:
            raise EngineError(
                f"the container engine broke off while it gave the outputs of {step}: {error}",
                hint="run the same command again: finished steps are kept",
            ) from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, step: str) -> None:
    place = place_of(member)
    if place is None:
        raise StepCrashed(
            f"{step} gave {member.name}, which is no plain file or folder",
            hint="a step gives files only; this is a fault of the step",
        )
    path = target / place
    with os_errors("cannot store the outputs of a step"):
        if member.isdir():
            path.mkdir(exist_ok=True)
        else:
            unpack_file(archive, member, path)


def _archive(files: Mapping[str, File]) -> Iterator[bytes]:
    """A tar as it goes out; checks every file, which may have changed since it was hashed."""
    made: set[str] = set()
    for name, file in files.items():
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                folder = tarfile.TarInfo(str(parent))
                folder.type = tarfile.DIRTYPE
                folder.mode = 0o711 if str(parent) == _CLOSED else 0o755
                yield folder.tobuf(tarfile.PAX_FORMAT)
        member = tarfile.TarInfo(name)
        member.size = file.size
        yield member.tobuf(tarfile.PAX_FORMAT)
        yield from read_checked(file)
        yield bytes(-file.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _read_small(container: Container, path: str) -> bytes | None:
    """A small file of a container, or None if it is not there."""
    try:
        chunks, _stat = container.get_archive(path)
    except docker.errors.NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.next()
        source = archive.extractfile(member) if member is not None else None
        return source.read() if source is not None else None


class _Stream(io.RawIOBase):
    """Chunks, read as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest and (chunk := next(self._chunks, None)) is not None:
            self._rest = memoryview(chunk)
        target = memoryview(buffer)
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
