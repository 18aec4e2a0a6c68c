"""The whole command line, start to finish, with a tiny model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker_bench import engine_or_skip
from tests.support.user import LOCAL, TINY, User


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
    assert built["verdict"]["accepted"]
    artifacts = built["numbers"]["accuracy"]["artifacts"]
    assert artifacts.keys() == {"trained", "onnx", "float32", "int8"}
    assert all(0 <= artifact["pose/map50_95"] <= 1 for artifact in artifacts.values())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "yolov8n-pose-demo-64" in page
    assert "<svg" in page

    _out, err = user.types("build", *TINY)
    assert "nothing to do" in err
    (folder / "report.html").unlink()
    out, _err = user.types("report", "--no-open", *TINY)
    assert out.strip() == "build/grove-v2/yolov8n-pose-demo-64/report.html"
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    _out, err = user.types("build", *TINY, "--target", "xiao-esp32s3", "--layers")
    assert "= quantise to int8 (already made)" in err
    other = json.loads(
        (user.folder / "build/xiao-esp32s3" / folder.name / "build.json").read_text()
    )
    assert {check["name"] for check in other["verdict"]["checks"]} >= {"interpreter", "kernels"}
    assert len(other["evidence"]["layers"]) > 60
    out, _err = user.types("compare", str(folder), f"build/xiao-esp32s3/{folder.name}")
    assert "accepted by SSCMA-Micro 1.0.x" in out
    explained = json.loads(user.types("explain", "--json", *TINY, "--quant", "per-channel")[0])
    would_run = [look["step"] for look in explained["grove-v2"] if look["runs"]]
    assert would_run == ["quantize", "compile", "check-firmware", "evaluate"]

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
    made = ["check", "import", "images", "onnx", "quantize", "compile"]
    assert steps == [*made, "check-firmware", "evaluate"]
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
            if line.strip() == "train: 2 of 3 epochs":
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
