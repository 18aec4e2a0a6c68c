"""Nothing of an archive lands outside of the folder that it is unpacked into."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from kiln.system.archives import place_of, unpack_file


def _member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    return member


@pytest.mark.parametrize(
    ("member", "place"),
    [
        (_member("out/a b.txt"), "a b.txt"),
        (_member("out/deep/file"), "deep/file"),
        (_member("out", tarfile.DIRTYPE), ""),
        (_member("out/deep/", tarfile.DIRTYPE), "deep"),
        (_member("out/../../escaped"), None),
        (_member("/out/file"), None),
        (_member("out/link", tarfile.SYMTYPE), None),
        (_member("out/link", tarfile.LNKTYPE), None),
        (_member("out/pipe", tarfile.FIFOTYPE), None),
        (_member("out/device", tarfile.CHRTYPE), None),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_only_files_and_folders_below_the_top_one_are_unpacked(
    member: tarfile.TarInfo, place: str | None
) -> None:
    assert place_of(member) == place


def test_a_file_that_is_cut_short_is_told_and_one_that_is_there_is_kept(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = _member("out/file")
        member.size = 2000
        archive.addfile(member, io.BytesIO(bytes(2000)))
    for mode in ("r:", "r|"):
        cut = io.BytesIO(stream.getvalue()[:1000])
        with tarfile.open(fileobj=cut, mode=mode) as archive:
            found = archive.next()
            assert found is not None
            with pytest.raises(tarfile.ReadError):
                unpack_file(archive, found, tmp_path / f"file {mode[1:] != ':'}")
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:
        found = archive.next()
        assert found is not None
        with pytest.raises(FileExistsError):
            unpack_file(archive, found, tmp_path / "mine")
