"""Unpacks a zip archive that came from the network."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from stages.contract import StepFailed

#: Images hardly compress and labels a few times: what unpacks to more than this is a zip bomb.
_MAX_RATIO = 20
_ALWAYS_ALLOWED_BYTES = 1 << 30
_MAX_MEMBERS = 2_000_000
#: The longest name in a file system, and a path shorter than the kernel's 4096 bytes.
_MAX_NAME_BYTES = 255
_MAX_DEPTH = 12


def unpack(archive: Path, target: Path, name: str) -> None:
    """Unpack into a new folder; messages call the archive ``name``.

    Raises StepFailed("data") if it is no zip archive, is damaged, or would write elsewhere,
    and StepFailed("disk") if it does not fit.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if _is_wanted(member)]
            _check_sizes(members, archive, name)
            places = [target / _safe_name(member, name) for member in members]
            for member, place in zip(members, places, strict=True):
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, place.open("xb") as stream:
                    shutil.copyfileobj(source, stream)
    except zipfile.BadZipFile as error:
        raise _refused(name, f"is no zip archive or is damaged ({error})") from error
    except (zlib.error, EOFError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refused(name, f"is damaged ({error})") from error
    except (ValueError, struct.error) as error:  # impossible names and sizes
        raise _refused(name, f"is damaged ({error})") from error
    except (NotImplementedError, RuntimeError) as error:  # an unknown compression or encryption
        raise _refused(name, f"cannot be unpacked ({error})") from error


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Neither a folder nor a file of macOS's own data, which has the name of another file."""
    return not member.is_dir() and not PurePosixPath(member.filename).name.startswith("._")


def _check_sizes(members: list[zipfile.ZipInfo], archive: Path, name: str) -> None:
    total = sum(member.file_size for member in members)
    allowed = max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * archive.stat().st_size)
    if total > allowed or len(members) > _MAX_MEMBERS:
        raise _refused(name, f"unpacks to {total} bytes in {len(members)} files, too much for data")
    free = shutil.disk_usage(archive.parent).free
    if total > free:
        raise StepFailed(
            "disk",
            f"{name} unpacks to {total >> 20} MiB and {free >> 20} MiB are free",
            hint="free some space and run the same command again",
        )


def _safe_name(member: zipfile.ZipInfo, name: str) -> PurePosixPath:
    """A member's path below the folder into which it is unpacked; raises StepFailed."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if not path.parts or longest > _MAX_NAME_BYTES or len(path.parts) > _MAX_DEPTH:
        raise _refused(name, f"holds a name that no file can have: {member.filename[:80]!r}")
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise _refused(name, f"would write outside its folder: {member.filename!r}")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refused(name, f"holds a link or device: {member.filename!r}")
    return path


def _refused(name: str, why: str) -> StepFailed:
    return StepFailed(
        "data", f"{name} {why}", hint="unpack a good copy and pass DATA=path/to/data.yaml"
    )
