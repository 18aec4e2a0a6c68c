"""Whole builds: of one's own data and weights, interrupted, on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.user import LOCAL, TINY, User

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("environments")]


def test_own_detection_weights_and_data_for_every_board(
    user: User, detect_weights: Path, detect_data: Path
) -> None:
    own = user.folder / "best.safetensors"
    own.write_bytes((detect_weights / "weights.safetensors").read_bytes())
    before = _listing(detect_data)
    config = user.folder / "kiln.toml"
    data = detect_data / "data" / "data.yaml"
    config.write_text(
        f'task = "detect"\nimgsz = 64\ndata = "{data}"\nexecutor = "local"\n'
        'weights = "best.safetensors"\n[evaluation]\nlayers = true\n'
    )
    out, err = user.types("build", "--json", "--target", "all")
    builds = {build["target"]: build for build in json.loads(out)}
    assert set(builds) == {"grove-v2", "sensecap-a1102", "sensecap-watcher", "xiao-esp32s3"}
    grove, xiao = builds["grove-v2"], builds["xiao-esp32s3"]
    steps = [step["name"] for step in grove["steps"]]
    made = ["check", "import", "images", "onnx", "quantize", "compile", "check-firmware"]
    assert steps == [*made, "outputs", "evaluate", "layers"]
    assert grove["numbers"]["accuracy"]["equal_to_int8"] is True
    assert xiao["numbers"]["accuracy"]["equal_to_int8"] is None
    assert grove["steps"][1]["result"]["nc"] == 5
    # The XIAO's frames have fewer colours, so what it is calibrated on is not the same.
    assert "= export to ONNX (already made)" in err
    assert grove["files"]["best-64.onnx"] == xiao["files"]["best-64.onnx"]
    assert {check["name"] for check in xiao["verdict"]["checks"]} >= {"interpreter", "kernels"}
    assert len(xiao["evidence"]["layers"]) > 60
    assert _listing(detect_data) == before

    out, _err = user.types("compare", "build/grove-v2/best-64", "build/xiao-esp32s3/best-64")
    assert "accepted by SSCMA-Micro 1.0.x" in out
    explained = json.loads(user.types("explain", "--json", "--quant", "per-channel")[0])
    would_run = [step["step"] for step in explained["grove-v2"] if step["runs"]]
    made = ["quantize", "compile", "check-firmware", "outputs", "evaluate", "layers"]
    assert would_run == made


def test_relu_from_the_name_of_the_model_to_a_finetuned_file(user: User, pose_data: Path) -> None:
    data = pose_data / "data"
    (user.folder / "kiln.toml").write_text(
        f'data = "{data}"\nmodel = "yolov8n-relu"\n[evaluation]\nlayers = true\n'
        "[finetune]\nupdates = 2\nbatch = 4\n"
    )
    built = user.builds(*TINY, "--quant", "finetuned")
    assert built["name"].startswith("yolov8n-relu-pose-")
    assert built["verdict"]["accepted"]
    assert built["numbers"]["accuracy"]["equal_to_int8"] is True
    assert built["numbers"]["operators"]["cpu"] == {}
    assert built["numbers"]["operators"]["npu"].keys().isdisjoint({"LOGISTIC", "MUL", "RELU"})
    assert len(built["evidence"]["layers"]) > 60

    own = f"build/grove-v2/{built['name']}/{built['name']}.safetensors"
    again = user.builds(*LOCAL, "--weights", own)
    assert again["steps"][1]["result"]["model"] == "yolov8n-relu-pose"


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
    tmp_path: Path, pose_data: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "kiln-test", home], check=True)
    try:
        user = User(tmp_path)
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
