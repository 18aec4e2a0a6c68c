"""Locks keep two drivers apart, and a file is there whole or not at all."""

from __future__ import annotations

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kiln.system import files
from kiln.system.files import (
    held_folder,
    locked,
    remove_unless_held,
    replacing,
    write_atomically,
)
from kiln.system.workers import do_all


class Held(Exception):
    """Somebody else holds the lock."""


def _refuse() -> None:
    raise Held


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_held_by_one_or_shared_by_many(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "lock"
    with locked(path), pytest.raises(Held), locked(path, _refuse, shared=True):
        pass
    with locked(path, shared=True), locked(path, _refuse, shared=True), pytest.raises(Held):  # noqa: SIM117
        with locked(path, _refuse):
            pass
    with locked(path, _refuse):
        pass


def test_who_waits_says_so_once_and_then_has_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TICK_S", 0.01)
    path = tmp_path / "lock"
    told: list[str] = []
    waits = threading.Event()

    def waiting() -> None:
        told.append("waiting")
        waits.set()

    def take() -> None:
        with locked(path, waiting):
            told.append("taken")

    with locked(path):
        thread = threading.Thread(target=take)
        thread.start()
        assert waits.wait(60)
        told.append("given back")
    thread.join()
    assert told == ["waiting", "given back", "taken"]


def test_a_wait_for_a_lock_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def waits(number: int) -> None:
        if number:
            raise ValueError("enough")
        with locked(path):
            pass

    with locked(path), pytest.raises(ValueError, match="enough"):
        do_all(waits, [0, 1])


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "first")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("sec")
        raise OSError("the disk is full")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_many_who_write_one_file_write_it_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TICK_S", 0.001)
    path = tmp_path / "file"
    texts = [f"{number}" * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_atomically(path, text), texts * 20))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_driver_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_text("more than is written now")
    write_atomically(tmp_path / "file", b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "new"}


def test_a_folder_that_is_in_use_is_told_from_one_that_was_left(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    (left / "half").touch()
    with held_folder(tmp_path) as folder:
        for path in list(tmp_path.iterdir()):
            remove_unless_held(path)
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_driver_took_for_left_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty and not held yet for a moment."""
    taken: list[int] = []
    flock = fcntl.flock

    def late(handle: int, kind: int) -> None:
        flock(handle, kind)
        if not taken:
            taken.append(handle)
            next(tmp_path.iterdir()).rmdir()

    monkeypatch.setattr(fcntl, "flock", late)
    with held_folder(tmp_path) as folder:
        assert folder.is_dir()
