"""Makes files that no tool would write."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support import build_documents

Make = Callable[[Path], None]


def text(name: str, content: str) -> Make:
    """Write one text file."""

    def make(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return make


def toml(content: str) -> Make:
    return text("kiln.toml", content)


def png(width: int, height: int, *, depth: int = 8, pixels: bytes = b"") -> bytes:
    """A grey PNG that claims a size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


SOUND = png(32, 32, pixels=bytes(33 * 32))


def data_set(
    description: str | None = None, files: Mapping[str, bytes | str] | None = None
) -> Make:
    """A data set of one image a split, with other files laid over it."""

    def make(folder: Path) -> None:
        default = "train: images/train\nval: images/val\nnames: [person]\n"
        sound: dict[str, bytes | str] = {
            "data.yaml": default if description is None else description,
            **{f"images/{split}/a.png": SOUND for split in ("train", "val")},
            **{f"labels/{split}/a.txt": "0 .5 .5 .2 .2" for split in ("train", "val")},
        }
        write(folder, {**sound, **(files or {})})

    return make


def write(folder: Path, files: Mapping[str, bytes | str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def also(*makers: Make) -> Make:
    """One after the other."""

    def make(folder: Path) -> None:
        for each in makers:
            each(folder)

    return make


def link(name: str, target: str) -> Make:
    def make(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return make


def pipe(name: str) -> Make:
    """Whoever opens it waits for ever."""

    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def foreign_name(folder: Path) -> None:
    """An image whose name has an old encoding."""
    data_set()(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/images/train/b\xe9.png")).write_bytes(SOUND)


def rings(folder: Path) -> None:
    """Folders that hold links to each other: walked blindly, they have no end."""
    data_set()(folder)
    for number in range(40):
        place = folder / f"images/train/{number}"
        place.mkdir()
        for name in "ab":
            (place / name).symlink_to(f"../{(number + 1) % 40}")


def laughs(key: str) -> str:
    """A data.yaml of ten lines whose value for ``key`` would be a terabyte when written out."""
    lines = ['a0: &a0 ["ha"]']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]" for n in range(1, 10)]
    return "\n".join([*lines, f"{key}: *a9", "train: images/train", "val: images/val", ""])


def archive(*members: tuple[str, bytes] | zipfile.ZipInfo) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for member in members:
            if isinstance(member, zipfile.ZipInfo):
                opened.writestr(member, "/etc/passwd")
            else:
                opened.writestr(*member)
    return stream.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    """A member that is to become a link or a device."""
    member = zipfile.ZipInfo(name)
    member.external_attr = (kind | 0o777) << 16
    return member


def linked(name: str) -> zipfile.ZipInfo:
    return special(name, stat.S_IFLNK)


def build_document(**changes: object) -> str:
    """A build.json that is right but for these parts."""
    return json.dumps({**build_documents.pose(), **changes})
