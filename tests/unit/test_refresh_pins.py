"""What `make pins` shows and refuses, and that the locks in the repository would pass it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.refresh_pins import PinsRefused, changes, copy_sources, locks, pins, with_digest
from tests.support.checkout import ROOT

_HASH = f"--hash=sha256:{'0' * 64}"
_DRIVERS = ("kiln.lock", "dev.lock")
_OLD, _NEW = (f"sha256:{letter * 64}" for letter in "ab")


def test_pins_are_read_with_their_markers() -> None:
    text = (
        f"a-b==1.0 \\\n    {_HASH} \\\n    {_HASH}\n    # via c\n"
        f"c==2 ; sys_platform == 'win32' \\\n    {_HASH}\n"
    )
    assert pins(text, "x.lock") == {"a-b": "1.0", "c [sys_platform == 'win32']": "2"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"a==1 \\\n    {_HASH}\nb==2\n", "b has no hash"),
        ("b==2 \\\n    --hash=md5:00\n", "b has no hash"),
        (f"a>=1 \\\n    {_HASH}\n", "not pinned to a version: a>=1"),
        (f"a @ https://host/a.whl \\\n    {_HASH}\n", "not pinned"),
        ("# nothing\n", "would be empty"),
    ],
)
def test_a_lock_that_pins_less_than_everything_is_refused(text: str, why: str) -> None:
    with pytest.raises(PinsRefused, match=why):
        pins(text, "x.lock")


def test_changes_show_what_came_went_and_moved() -> None:
    old = {"a": "1", "b": "1", "c": "1"}
    assert changes(old, {"a": "1", "b": "2", "d": "1"}) == ["  b 1 -> 2", "- c 1", "+ d 1"]
    assert changes(old, old) == []


def test_a_base_moves_to_the_digest_of_its_tag_and_nothing_else_moves() -> None:
    text = f"# base\nARG BASE=python:3.11@{_OLD}\nFROM $BASE\n"
    assert with_digest(text, lambda _tag: _OLD) == text
    assert with_digest(text, {"python:3.11": _NEW}.__getitem__) == text.replace(_OLD, _NEW)


@pytest.mark.parametrize(
    ("text", "digest"), [("ARG BASE=python:3.11\n", _NEW), (f"ARG BASE=python:3.11@{_OLD}\n", "")]
)
def test_a_base_without_a_digest_is_refused(text: str, digest: str) -> None:
    with pytest.raises(PinsRefused):
        with_digest(text, lambda _tag: digest)


@pytest.mark.parametrize("path", [lock.path for lock in locks()])
def test_every_lock_of_the_repository_has_hashes_for_every_package(path: str) -> None:
    assert pins((ROOT / path).read_text(encoding="utf-8"), path)


@pytest.mark.parametrize("name", ["train", "export", "vela"])
def test_every_direct_pin_is_in_its_lock(name: str) -> None:
    locked = pins((ROOT / "docker" / f"{name}.lock").read_text(encoding="utf-8"), name)
    for line in (ROOT / "docker" / f"{name}.in").read_text(encoding="utf-8").splitlines():
        package, _, version = line.split("#")[0].strip().partition("==")
        if package:
            found = locked[package.lower().replace("_", "-")]
            assert version in ("", found)


def test_the_developers_packages_are_the_drivers_and_more() -> None:
    driver, dev = (
        # Where a developer's tool needs a package too, it may need it on more Pythons.
        {(package.split()[0], version) for package, version in pins(text, name).items()}
        for name, text in ((name, (ROOT / name).read_text("utf-8")) for name in _DRIVERS)
    )
    assert driver <= dev


def test_a_lock_that_follows_another_follows_the_new_one(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    assert not list(tmp_path.rglob("*.lock"))
    for lock in locks():
        for argument in lock.arguments:
            if argument.endswith((".in", ".toml", ".txt", ".lock")):
                assert (tmp_path / argument).is_file(), f"{lock.path} needs {argument}"
        (tmp_path / lock.path).touch()
