"""Which steps a request becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import ModelError, RequestError, UnknownName
from kiln.plan.plan import make_plan
from kiln.plan.request import (
    BuildRequest,
    CameraSettings,
    EvaluationSettings,
    FinetuneSettings,
    Flags,
    QuantizeSettings,
    TrainSettings,
    load_request,
)
from kiln.plan.step import FromHost, FromStep, Step
from kiln.plan.targets import load_target, target_names
from tests.support.checkout import ROOT

TARGETS = ROOT / "targets"


def _names(request: BuildRequest, target: str = "grove-v2") -> list[str]:
    return [step.name for step in make_plan(request, load_target(TARGETS, target)).steps]


def test_demo_build_runs_start_to_finish() -> None:
    made = ["demo", "check", "frames", "train", "images", "onnx", "quantize", "compile"]
    assert _names(BuildRequest()) == [*made, "check-firmware", "outputs", "evaluate"]


def test_a_board_without_an_npu_runs_the_int8_model_itself() -> None:
    plan = make_plan(BuildRequest(), load_target(TARGETS, "xiao-esp32s3"))
    names = [step.name for step in plan.steps]
    assert names[names.index("quantize") :] == ["quantize", "check-firmware", "evaluate"]
    reference = FromStep(step="quantize", path="reference.npz")
    checked, evaluated = plan.steps[-2:]
    assert checked.inputs["reference.npz"] == reference
    assert "outputs.npz" not in evaluated.inputs
    assert plan.files[plan.deployed] == FromStep(step="quantize", path="int8.tflite")


def test_what_is_compiled_is_executed_and_judged() -> None:
    steps = _steps("grove-v2")
    assert "reference.npz" in steps["compile"].inputs
    assert steps["outputs"].inputs["model.tflite"] == FromStep(step="compile", path="vela.tflite")
    outputs = FromStep(step="outputs", path="outputs.npz")
    assert steps["evaluate"].inputs["outputs.npz"] == outputs
    assert "reference.npz" not in steps["check-firmware"].inputs


def test_what_no_host_can_execute_is_built_all_the_same() -> None:
    target = load_target(TARGETS, "grove-v2")
    assert target.vela is not None
    vela = dataclasses.replace(target.vela, accelerator="ethos-u65-256")
    plan = make_plan(BuildRequest(), dataclasses.replace(target, vela=vela))
    steps = {step.name: step for step in plan.steps}
    assert "outputs" not in steps
    assert "reference.npz" not in steps["compile"].inputs
    assert "outputs.npz" not in steps["evaluate"].inputs
    assert any("ethos-u65-256 cannot be executed here" in note for note in plan.notes)


def test_a_classifier_runs_the_same_steps_by_modules_of_its_own() -> None:
    plan = make_plan(BuildRequest(task="classify"), load_target(TARGETS, "grove-v2"))
    assert [step.name for step in plan.steps] == _names(BuildRequest())
    own = [step.name for step in plan.steps if step.module.endswith("_classes")]
    assert own == ["check", "frames", "images", "evaluate"]
    assert plan.name == "yolov8n-cls-demo-192"
    assert plan.target.firmware.generation == "2023-12"
    train = next(step for step in plan.steps if step.name == "train")
    assert "mosaic" not in train.params["overrides"]


def test_a_classifier_of_one_class_is_refused() -> None:
    with pytest.raises(ModelError, match="1 classes for classify would not be understood"):
        load_target(TARGETS, "grove-v2").check_classes("classify", 1)


def test_a_comparison_of_layers_is_made_on_request() -> None:
    settings = EvaluationSettings(layers=True)
    assert _names(BuildRequest(evaluation=settings))[-1] == "layers"


def test_outputs_are_put_in_order_for_firmware_that_wants_one() -> None:
    orders = {}
    for name in target_names(TARGETS):
        plan = make_plan(BuildRequest(), load_target(TARGETS, name))
        quantize = next(step for step in plan.steps if step.name == "quantize")
        orders[name] = quantize.params["order"]
    assert orders["grove-v2"] is orders["xiao-esp32s3"] is None
    assert orders["sensecap-watcher"] is orders["sensecap-a1102"] is None
    assert orders["grove-v2-himax"][0] == "box16"
    assert orders["nuvoton-m55m1"][0] == "keypoints"
    assert len(set(orders["grove-v2-himax"])) == 7


def test_firmware_that_is_built_for_some_sizes_takes_no_other() -> None:
    himax = load_target(TARGETS, "grove-v2-himax")
    plan = make_plan(BuildRequest(imgsz=256), himax)
    verify = next(step for step in plan.steps if step.name == "check-firmware")
    assert verify.params["arena_kib"] == 518
    with pytest.raises(RequestError, match="built for 192, 224, 256 alone"):
        make_plan(BuildRequest(imgsz=320), himax)


def test_a_task_that_the_firmware_cannot_do() -> None:
    with pytest.raises(RequestError, match="cannot do TASK=detect"):
        make_plan(BuildRequest(task="detect"), load_target(TARGETS, "grove-v2-himax"))


def test_own_weights_skip_training() -> None:
    request = BuildRequest(weights="/w/best.pt", data="/d/data.yaml")
    plan = make_plan(request, load_target(TARGETS, "grove-v2"))
    made = ["check", "import", "images", "onnx", "quantize", "compile", "check-firmware"]
    assert [step.name for step in plan.steps] == [*made, "outputs", "evaluate"]
    _check, _import, images, onnx, *_rest = plan.steps
    assert onnx.inputs["weights.safetensors"] == FromStep(step="import", path="weights.safetensors")
    assert images.inputs["data"] == FromHost(source="data")
    assert plan.name == "best-192"


def test_settings_of_a_fine_tuning_that_have_no_effect_are_a_note() -> None:
    unused = BuildRequest(finetune=FinetuneSettings(updates=9))
    notes = make_plan(unused, load_target(TARGETS, "grove-v2")).notes
    assert "[finetune] has no effect without QUANT=finetuned" in notes
    tuned = BuildRequest(
        quantize=QuantizeSettings(granularity="finetuned"), finetune=FinetuneSettings(cycles=0.8)
    )
    assert not any(
        "finetune" in n for n in make_plan(tuned, load_target(TARGETS, "grove-v2")).notes
    )
    plan = make_plan(tuned, load_target(TARGETS, "xiao-esp32s3"))
    assert any("has no NPU: [finetune] cycles and flash_kib have no" in n for n in plan.notes)
    assert {"quantize-plain", "finetune", "requantize"} <= {step.name for step in plan.steps}
    assert not any(step.name.startswith("compile") for step in plan.steps)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "yolov8n-pose-demo-192-finetuned"),
        ({"cycles": 0.78}, "yolov8n-pose-demo-192-finetuned-c0.78"),
        ({"cycles": 0.9, "flash_kib": 1800.0}, "yolov8n-pose-demo-192-finetuned-c0.9-f1800"),
    ],
)
def test_fine_tunings_of_several_coarsenesses_lie_beside_each_other(
    settings: Mapping[str, Any], name: str
) -> None:
    request = BuildRequest(
        quantize=QuantizeSettings(granularity="finetuned"), finetune=FinetuneSettings(**settings)
    )
    plan = make_plan(request, load_target(TARGETS, "grove-v2"))
    assert plan.name == name
    assert plan.files[f"{name}_learned.npz"] == FromStep(step="finetune", path="learned.npz")
    mixed = dataclasses.replace(request, quantize=QuantizeSettings(granularity="mixed"))
    assert make_plan(mixed, load_target(TARGETS, "grove-v2")).name == "yolov8n-pose-demo-192"
    own = dataclasses.replace(request, weights="/w/best.pt", data="/d/data.yaml")
    own_name = make_plan(own, load_target(TARGETS, "grove-v2")).name
    assert own_name == name.replace("yolov8n-pose-demo", "best")


def test_named_weights_and_data_are_fetched_by_the_only_steps_with_a_network() -> None:
    request = BuildRequest(weights="yolov8n-pose.pt", data="coco8-pose.yaml")
    plan = make_plan(request, load_target(TARGETS, "grove-v2"))
    assert [s.name for s in plan.steps if s.network] == ["fetch-data", "fetch-weights"]
    assert plan.name == "yolov8n-pose-coco8-pose-192"


def test_only_training_asks_for_a_gpu_and_may_resume() -> None:
    plan = make_plan(BuildRequest(), load_target(TARGETS, "grove-v2"))
    assert [s.name for s in plan.steps if s.gpu != "none"] == ["train"]
    assert [s.name for s in plan.steps if s.resumable] == ["train"]


def _steps(target: str, **settings: Any) -> dict[str, Step]:
    plan = make_plan(BuildRequest(**settings), load_target(TARGETS, target))
    return {step.name: step for step in plan.steps}


def test_boards_with_frames_of_one_size_share_a_training() -> None:
    grove, xiao, himax = (_steps(name) for name in ("grove-v2", "xiao-esp32s3", "grove-v2-himax"))
    for name in ("demo", "check", "frames", "train", "onnx"):
        assert grove[name] == xiao[name]
    assert grove["images"].params["camera"]["pixels"] == "rgb888"
    assert xiao["images"].params["camera"]["pixels"] == "rgb565"
    assert himax["frames"].params["camera"] == {"width": 640, "height": 480, "framing": "fit"}


def test_relu_is_asked_of_the_training_and_the_name_says_so() -> None:
    usual, relu = _steps("grove-v2"), _steps("grove-v2", model="yolov8n-relu")
    assert relu["train"].params == {**usual["train"].params, "activation": "relu"}
    plan = make_plan(BuildRequest(model="yolov8n-relu"), load_target(TARGETS, "grove-v2"))
    assert plan.name == "yolov8n-relu-pose-demo-192"


def test_weights_that_are_not_trained_must_have_the_activation_already() -> None:
    own = {"weights": "/w/best.pt", "data": "/d/data.yaml", "model": "yolov8n-relu"}
    assert _steps("grove-v2", **own)["import"].params["activation"] == "relu"
    trained = _steps("grove-v2", **own, train=TrainSettings(epochs=3))
    assert "activation" not in trained["import"].params
    assert trained["train"].params["activation"] == "relu"


def test_a_camera_mode_changes_what_is_seen() -> None:
    wide = _steps("grove-v2", camera=CameraSettings(mode="640x480", framing="fill"))
    for name in ("frames", "images"):
        camera = wide[name].params["camera"]
        assert (camera["width"], camera["height"], camera["framing"]) == (640, 480, "fill")


def test_a_model_is_checked_and_measured_in_its_camera_mode() -> None:
    usual, other = (
        _steps("grove-v2", camera=CameraSettings(mode=mode)) for mode in (None, "480x480")
    )
    assert usual["evaluate"].params["frame"] == [240, 240]
    assert other["evaluate"].params["frame"] == [480, 480]
    frames = other["check-firmware"].params["frames"]
    assert frames == [[480, 480], [240, 240], [640, 480]]
    assert usual["check-firmware"].params["frames"][0] == [240, 240]


def test_a_camera_mode_that_the_board_lacks() -> None:
    with pytest.raises(UnknownName, match="unknown camera mode '640x48O'") as error:
        _steps("grove-v2", camera=CameraSettings(mode="640x48O"))
    assert error.value.hint == "did you mean '640x480'? known: 240x240, 480x480, 640x480"
    with pytest.raises(UnknownName):
        _steps("xiao-esp32s3", camera=CameraSettings(mode="640x480"))


def test_training_arguments_of_the_user_win_over_the_demo_s() -> None:
    settings = TrainSettings(epochs=2, batch=4, overrides={"lr0": 0.5})
    plan = make_plan(BuildRequest(train=settings), load_target(TARGETS, "grove-v2"))
    train = next(step for step in plan.steps if step.name == "train")
    assert (train.params["epochs"], train.params["batch"]) == (2, 4)
    assert train.params["overrides"]["lr0"] == 0.5


def _training(request: BuildRequest) -> Step:
    steps = make_plan(request, load_target(TARGETS, "grove-v2")).steps
    return next(step for step in steps if step.name == "train")


def test_a_reproducible_training_takes_no_gpu_and_says_so() -> None:
    request = BuildRequest(data="/d/data.yaml", train=TrainSettings(reproducible=True))
    train = _training(request)
    assert train.params["reproducible"] is True
    assert train.gpu == train.params["gpu"] == "none"
    notes = make_plan(request, load_target(TARGETS, "grove-v2")).notes
    assert notes == ("reproducible training: on the CPU, even with a GPU",)


@pytest.mark.parametrize("line", ['gpu = "required"', "time = 0.5"])
def test_what_a_reproducible_training_cannot_have(tmp_path: Path, line: str) -> None:
    config = tmp_path / "kiln.toml"
    config.write_text(f"[train]\nreproducible = true\n{line}\n", encoding="utf-8")
    with pytest.raises(RequestError, match="reproducible") as error:
        load_request(Flags(), config, tmp_path)
    assert error.value.hint


def test_only_the_demo_is_trained_reproducibly_unless_the_user_asks() -> None:
    demo, own = _training(BuildRequest()), _training(BuildRequest(data="/d/data.yaml"))
    assert (demo.params["reproducible"], own.params["reproducible"]) == (True, False)
    assert demo.gpu == own.gpu == "auto"
    faster = BuildRequest(train=TrainSettings(reproducible=False))
    assert _training(faster).params["reproducible"] is False


def test_the_demo_s_training_arguments_are_for_the_demo_alone() -> None:
    plan = make_plan(BuildRequest(data="/d/data.yaml"), load_target(TARGETS, "grove-v2"))
    train = next(step for step in plan.steps if step.name == "train")
    assert (train.params["epochs"], train.params["batch"]) == (100, 16)
    assert train.params["overrides"] == {}


@pytest.mark.parametrize("imgsz", [31, 100, 193, 16])
def test_image_size_must_be_one_that_the_firmware_fills(imgsz: int) -> None:
    with pytest.raises(RequestError, match="multiples of 32") as error:
        make_plan(BuildRequest(imgsz=imgsz), load_target(TARGETS, "grove-v2"))
    assert "use IMGSZ=" in error.value.hint


@pytest.mark.parametrize(("task", "count"), [("pose", 2), ("detect", 64)])
@pytest.mark.parametrize("name", ["grove-v2", "xiao-esp32s3"])
def test_class_counts_that_the_firmware_mixes_up(name: str, task: str, count: int) -> None:
    with pytest.raises(ModelError, match="would not be understood") as error:
        load_target(TARGETS, name).check_classes(task, count)  # type: ignore[arg-type]
    assert error.value.hint
    load_target(TARGETS, name).check_classes("detect", 80)


def test_every_shipped_target_loads() -> None:
    for name in target_names(TARGETS):
        target = load_target(TARGETS, name)
        assert target.firmware.operators
        assert target.flash.model_bytes > 0


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown target 'grove-v3'") as error:
        load_target(TARGETS, "grove-v3")
    assert "did you mean 'grove-v2'?" in error.value.hint


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("/home/x/my people; rm -rf/data.yaml", "yolov8n-pose-my-people--rm--rf-192"),
        ("/sets/coco8-pose.yaml", "yolov8n-pose-coco8-pose-192"),
        ("https://example.org/sets/dogs.zip", "yolov8n-pose-dogs-192"),
    ],
)
def test_names_are_safe_for_files_and_shells(data: str, expected: str) -> None:
    assert make_plan(BuildRequest(data=data), load_target(TARGETS, "grove-v2")).name == expected
