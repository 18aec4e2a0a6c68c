"""`kiln inspect`, from the user's side, on files of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fixtures import RunScript, RunStep
from tests.support.flashed import compiled_file
from tests.support.nets import make_nets
from tests.support.user import User

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("environments")]

REFUSED = 13
LOCAL = ("--executor", "local")


@pytest.fixture
def vela_file(run_step: RunStep, pose_int8: Path) -> Path:
    """The pose model for grove-v2, under a name of its own."""
    return compiled_file(run_step, pose_int8)


def _inspects(user: User, file: Path, *arguments: str, code: int = 0) -> Any:
    out, _err = user.types("inspect", str(file), *LOCAL, "--json", *arguments, code=code)
    return json.loads(out)


def _failed(found: Any) -> set[str]:
    return {check["name"] for check in found["verdict"]["checks"] if not check["ok"]}


def test_an_int8_file_with_its_accuracy(user: User, pose_int8: Path, pose_data: Path) -> None:
    file = pose_int8 / "int8.tflite"
    data = ("--data", str(pose_data / "data"))
    found = _inspects(user, file, "--target", "xiao-esp32s3", *data)
    assert found["model"]["kind"] == "int8"
    assert found["model"]["imgsz"] == 64
    assert found["interpreter"]["equal"] is True
    assert found["accuracy"]["images"] == 4
    assert list(found["accuracy"]["artifacts"]) == ["int8"]
    out, err = user.types("inspect", str(file), *LOCAL, "--target", "xiao-esp32s3", *data)
    assert "(already made)" in err
    assert "accepted by SSCMA-Micro 1.0.x" in out
    assert "box mAP50" in out


def test_a_data_set_of_other_keypoints_is_refused_before_it_is_measured(
    user: User, pose_int8: Path, pose_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(pose_data / "data", tmp_path / "data")
    for label in (data / "labels").rglob("*.txt"):
        lines = [line.split()[: 5 + 2 * 3] for line in label.read_text("utf-8").splitlines()]
        label.write_text("".join(" ".join(line) + "\n" for line in lines))
    table = yaml.safe_load((data / "data.yaml").read_text("utf-8"))
    table |= {"kpt_shape": [2, 3], "flip_idx": [0, 1]}
    (data / "data.yaml").write_text(yaml.safe_dump(table))
    file = str(pose_int8 / "int8.tflite")
    arguments = ("--target", "grove-v2", "--data", str(data))
    _out, err = user.types("inspect", file, *LOCAL, *arguments, code=REFUSED)
    assert "it has 17 keypoints where the data set has 2" in err
    assert "measure accuracy" not in err


def test_a_file_that_vela_has_compiled(
    user: User, vela_file: Path, pose_int8: Path, pose_data: Path, tmp_path: Path
) -> None:
    found = _inspects(user, vela_file, "--target", "grove-v2")
    assert (found["model"]["kind"], found["model"]["accelerator"]) == ("vela", "ethos-u55-64")
    assert found["model"]["operators"]["cpu"] == {}
    assert "accelerator" in _failed(
        _inspects(user, vela_file, "--target", "xiao-esp32s3", code=REFUSED)
    )
    data = ("--data", str(pose_data / "data"))
    found = _inspects(user, vela_file, "--target", "grove-v2", *data)
    int8 = _inspects(user, pose_int8 / "int8.tflite", "--target", "grove-v2", *data, code=REFUSED)
    figures = found["accuracy"]["artifacts"]["compiled"]
    assert figures == int8["accuracy"]["artifacts"]["int8"]
    out, _err = user.types("inspect", str(vela_file), *LOCAL, *data)
    assert "on 4 images, executed as Vela's encodings define it" in out
    damaged = tmp_path / "damaged.tflite"
    content = vela_file.read_bytes()
    start = content.index(b"COP1") + 64
    damaged.write_bytes(content[:start] + bytes(32) + content[start + 32 :])
    _out, err = user.types("inspect", str(damaged), *LOCAL, *data, code=REFUSED)
    assert "the compiled file cannot be executed here: " in err


def test_a_task_that_nobody_named(user: User, detect_int8: Path) -> None:
    file = detect_int8 / "int8.tflite"
    found = _inspects(user, file, "--target", "xiao-esp32s3")
    assert (found["model"]["task"], found["model"]["classes"]) == ("detect", 5)
    assert _failed(found) == set()


def test_what_an_interpreter_would_not_survive_gets_its_verdict_too(
    user: User, run_script: RunScript, pose_data: Path, tmp_path: Path
) -> None:
    nets = make_nets(run_script, {"int16": {"extra": "int16"}, "two": {"classes": 2}}, tmp_path)
    board = ("--target", "xiao-esp32s3")
    for data in ((), ("--data", str(pose_data / "data"))):
        found = _inspects(user, nets["int16"], *board, *data, code=REFUSED)
        assert {"input", "outputs"} <= _failed(found)
        assert found["interpreter"] is found["accuracy"] is None
    assert "its accuracy was not measured" in found["warnings"][0]["message"]
    out, _err = user.types(
        "inspect", str(nets["two"]), *LOCAL, "--target", "xiao-esp32s3", code=REFUSED
    )
    assert "take it for a detection model of 2 classes" in out


def test_a_float_file_and_one_that_is_no_model(user: User, pose_int8: Path, tmp_path: Path) -> None:
    file = pose_int8 / "float32.tflite"
    found = _inspects(user, file, "--target", "xiao-esp32s3", code=REFUSED)
    assert found["model"]["kind"] == "float32"
    assert "input" in _failed(found)
    nothing = tmp_path / "notes.tflite"
    nothing.write_text("not a model")
    _out, err = user.types("inspect", str(nothing), *LOCAL, code=REFUSED)
    assert "notes.tflite" in err or "TFLite" in err
