"""The steps `reference` and `verify`: what each check is for, and files from anywhere."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.plan.targets import load_target
from kiln.store.tree import hash_file
from stages.results.check_firmware import Check, CheckFirmwareResult, Operators
from stages.results.compile import CompileResult
from tests.support.checkout import ROOT
from tests.support.fixtures import RunScript, RunStep
from tests.support.nets import make_nets

DETECT = ["box8", "score8", "box16", "score16", "box32", "score32"]
POSE = [*DETECT, "keypoints"]
HIMAX = ["box16", "box8", "score32", "keypoints", "score8", "box32", "score16"]
NUVOTON = ["keypoints", "box8", "score16", "box32", "score8", "box16", "score32"]

NETS: Mapping[str, Mapping[str, Any]] = {
    "pose": {},
    "shuffled": {"heads": sorted(POSE), "channels": 1},
    "detect": {"heads": DETECT, "classes": 5},
    "dark": {"highest": 0.5},
    "bright": {"highest": 1.015},
    "brighter": {"highest": 1.03},
    "two-classes": {"classes": 2},
    "two-classes-mixed": {"classes": 2, "heads": ["keypoints", *DETECT]},
    "four-keypoints": {"keypoints": 4},
    "eight": {"heads": [*POSE, "box8"]},
    "unscaled": {"extra": "unscaled"},
    "int16": {"extra": "int16"},
    "pixels": {"heads": DETECT, "classes": 5, "extra": "pixels"},
    "64-classes": {"heads": DETECT, "classes": 64},
    "six-keypoints-and-half": {"heads": [*DETECT, "box8"]},
    "TANH": {"extra": "TANH"},
    "TILE": {"extra": "TILE"},
    "TRANSPOSE": {"extra": "TRANSPOSE"},
    "WHILE": {"extra": "WHILE"},
    "float32": {"int8": False},
    "large": {"size": 320, "width": 32},
    "decoded": {"heads": DETECT, "classes": 5, "extra": "decoded"},
    "decoded-pose": {"extra": "decoded"},
    "himax": {"size": 192, "heads": HIMAX},
    "himax-unordered": {"size": 192},
    "himax-13": {"size": 192, "heads": HIMAX, "keypoints": 13},
    "segment": {"heads": ["found", "masks"], "classes": 5, "extra": "segment"},
    "segment-masks-first": {
        "heads": ["masks", "found"],
        "classes": 5,
        "extra": "segment, masks first",
    },
    "detect-4": {"heads": DETECT, "classes": 4},
    "nuvoton": {"size": 192, "heads": NUVOTON},
    "one-reshape": {"heads": ["only"], "extra": "RESHAPE"},
    "seven-reshapes": {"extra": "RESHAPE"},
}


#: Run in the vela environment on TFLite files: what Kiln works out for 64-bit pointers, and what
#: the interpreter takes.
COMPARE = """
import json, sys
from pathlib import Path
from stages.vela.tflite.arena import head_bytes, tail_bytes
from stages.vela.tflm.runner import try_model
from stages.vela.tflite.file import open_file

found = []
for path in map(Path, sys.argv[1:]):
    file, trial = open_file(path.read_bytes()), try_model(path, None)
    found.append([head_bytes(file, scratch=True), trial.head, tail_bytes(file, 8), trial.tail])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def nets(run_script: RunScript, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_nets(run_script, NETS, tmp_path_factory.mktemp("nets"))


@dataclasses.dataclass(frozen=True)
class Desk:
    """Where models are compiled and judged."""

    run_step: RunStep

    def compile(self, int8: Path, **changes: Any) -> tuple[Path, CompileResult]:
        """What Vela makes of a file for grove-v2, and the step's result."""
        params = {**load_target(ROOT / "targets", "grove-v2").compilation(192), **changes}
        trial = self.run_step("compile", params, {"int8.tflite": int8}).expect_success()
        return trial.out / "vela.tflite", trial.result

    def verify(
        self,
        model: Path,
        board: str,
        task: Any = "pose",
        reference: Path | None = None,
        firmware: str | None = None,
        **changes: Any,
    ) -> CheckFirmwareResult:
        target = load_target(ROOT / "targets", board).choose(task, firmware)
        params = {**target.contract(task, 192), **changes}
        inputs = {"model.tflite": model, **({"reference.npz": reference} if reference else {})}
        trial = self.run_step("check-firmware", params, inputs).expect_success()
        result: CheckFirmwareResult = trial.result
        for check in result.checks:
            assert check.title, check
            assert check.figure, check
            assert check.limit, check
            assert check.ok != bool(check.help), check
        assert result.accepted == (not broken(result))
        return result

    def refer(self, model: Path) -> Path:
        inputs = {"model.tflite": model}
        return self.run_step("reference", {}, inputs).expect_success().out / "reference.npz"


@pytest.fixture(scope="module")
def desk(run_step: RunStep) -> Desk:
    return Desk(run_step)


def broken(result: CheckFirmwareResult) -> set[str]:
    return {check.name for check in result.checks if not check.ok}


def check_of(result: CheckFirmwareResult, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def test_a_model_of_kiln_on_a_board_with_an_npu(desk: Desk, pose_int8: Path) -> None:
    vela, compiled = desk.compile(pose_int8 / "int8.tflite")
    result = desk.verify(vela, "grove-v2")
    assert broken(result) == set()
    assert [check.name for check in result.checks] == [
        *("input", "outputs", "classes", "taken-for"),
        *("operators", "accelerator", "arena", "flash"),
    ]
    model, arena = result.model, result.arena
    assert model.what == (
        "YOLOv8 pose with raw heads, 1 class, 17 keypoints, 64x64, compiled for ethos-u55-64"
    )
    assert (model.kind, model.task, model.form, model.imgsz) == (
        *("vela", "pose", "raw-heads", 64),
    )
    assert [output.role for output in model.outputs] == POSE
    assert model.operators == Operators(npu=1, cpu={})
    assert model.bytes == vela.stat().st_size
    assert arena.planned_kib == compiled.sram_kib, "the plan is the one that Vela reports"
    assert 0.8 < arena.interpreter_kib < 1.2
    assert arena.used_kib == arena.planned_kib + arena.interpreter_kib
    assert "32-bit" in arena.source
    assert result.interpreter is None


def test_a_model_of_kiln_runs_as_tflite_does(
    desk: Desk, pose_int8: Path, pose_images: Path, tmp_path: Path
) -> None:
    model, reference = pose_int8 / "int8.tflite", pose_int8 / "reference.npz"
    images = np.load(pose_images / "calibration.npy")
    with np.load(reference) as arrays:
        assert arrays.files == ["images", *(f"output_{i}" for i in range(7))]
        assert np.array_equal(arrays["images"][:2], images[:2].astype(np.int16) - 128)
        tampered = {name: arrays[name].copy() for name in arrays.files}
    assert hash_file(desk.refer(model)) == hash_file(desk.refer(model))

    result = desk.verify(model, "xiao-esp32s3", reference=reference)
    assert broken(result) == set()
    interpreter = result.interpreter
    assert interpreter is not None
    assert (interpreter.ran, interpreter.images, interpreter.equal) == (True, 3, True)
    assert interpreter.arena_bytes == result.arena.used_kib * 1024 > 50_000
    assert "64-bit" in result.arena.source
    assert result.model.operators.npu is None

    tampered["output_4"][1, 0, 2, 3] ^= 1
    np.savez(tmp_path / "tie.npz", **tampered)
    result = desk.verify(model, "xiao-esp32s3", reference=tmp_path / "tie.npz")
    assert broken(result) == set(), "a tie of LOGISTIC's rounding is no fault"
    assert "1 value rounded the other way" in check_of(result, "kernels").figure
    assert result.interpreter is not None
    assert result.interpreter.equal is False

    tampered["output_4"][1, 0, 2, 3] ^= 64
    np.savez(tmp_path / "tampered.npz", **tampered)
    result = desk.verify(model, "xiao-esp32s3", reference=tmp_path / "tampered.npz")
    assert broken(result) == {"kernels"}
    assert "image 1, output 4: 1 of 256 values differ" in check_of(result, "kernels").figure


@pytest.mark.parametrize(
    ("net", "task", "changes", "check", "words"),
    [
        ("dark", "pose", {}, "input", ["scale 0.00196078", "scale 1/255", "0 to 255"]),
        ("pose", "pose", {"sizes": [192]}, "input", ["[1,64,64,3]", "one of 192", "IMGSZ=192"]),
        ("detect", "pose", {}, "outputs", ["score32", "keypoints", "TASK=detect"]),
        ("six-keypoints-and-half", "pose", {}, "outputs", ["[1,64,64]", "TASK=detect"]),
        ("brighter", "pose", {}, "input", ["scale 0.00403", "scale 1/255", "0 to 255"]),
        ("unscaled", "pose", {}, "outputs", ["writes the outputs' scales", "nothing but zeros"]),
        ("pixels", "detect", {}, "outputs", ["[1,9,84]", "never detects", "parts of the image"]),
        (
            "detect",
            "detect",
            {"frames": [[64, 64], [240, 240]]},
            "frame",
            ["64x64", "another IMGSZ or CAMERA", "outside an array"],
        ),
        (
            "two-classes",
            "pose",
            {},
            "classes",
            ["2 classes", "at most 1", "merge", "take it for a detection model of 2 classes"],
        ),
        ("64-classes", "detect", {}, "classes", ["64 classes", "any but 64", "look like"]),
        ("TANH", "pose", {}, "operators", ["TANH 1 unknown to SSCMA", "CONV_2D", "activations"]),
        ("large", "pose", {}, "arena", ["+", "1024 KiB", "IMGSZ=288", "narrower MODEL"]),
        ("pose", "pose", {"flash_kib": 16}, "flash", ["KiB", "16 KiB", "narrower MODEL"]),
        ("TILE", "pose", {"operators": None}, "interpreter", ["op code TILE", "loads and runs"]),
        (
            "decoded",
            "detect",
            {"decoded_max_classes": None},
            "outputs",
            ["[1,9,84]", "box8", "decodes boxes itself"],
        ),
    ],
)
def test_each_check_alone(
    net: str,
    task: str,
    changes: dict[str, Any],
    check: str,
    words: list[str],
    nets: dict[str, Path],
    desk: Desk,
) -> None:
    if "operators" in changes:
        changes = {"operators": ["CONCATENATION", "CONV_2D", "RESHAPE", "TILE"]}
    result = desk.verify(nets[net], "xiao-esp32s3", task, **changes)
    assert broken(result) == {check}
    found = check_of(result, check)
    said = f"{found.figure} | {found.limit} | {found.help}"
    assert all(word in said for word in words), said


def test_outputs_in_a_fixed_order(desk: Desk, nets: dict[str, Path]) -> None:
    """Himax's firmware goes by position, knows 17 keypoints, and has 294 KiB at 192."""
    ordered, unordered, few = (
        desk.compile(nets[name])[0] for name in ("himax", "himax-unordered", "himax-13")
    )
    result = desk.verify(ordered, "grove-v2-himax")
    assert broken(result) == set()
    assert result.arena.limit_kib == 294
    result = desk.verify(unordered, "grove-v2-himax")
    assert broken(result) == {"outputs"}
    assert ", ".join(POSE) in check_of(result, "outputs").figure
    assert f"{', '.join(HIMAX)}, in this order" in check_of(result, "outputs").limit
    result = desk.verify(few, "grove-v2-himax")
    assert broken(result) == {"outputs"}
    assert "13 keypoints" in check_of(result, "outputs").figure
    assert broken(desk.verify(ordered, "grove-v2")) == set(), "Seeed's goes by shape"


def test_the_right_npu_and_no_other(desk: Desk, nets: dict[str, Path]) -> None:
    int8 = nets["pose"]
    other, _ = desk.compile(int8, accelerator="ethos-u55-128")
    result = desk.verify(other, "grove-v2")
    assert broken(result) == {"accelerator"}
    found = check_of(result, "accelerator")
    assert (found.figure, found.limit) == ("ethos-u55-128", "ethos-u55-64")

    result = desk.verify(other, "xiao-esp32s3")
    assert broken(result) == {"accelerator"}
    assert check_of(result, "accelerator").limit == "no NPU"
    assert result.interpreter is None

    result = desk.verify(int8, "grove-v2")
    assert broken(result) == {"accelerator", "operators"}
    assert "compile" in check_of(result, "accelerator").help
    assert "compile" in check_of(result, "operators").help


def test_the_arena_decides_by_the_byte(desk: Desk, nets: dict[str, Path]) -> None:
    vela, _ = desk.compile(nets["pose"])
    used = desk.verify(vela, "grove-v2").arena.used_kib
    assert broken(desk.verify(vela, "grove-v2", arena_kib=used)) == set()
    assert broken(desk.verify(vela, "grove-v2", arena_kib=used - 1 / 1024)) == {"arena"}


def test_files_of_others(desk: Desk, nets: dict[str, Path]) -> None:
    shuffled = desk.verify(nets["shuffled"], "xiao-esp32s3")
    assert broken(shuffled) == set()
    assert [output.role for output in shuffled.model.outputs] == sorted(POSE)

    turned, compiled = desk.compile(nets["TRANSPOSE"])
    result = desk.verify(turned, "grove-v2")
    assert broken(result) == set()
    assert result.model.operators.cpu == compiled.operators.cpu
    assert check_of(result, "operators").figure == "TRANSPOSE 3"
    assert result.arena.planned_kib == compiled.sram_kib
    assert broken(desk.verify(turned, "grove-v2", operators=["ETHOS_U"])) == {"operators"}

    plain = desk.verify(nets["float32"], "xiao-esp32s3")
    assert broken(plain) == {"input", "outputs"}
    assert (plain.model.kind, plain.model.task) == ("float32", "pose")
    assert plain.interpreter is None, "what the board refuses unseen is not run"
    wide = desk.verify(nets["int16"], "xiao-esp32s3")
    assert {"input", "outputs"} <= broken(wide)
    assert "int16" in check_of(wide, "outputs").figure
    assert wide.interpreter is None

    several = desk.verify(nets["WHILE"], "xiao-esp32s3")
    assert {"input", "outputs", "operators"} == broken(several)
    assert several.model.kind == "mixed"
    assert {"WHILE", "LESS", "CONV_2D"} < several.model.operators.cpu.keys()


def test_one_output_decoded_in_the_graph(desk: Desk, nets: dict[str, Path], tmp_path: Path) -> None:
    """As ultralytics exports it: this firmware takes it for detect, and mistakes one for pose."""
    taken = desk.verify(nets["decoded"], "xiao-esp32s3", "detect", decoded_max_classes=80)
    assert broken(taken) == set()
    model = taken.model
    assert (model.form, model.task, model.classes) == ("decoded", "detect", 5)
    assert "as ultralytics exports it, 5 classes" in model.what
    pose = desk.verify(nets["decoded-pose"], "xiao-esp32s3", "detect", decoded_max_classes=51)
    assert check_of(pose, "classes").figure == "52 classes"
    assert broken(pose) == {"classes"}
    few = desk.verify(nets["decoded"], "xiao-esp32s3", "detect", decoded_max_classes=4)
    assert broken(few) == {"classes"}

    unnoted = desk.verify(nets["decoded-pose"], "xiao-esp32s3", decoded_max_classes=80)
    assert broken(unnoted) == {"outputs"}
    assert unnoted.model.task is None
    assert "52 classes, or 1 class and 17 keypoints" in unnoted.model.what
    assert "for a detection of 52 classes" in check_of(unnoted, "outputs").help

    notes = {"task": "pose", "names": {"0": "person"}, "kpt_shape": [17, 3]}
    noted = tmp_path / "noted.tflite"
    noted.write_bytes(nets["decoded-pose"].read_bytes())
    with zipfile.ZipFile(noted, "a") as archive:
        archive.writestr("metadata.json", json.dumps(notes))
    model = desk.verify(noted, "xiao-esp32s3").model
    assert (model.task, model.classes, model.keypoints) == ("pose", 1, 17)


@pytest.mark.parametrize(
    ("net", "task", "firmware", "taken"),
    [
        ("segment", "pose", None, "decoded YOLOv8"),
        ("segment", "detect", None, "decoded YOLOv8"),
        ("segment-masks-first", "pose", None, "FOMO"),
        ("detect-4", "detect", "main-2024-12", "RTMDet"),
    ],
)
def test_a_file_that_the_firmware_takes_for_something_else(
    net: str,
    task: str,
    firmware: str | None,
    taken: str,
    nets: dict[str, Path],
    desk: Desk,
) -> None:
    result = desk.verify(nets[net], "xiao-esp32s3", task, firmware=firmware)
    found = check_of(result, "taken-for")
    assert found.figure == taken
    assert "would read its outputs as" in found.help
    assert not result.accepted


def test_the_order_in_which_forms_are_tried_is_that_of_the_generation(
    desk: Desk, nets: dict[str, Path]
) -> None:
    four = desk.verify(nets["detect-4"], "xiao-esp32s3", "detect")
    assert broken(four) == set()
    assert check_of(four, "taken-for").figure == "YOLO-World"
    before = desk.verify(nets["detect-4"], "xiao-esp32s3", "detect", firmware="main-2024-11")
    assert broken(before) == set()
    after = desk.verify(nets["detect-4"], "xiao-esp32s3", "detect", firmware="main-2024-12")
    assert broken(after) == {"classes", "taken-for"}
    eight = desk.verify(nets["eight"], "xiao-esp32s3", firmware="main-2024-12")
    assert broken(eight) == {"taken-for"}
    assert check_of(eight, "taken-for").figure == "nothing"
    masks = desk.verify(nets["segment-masks-first"], "xiao-esp32s3", firmware="main-2024-12")
    assert broken(masks) == {"outputs"}, "there FOMO has one output and no more"


def test_a_larger_npu_and_another_order(desk: Desk, nets: dict[str, Path]) -> None:
    target = load_target(ROOT / "targets", "nuvoton-m55m1")
    vela, compiled = desk.compile(nets["nuvoton"], **target.compilation(192))
    result = desk.verify(vela, "nuvoton-m55m1")
    assert broken(result) == set()
    assert result.model.accelerator == "ethos-u55-256"
    assert compiled.operators.cpu == {}
    assert broken(desk.verify(vela, "grove-v2")) == {"accelerator"}


def test_what_is_accepted_with_a_note(desk: Desk, nets: dict[str, Path]) -> None:
    bright = desk.verify(nets["bright"], "xiao-esp32s3")
    assert broken(bright) == set()
    assert "pixels are 1.5 % brighter" in check_of(bright, "input").note

    eight = desk.verify(nets["eight"], "xiao-esp32s3")
    assert broken(eight) == set()
    note = check_of(eight, "outputs").note
    assert note == "the firmware reads the first 7 and ignores [1,64,64]"

    one_of_two = desk.verify(nets["detect"], "grove-v2", "detect", frames=[[240, 240], [64, 64]])
    assert "no camera mode of 64x64" in check_of(one_of_two, "frame").note

    plain = desk.verify(nets["pose"], "xiao-esp32s3")
    assert [check.note for check in plain.checks if check.note] == []


def test_two_classes_behind_keypoints_are_nothing_to_the_firmware(
    desk: Desk, nets: dict[str, Path]
) -> None:
    """World looks at the first six outputs, and keypoints among them are no form of its."""
    found = check_of(desk.verify(nets["two-classes-mixed"], "xiao-esp32s3"), "classes")
    assert "detection model" not in found.help
    assert not found.ok


@pytest.mark.parametrize(
    ("net", "task", "notes", "what", "words"),
    [
        ("decoded", "detect", {"task": "obb"}, "for obb", ["for obb", "something else"]),
        ("detect", "detect", {"task": "segment"}, "for segment", ["train a model for detect"]),
        ("detect", "detect", {"task": "pose"}, "detect", ["for pose, and its outputs are"]),
        (
            "four-keypoints",
            "pose",
            {"task": "pose", "kpt_shape": [6, 2]},
            "kpt_shape [6, 2]",
            ["kpt_shape [6, 3]", "visibility"],
        ),
    ],
)
@pytest.mark.parametrize("form", ["metadata.json", "temp_meta.txt"])
def test_metadata_that_contradict_the_shapes_are_believed(
    net: str,
    task: str,
    notes: dict[str, Any],
    what: str,
    words: list[str],
    form: str,
    nets: dict[str, Path],
    desk: Desk,
    tmp_path: Path,
) -> None:
    noted = tmp_path / "noted.tflite"
    noted.write_bytes(nets[net].read_bytes())
    with zipfile.ZipFile(noted, "a") as archive:
        archive.writestr(form, json.dumps(notes) if form.endswith("json") else str(notes))
    result = desk.verify(noted, "xiao-esp32s3", task)
    assert "outputs" in broken(result) <= {"outputs", "taken-for"}
    assert what in result.model.what
    said = check_of(result, "outputs").help
    assert all(word in said for word in words), said


def test_what_is_no_model(run_step: RunStep, nets: dict[str, Path], tmp_path: Path) -> None:
    whole = nets["pose"].read_bytes()
    stream = whole.replace(b"TFL3", b"TFL2")
    cases = {
        "is empty": b"",
        "does not have the mark": stream,
        "cut short or damaged": whole[: len(whole) // 2],
        "cut short or damaged: ": whole[:8],
    }
    params = load_target(ROOT / "targets", "xiao-esp32s3").contract("pose", 64)
    for words, content in cases.items():
        (tmp_path / "model.tflite").write_bytes(content)
        failure = run_step(
            "check-firmware", params, {"model.tflite": tmp_path / "model.tflite"}
        ).failure
        assert failure is not None
        assert (failure["kind"], words in failure["message"]) == ("model", True), failure
        assert failure["hint"]


def test_a_reference_is_of_the_model_at_hand(
    run_step: RunStep, desk: Desk, nets: dict[str, Path]
) -> None:
    params = load_target(ROOT / "targets", "xiao-esp32s3").contract("pose", 64)
    inputs = {"model.tflite": nets["pose"], "reference.npz": desk.refer(nets["detect"])}
    failure = run_step("check-firmware", params, inputs).failure
    assert failure is not None
    assert "not of this model" in failure["message"]

    vela, _ = desk.compile(nets["pose"])
    failure = run_step("reference", {}, {"model.tflite": vela}).failure
    assert failure is not None
    assert (failure["kind"], "before Vela" in failure["hint"]) == ("model", True)


def test_the_arena_is_worked_out_as_the_interpreter_takes_it(
    run_script: RunScript, nets: dict[str, Path], pose_int8: Path
) -> None:
    """The head to the byte; of the tail all but what the recording interpreter keeps for itself,
    which is the same for two networks whose kernels keep nothing."""
    files = [nets["one-reshape"], nets["seven-reshapes"], pose_int8 / "int8.tflite"]
    one, seven, pose = json.loads(run_script("vela", COMPARE, *files))
    for worked_out, taken, _, _ in (one, seven, pose):
        assert worked_out == taken
    assert one[3] - one[2] == seven[3] - seven[2] > 0
    assert seven[3] > one[3]
    assert pose[2] > pose[3], "an allowance for kernels is never too small"
