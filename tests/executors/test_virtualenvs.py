"""Environments are made from their locks, once, whole, and as the user's network settings say."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kiln.errors import EnvironmentBroken
from kiln.executors.environments import Environment, load_environment
from kiln.executors.virtualenvs import VirtualEnvironments
from tests.support.checkout import ROOT
from tests.support.executor_bench import one_pin


@pytest.fixture
def small(tmp_path: Path) -> Environment:
    """An environment of one small package."""
    lock = tmp_path / "vela.lock"
    lock.write_text(one_pin("idna"), encoding="utf-8")
    return dataclasses.replace(load_environment(ROOT, "vela"), lock=lock)


@pytest.fixture
def made(tmp_path: Path) -> VirtualEnvironments:
    return VirtualEnvironments(home=tmp_path / "home", logs=tmp_path / "logs")


def test_an_environment_is_made_once_and_remade_if_it_is_not_whole(
    made: VirtualEnvironments, small: Environment, tmp_path: Path
) -> None:
    said: list[str] = []
    assert made.find(small) is None
    made.make(small, said.append)
    assert len(said) == 2
    found = made.find(small)
    assert found is not None
    folder = found.path.parent.parent
    made.make(small, said.append)
    assert len(said) == 2
    (folder / ".complete").unlink()
    assert made.find(small) is None
    made.make(small, said.append)
    assert said[2] == "the vela environment is not whole: making it again"
    shutil.rmtree(next(folder.glob("lib/*/site-packages/idna-*.dist-info")))
    assert made.find(small) is None, "a package was removed by hand"
    assert tmp_path in folder.parents


def test_two_drivers_make_an_environment_once(
    made: VirtualEnvironments, small: Environment
) -> None:
    said: list[str] = []
    makers = [threading.Thread(target=made.make, args=(small, said.append)) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sum(line.startswith("making") for line in said) == 1


def test_a_package_that_differs_from_the_lock_is_refused(
    made: VirtualEnvironments, small: Environment
) -> None:
    text = small.lock.read_text(encoding="utf-8")
    line = text.splitlines()[0]
    small.lock.write_text(f"{line}\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    with pytest.raises(EnvironmentBroken, match="vela environment cannot be made") as caught:
        made.make(small, print)
    assert "differs from the lock" in caught.value.hint
    assert caught.value.log is not None
    assert caught.value.log.read_text(encoding="utf-8")
    assert made.find(small) is None


def test_an_index_out_of_reach_is_told_without_its_password(
    made: VirtualEnvironments,
    small: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(EnvironmentBroken) as caught:
        made.make(small, print)
    assert "check the network" in caught.value.hint
    assert caught.value.log is not None
    told = caught.value.message + caught.value.log.read_text(encoding="utf-8")
    assert "127.0.0.1:9" in told
    assert "secret" not in told


def test_without_a_python_the_sentence_names_both_ways_out(
    made: VirtualEnvironments, small: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "UV_PYTHON_INSTALL_MIRROR": f"file://{tmp_path}/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with pytest.raises(EnvironmentBroken, match=r"Python 3\.11 is not on this host") as caught:
        made.make(small, said.append)
    assert "downloading" in said[0]
    assert "python3.11 on PATH" in caught.value.hint
    assert "EXECUTOR=docker" in caught.value.hint


def test_a_killed_installation_is_never_taken_for_a_whole_one(
    made: VirtualEnvironments, small: Environment, tmp_path: Path
) -> None:
    code = """
import dataclasses, pathlib, sys
from kiln.executors.environments import load_environment
from kiln.executors import virtualenvs
root, folder = map(pathlib.Path, sys.argv[1:])
environment = dataclasses.replace(load_environment(root, "vela"), lock=folder / "vela.lock")
virtualenvs._packages = lambda folder: print("installed", flush=True) or input()
maker = virtualenvs.VirtualEnvironments(home=folder / "home", logs=folder / "logs")
maker.make(environment, lambda line: None)
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, ROOT, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "installed\n"
        driver.send_signal(signal.SIGKILL)
    assert list((tmp_path / "home" / "envs").glob("vela-*/bin/python"))
    assert made.find(small) is None
    made.make(small, lambda _line: None)
    assert made.find(small) is not None
