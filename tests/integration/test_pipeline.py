"""The whole command line, start to finish, with a tiny model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kiln.environments import EnvironmentName
from tests.integration.conftest import HOME, ROOT
from tests.integration.docker_bench import engine_or_skip


@pytest.fixture(scope="session")
def environments(env_python: Callable[[EnvironmentName], Path]) -> Path:
    """The stage environments, all made."""
    for name in ("train", "export", "vela"):
        env_python(name)
    return HOME / "envs"


class User:
    """Types commands in a folder of his own, with a store of his own."""

    def __init__(self, folder: Path, environments: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "envs").symlink_to(environments)

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if "KILN" not in name}
        return subprocess.Popen(
            [sys.executable, "-m", "kiln", *arguments],
            cwd=self.folder,
            env=clean | {"PYTHONPATH": str(ROOT), "KILN_HOME": str(self.home)} | self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def types(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        with self.starts(*arguments) as process:
            out, err = process.communicate(timeout=900)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out, err

    def builds(self, *arguments: str) -> Any:
        """The content of build.json, as it is printed."""
        return json.loads(self.types("build", "--json", *arguments)[0])


@pytest.fixture
def user(tmp_path: Path, environments: Path) -> User:
    return User(tmp_path, environments)


LOCAL = ("--executor", "local", "--imgsz", "64")
TINY = (*LOCAL, "--epochs", "1")


def test_demo_build_then_nothing_then_another_board(user: User) -> None:
    # What others have in the host's engine is not this test's to clean.
    user.variables["DOCKER_HOST"] = "unix:///nowhere"
    built = user.builds(*TINY)
    folder = user.folder / "build/grove-v2/yolov8n-pose-demo-64"
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == len(built["files"]) == 5
    for line in sums:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert built["numbers"]["operators"]["cpu"] == {}
    assert built["numbers"]["sram"]["used_kib"] < built["numbers"]["sram"]["limit_kib"]
    assert "pose/map50" in built["numbers"]["accuracy"]

    _out, err = user.types("build", *TINY)
    assert "nothing to do" in err
    _out, err = user.types("build", *TINY, "--target", "xiao-esp32s3")
    assert "nothing to do" in err
    explained = json.loads(user.types("explain", "--json", *TINY, "--quant", "per-channel")[0])
    would_run = [look["step"] for look in explained["grove-v2"] if look["runs"]]
    assert would_run == ["quantize", "compile"]

    user.types("clean")
    assert "nothing to do" in user.types("build", *TINY)[1]
    user.types("clean", "--store")
    assert (folder / "build.json").is_file()
    explained = json.loads(user.types("explain", "--json", *TINY)[0])
    assert all(look["runs"] for look in explained["grove-v2"])


def test_own_detection_weights_and_data_for_every_board(
    user: User, detect_weights: Path, detect_data: Path
) -> None:
    own = user.folder / "best.safetensors"
    own.write_bytes((detect_weights / "weights.safetensors").read_bytes())
    before = _listing(detect_data)
    config = user.folder / "kiln.toml"
    data = detect_data / "data" / "data.yaml"
    config.write_text(f'task = "detect"\nimgsz = 64\ndata = "{data}"\nexecutor = "local"\n')
    builds = user.builds("--target", "all", "--weights", "best.safetensors")
    assert [build["target"] for build in builds] == ["grove-v2", "xiao-esp32s3"]
    steps = [step["name"] for step in builds[0]["steps"]]
    assert steps == ["check", "import", "onnx", "quantize", "compile"]
    assert builds[0]["steps"][1]["result"]["nc"] == 5
    int8 = "best-64_full_integer_quant.tflite"
    assert builds[0]["files"][int8] == builds[1]["files"][int8]
    assert _listing(detect_data) == before


def test_both_executors_give_the_same_bytes(
    tmp_path: Path, environments: Path, pose_weights: Path, pose_data: Path
) -> None:
    """Every file: trained here and there, and made from the same weights here and there."""
    engine_or_skip().close()
    weights = pose_weights / "weights.safetensors"
    data = ("--data", str(pose_data / "data"), "--imgsz", "64", "--gpu", "none")
    requests = (("--weights", str(weights)), ("--epochs", "1", "--batch", "4", "--name", "trained"))
    files: dict[str, list[Any]] = {}
    for executor in ("docker", "local"):
        user = User(tmp_path / executor, environments)
        builds = [user.builds(*data, *request, "--executor", executor) for request in requests]
        steps = [step for built in builds for step in built["steps"]]
        assert {step["facts"]["executor"] for step in steps} == {executor}
        files[executor] = [built["files"] for built in builds]
    assert files["docker"] == files["local"]


def test_interrupted_training_leaves_nothing_running_and_goes_on(
    user: User, pose_data: Path
) -> None:
    arguments = ("build", *LOCAL, "--epochs", "3", "--data", str(pose_data / "data"))
    with user.starts("--verbose", *arguments) as process, _no_longer_than(600, process):
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == "2 of 3 epochs":
                break
        # The figures of an epoch come before its checkpoint; the next epoch's come after it.
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        assert process.wait() == 130
    assert "interrupted; nothing is left running" in err
    assert not _running(user.home)
    built = user.builds(*arguments[1:])
    train = next(step for step in built["steps"] if step["name"] == "train")
    assert train["result"]["resumed_from"] in (1, 2)
    assert train["result"]["epochs_run"] == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_a_sentence_and_loses_no_finished_step(
    tmp_path: Path, environments: Path, pose_data: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "kiln-test", home], check=True)
    try:
        user = User(tmp_path, environments)
        arguments = (*TINY, "--data", str(pose_data / "data"))
        _out, err = user.types("build", *arguments, code=9)
        assert "the disk is full" in err
        assert "kiln clean" in err
        subprocess.run(["mount", "-o", "remount,size=1g", home], check=True)
        _out, err = user.types("build", *arguments)
        assert "= check the data set (already made)" in err
    finally:
        subprocess.run(["umount", home], check=True)


def _listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def _running(folder: Path) -> list[str]:
    """Processes whose command line names a folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in text:
                found.append(text)
    return found


@contextlib.contextmanager
def _no_longer_than(seconds: int, process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process that hangs, so that reading from it ends."""

    def expire(_signal: int, _frame: object) -> None:
        process.kill()
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if process.poll() is None:
            process.kill()
