"""Disks that are full, read-only, or give other bytes than were written."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.bench import STEPS, Victim, injected, sample
from tests.chaos.damage import cut, flip, flip_unseen, forget, outputs_of

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@contextlib.contextmanager
def _small_disk(at: Path, size: str) -> Iterator[None]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "kiln-test", at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@as_root
@pytest.mark.parametrize("kib", sample([64, 128, 192, 256, 320, 384, 448, 512, 576, 640], 1))
def test_a_full_disk_for_the_store(victim: Victim, kib: int) -> None:
    injected.append("full disk")
    store = victim.home / "store"
    with _small_disk(store, f"{kib}k"):
        done = victim.builds()
        assert done.code == 9, done.said
        assert "No space left on device" in done.said
        assert "KILN_HOME" in done.said
        subprocess.run(["mount", "-o", "remount,size=64m", store], check=True)
        victim.recovers()


@as_root
@pytest.mark.parametrize("kib", sample([4, 32, 64, 96, 120], 1))
def test_a_full_disk_for_jobs(victim: Victim, kib: int) -> None:
    injected.append("full disk")
    with _small_disk(victim.home / "jobs", f"{kib}k"):
        done = victim.builds()
        assert done.code == 9, done.said
        assert "make room" in done.said or "free some space" in done.said
        subprocess.run(["mount", "-o", "remount,size=64m", victim.home / "jobs"], check=True)
        victim.recovers()


@as_root
def test_a_full_disk_for_logs(victim: Victim) -> None:
    injected.append("full disk")
    with _small_disk(victim.home / "logs", "1m"):
        victim.order("train end", "talk")
        done = victim.builds()
        assert done.code == 9, done.said
        assert "cannot write a log: No space left on device" in done.said
        subprocess.run(["mount", "-o", "remount,size=64m", victim.home / "logs"], check=True)
        victim.recovers()


@as_root
def test_a_full_disk_for_the_result(victim: Victim) -> None:
    injected.append("full disk")
    results = victim.user.folder / "build"
    with _small_disk(results, "200k"):
        done = victim.builds()
        assert done.code == 9, done.said
        assert "cannot write the result: No space left on device" in done.said
        (folder,) = (results / "grove-v2").iterdir()
        for path in folder.iterdir():
            assert not path.name.endswith(".part")
            assert path.stat().st_size == 65536
        subprocess.run(["mount", "-o", "remount,size=64m", results], check=True)
        victim.recovers()


@as_root
def test_a_store_that_is_read_only_and_whole_serves(victim: Victim) -> None:
    injected.append("read-only disk")
    with _small_disk(victim.home / "store", "64m"):
        victim.recovers()
        subprocess.run(["mount", "-o", "remount,ro", victim.home / "store"], check=True)
        assert victim.builds().code == 0
        done = victim.builds("--imgsz", "224")
        assert done.code == 12
        assert "Read-only file system" in done.said
        subprocess.run(["mount", "-o", "remount,rw", victim.home / "store"], check=True)
        victim.recovers()


_DAMAGES = [(step, damage) for step in STEPS for damage in (flip, cut, Path.unlink)]


@pytest.mark.parametrize(("step", "damage"), sample(_DAMAGES, 2))
def test_a_damaged_output(victim: Victim, step: str, damage: Callable[[Path], None]) -> None:
    injected.append("damaged output in the store")
    victim.recovers()
    damage(outputs_of(victim, step)[0])
    _recovers_by_making(victim, step)


@pytest.mark.parametrize(("step", "damage"), sample(_DAMAGES, 1))
def test_a_damaged_entry(victim: Victim, step: str, damage: Callable[[Path], None]) -> None:
    injected.append("damaged entry.json")
    victim.recovers()
    key = outputs_of(victim, step)[0].relative_to(victim.entries).parts[0]
    damage(victim.entries / key / "entry.json")
    _recovers_by_making(victim, step)


def _recovers_by_making(victim: Victim, *steps: str) -> None:
    noted = len(victim.notes())
    done = victim.builds()
    assert done.code == 0, done.said
    started = [line.partition(" ")[0] for line in victim.notes()[noted:] if "started" in line]
    assert started == list(steps)
    victim.is_whole()


_TAKEN = (
    *("data.yaml", "dataset.json", "weights.safetensors", "model.onnx"),
    *("int8.tflite", "vela.tflite"),
)
#: A step, and one that takes what it gives.
_PAIRS = [
    ("demo", "check"),
    ("check", "frames"),
    ("frames", "train"),
    ("train", "onnx"),
    ("quantize", "compile"),
]


@pytest.mark.parametrize(("step", "next_step"), sample(_PAIRS, 1))
def test_a_bit_rots_in_what_a_step_is_to_take(victim: Victim, step: str, next_step: str) -> None:
    injected.append("bit rot")
    victim.recovers()
    (taken,) = [path for path in outputs_of(victim, step) if path.name in _TAKEN]
    forget(victim, next_step)
    flip_unseen(victim, taken)
    done = victim.builds()
    assert done.code == 3, done.said
    assert f"{taken} is not what was hashed" in done.said
    _recovers_by_making(victim, step, next_step)


@pytest.mark.parametrize("step", sample(["train", "onnx", "quantize", "compile"], 1))
def test_a_bit_rots_in_what_the_user_is_to_get(victim: Victim, step: str) -> None:
    injected.append("bit rot")
    victim.recovers()
    taken = next(path for path in outputs_of(victim, step) if path.name in _TAKEN)
    (folder,) = (victim.user.folder / "build" / "grove-v2").iterdir()
    shutil.rmtree(folder)
    flip_unseen(victim, taken)
    done = victim.builds()
    assert done.code == 3, done.said
    assert f"{taken} is not what was hashed" in done.said
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]
    _recovers_by_making(victim, step)
