"""The steps of a classifier, from a folder for each class to what the emulated board reports."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiln.emulator.classifier import read_recorded_classifier
from kiln.plan.targets import load_target
from stages.results.compile import Execution
from tests.support import fixtures
from tests.support.bitmap import read_bmp, write_bmp
from tests.support.checkout import ROOT
from tests.support.fixtures import EnvPython, RunScript, RunStep, Trial, tree
from tests.support.resumable_job import ResumableJob
from tests.support.shared_results import IMGSZ, SharedResults

TINY = {"task": "classify", **fixtures.TINY}
SIGNS = ("give-way", "parking", "priority", "speed-limit", "stop")
CAMERA = {"width": 240, "height": 240, "framing": "fit"}
#: The images of {"train": 5, "val": 1, "seed": 7}, the same on every host.
DRAWN = "264cb7fd48bfbfbd21bae01c4281d031c3eac72f03ff5d5db6f81157b71e985b"


@pytest.fixture(scope="session")
def data(shared: SharedResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data/`` of the demo and ``dataset.json`` side by side; for reading."""
    folder = tmp_path_factory.mktemp("classify")
    shutil.copytree(shared.out("classify", "demo") / "data", folder / "data")
    shutil.copyfile(shared.out("classify", "check") / "dataset.json", folder / "dataset.json")
    return folder


@pytest.fixture
def broken(data: Path, tmp_path: Path) -> Path:
    """A copy of the images that a test may break."""
    return Path(shutil.copytree(data / "data", tmp_path / "data"))


@pytest.fixture(scope="session")
def int8(shared: SharedResults) -> Path:
    return shared.out("classify", "quantize")


@pytest.fixture(scope="session")
def images(shared: SharedResults) -> Path:
    return shared.out("classify", "images")


def _check(run_step: RunStep, data: Path) -> Trial:
    return run_step("check-classes", {"task": "classify"}, {"data": data})


def test_demo_draws_one_sign_an_image_and_the_same_bytes_on_every_host(
    run_step: RunStep,
) -> None:
    params = {"task": "classify", "train": 5, "val": 1, "seed": 7}
    drawn = run_step("demo", params, {}).expect_success()
    names = sorted(path.parent.name for path in (drawn.out / "data").glob("images/train/*/*.jpg"))
    assert names == sorted(SIGNS)
    assert tree(drawn.out / "data").digest == DRAWN


def test_the_demo_passes_its_check(data: Path) -> None:
    dataset = json.loads((data / "dataset.json").read_text())
    assert dataset["names"] == [*SIGNS]
    assert dataset["images"] == dataset["objects"] == {"train": 8, "val": 4}


def test_a_class_that_val_lacks_is_a_warning(run_step: RunStep, data: Path) -> None:
    found = _check(run_step, data / "data").expect_success()
    assert [each["message"] for each in found.warnings] == [
        "val has no image of stop: how well it is told cannot be measured"
    ]


def test_every_fault_of_a_data_set_is_reported(run_step: RunStep, broken: Path) -> None:
    shutil.rmtree(broken / "images" / "train" / "speed-limit")
    (broken / "images" / "val" / "give-way").rename(broken / "images" / "val" / "ring")
    write_bmp(broken / "images" / "train" / "parking" / "dot.bmp", np.zeros((4, 4, 3), np.uint8))
    found = _check(run_step, broken)
    assert found.failure is not None
    assert found.failure["message"] == "the data set has 3 faults"
    assert {each["path"]: each["message"] for each in found.problems} == {
        "train/speed-limit": "holds no images",
        "train/parking/dot.bmp": "is 4 x 4 pixels; at least 10 a side",
        "val/ring": "is a class that train does not have",
    }


def test_a_split_without_images_is_a_fault(run_step: RunStep, broken: Path) -> None:
    shutil.rmtree(broken / "images" / "val")
    found = _check(run_step, broken)
    assert [each["path"] for each in found.problems] == ["val"]


def test_one_class_is_nothing_to_tell_apart(run_step: RunStep, broken: Path) -> None:
    (broken / "data.yaml").write_text("names: {0: stop}\n")
    found = _check(run_step, broken)
    assert found.failure is not None
    assert found.failure["message"] == (
        "train has one class, stop: a classifier tells at least 2 apart"
    )
    assert "train/other" in found.failure["hint"]


def test_training_and_evaluation_see_the_same_whole_frame(
    run_step: RunStep, data: Path, tmp_path: Path
) -> None:
    """A wide image is neither stretched nor cut: its corners are there, between grey bars."""
    scene = np.zeros((120, 240, 3), np.uint8)
    scene[:30, :30] = scene[-30:, -30:] = 255
    copy = Path(shutil.copytree(data, tmp_path / "wide"))
    for split in ("train", "val"):
        for file in (copy / "data" / "images" / split).rglob("*.jpg"):
            write_bmp(file.with_suffix(".bmp"), scene)
            file.unlink()
    inputs = {"data": copy / "data", "dataset.json": copy / "dataset.json"}
    params: dict[str, Any] = {"imgsz": 96, "camera": CAMERA}
    trained = run_step("frames-classes", params, inputs).expect_success().out / "data"
    file = next((trained / "images" / "train" / "stop").iterdir())
    params |= {"calibration": 4, "evaluation": 4}
    judged = run_step("images-classes", params, inputs).expect_success().out
    image = np.load(judged / "evaluation" / "images.npy")[0]
    assert np.array_equal(read_bmp(file), image)
    assert set(image[:24].ravel()) == set(image[72:].ravel()) == {114}
    assert image[24:36, :12].min() == image[60:72, 84:].min() == 255
    truth = json.loads((judged / "evaluation" / "truth.json").read_text())
    assert [each["number"] for each in truth["images"]] == [0, 1, 2, 3]
    assert np.load(judged / "calibration.npy").shape == (4, 96, 96, 3)


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_weights(
    env_python: EnvPython, shared: SharedResults, data: Path, tmp_path: Path
) -> None:
    python = env_python("train")
    seen = tmp_path / "seen"
    shutil.copytree(shared.out("classify", "frames") / "data", seen / "data")
    shutil.copyfile(data / "dataset.json", seen / "dataset.json")
    params = {**TINY, "epochs": 3}
    inputs = {"data": seen / "data", "dataset.json": seen / "dataset.json"}
    whole = ResumableJob(python, tmp_path / "whole", "train", params, inputs)
    assert whole.run().code == 0
    broken_off = ResumableJob(python, tmp_path / "broken-off", "train", params, inputs)
    assert broken_off.run(end_with=signal.SIGKILL, after=1).code == -signal.SIGKILL
    ended = broken_off.run()
    assert ended.code == 0
    assert ended.result.resumed_from
    assert tree(broken_off.folder / "out").digest == tree(whole.folder / "out").digest


def test_classes_keep_their_numbers_where_val_lacks_one(
    run_step: RunStep, shared: SharedResults, data: Path, tmp_path: Path
) -> None:
    """ultralytics numbers the folders of each split for itself: val without the first class would
    be judged by the numbers of other classes."""
    frames = Path(shutil.copytree(shared.out("classify", "frames") / "data", tmp_path / "data"))
    for split in ("train", "val"):
        shutil.rmtree(frames / "images" / split)
        for number, name in enumerate(("give-way", "stop")):
            shade = np.full((IMGSZ, IMGSZ, 3), 255 * number, np.uint8)
            for copy in range(8):
                file = frames / "images" / split / name / f"{copy}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_bmp(file, shade)
    shutil.rmtree(frames / "images" / "val" / "give-way")
    inputs = {"data": frames, "dataset.json": data / "dataset.json"}
    settings = {"optimizer": "AdamW", "lr0": 0.002, "erasing": 0.0, "auto_augment": ""}
    params = {**TINY, "epochs": 4, "overrides": settings}
    trained = run_step("train", params, inputs).expect_success()
    assert trained.result.metrics["class/top1"] == 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mosaic": 0.5}, "[train] mosaic has no effect on a training for classify"),
        ({"single_cls": True}, "[train] single_cls has no effect"),
        ({"erazing": 0.1}, "[train] erazing is no argument of a training for classify"),
    ],
)
def test_training_arguments_of_other_tasks_are_refused(
    run_step: RunStep, shared: SharedResults, data: Path, overrides: Any, message: str
) -> None:
    frames = shared.out("classify", "frames") / "data"
    inputs = {"data": frames, "dataset.json": data / "dataset.json"}
    trained = run_step("train", {**TINY, "overrides": overrides}, inputs)
    assert trained.failure is not None
    assert trained.failure["message"].startswith(message)


def test_weights_of_another_task_are_refused(
    run_step: RunStep, shared: SharedResults, data: Path, detect_weights: Path
) -> None:
    inputs = {
        "data": shared.out("classify", "frames") / "data",
        "dataset.json": data / "dataset.json",
        "weights.safetensors": detect_weights / "weights.safetensors",
    }
    trained = run_step("train", TINY, inputs)
    assert trained.failure is not None
    assert "start weights are of a detect model" in trained.failure["message"]
    assert "yolov8n-cls.pt" in trained.failure["hint"]


def test_the_export_gives_probabilities(shared: SharedResults, run_script: RunScript) -> None:
    model = shared.out("classify", "onnx") / "model.onnx"
    printed = run_script("export", _SUMS, model)
    assert json.loads(printed) == {"shape": [1, 5], "sum": 1.0, "least": True}


_SUMS = """
import json, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
(found,) = session.run(None, {"images": image})
found_sum = round(float(found.sum()), 5)
print(json.dumps({"shape": found.shape, "sum": found_sum, "least": bool(found.min() >= 0)}))
"""


def test_the_npu_runs_all_of_it_and_the_firmware_takes_it(run_step: RunStep, int8: Path) -> None:
    target = load_target(ROOT / "targets", "grove-v2")
    inputs = {name: int8 / name for name in ("int8.tflite", "reference.npz")}
    compiled = run_step("compile", target.compilation(IMGSZ), inputs).expect_success()
    assert compiled.result.execution == Execution(images=3, equal=True)
    assert compiled.result.cpu_operators == ()
    assert compiled.result.operators.npu["SOFTMAX"]
    model = {"model.tflite": compiled.out / "vela.tflite"}
    checked = run_step("check-firmware", target.contract("classify", IMGSZ), model)
    result = checked.expect_success().result
    assert result.accepted, [each for each in result.checks if not each.ok]
    assert (result.model.task, result.model.form) == ("classify", "classifier")
    assert result.model.what == "a classifier, 5 classes, 64x64, compiled for ethos-u55-64"


def test_the_board_without_an_npu_computes_what_the_reference_does(
    run_step: RunStep, int8: Path
) -> None:
    target = load_target(ROOT / "targets", "xiao-esp32s3")
    given = {"model.tflite": int8 / "int8.tflite", "reference.npz": int8 / "reference.npz"}
    checked = run_step("check-firmware", target.contract("classify", IMGSZ), given)
    result = checked.expect_success().result
    assert result.accepted, [each for each in result.checks if not each.ok]
    assert result.interpreter.equal


def test_every_form_is_measured_on_the_same_images(
    run_step: RunStep, shared: SharedResults, int8: Path, images: Path
) -> None:
    models = {name: int8 / name for name in ("float32.tflite", "int8.tflite")}
    models["model.onnx"] = shared.out("classify", "onnx") / "model.onnx"
    inputs = {**models, "evaluation": images / "evaluation"}
    measured = run_step("evaluate-classes", {}, inputs).expect_success()
    result = measured.result
    assert list(result.artifacts) == ["onnx", "float32", "int8"]
    assert result.artifacts["onnx"] == result.artifacts["float32"]
    assert all(figures["class/top5"] == 1.0 for figures in result.artifacts.values())
    assert [each.name for each in result.classes][:2] == ["give-way", "parking"]
    assert [each.objects for each in result.classes] == [1, 1, 1, 1, 0]
    evidence = json.loads((measured.out / "evidence.json").read_text())
    assert len(evidence["classified"]) == 4
    wrong = sum(each["count"] for each in evidence["mistakes"]["int8"])
    assert wrong == round(4 * (1 - result.artifacts["int8"]["class/top1"]))
    assert evidence["images"] == []


def test_what_is_compiled_is_judged_on_the_same_images(
    run_step: RunStep, int8: Path, images: Path, tmp_path: Path
) -> None:
    target, evaluation = load_target(ROOT / "targets", "grove-v2"), images / "evaluation"
    inputs = {"int8.tflite": int8 / "int8.tflite"}
    compiled = run_step("compile", target.compilation(IMGSZ), inputs).expect_success().out
    ran = {"model.tflite": compiled / "vela.tflite", "evaluation": evaluation}
    outputs = run_step("outputs", {"images": None}, ran).expect_success().out / "outputs.npz"
    given = {**inputs, "outputs.npz": outputs, "evaluation": evaluation}
    judged = run_step("evaluate-classes", {}, given).expect_success().result
    assert (list(judged.artifacts), judged.equal_to_int8) == (["int8"], True)
    del given["int8.tflite"]
    alone = run_step("evaluate-classes", {}, given).expect_success().result
    assert alone.artifacts == {"compiled": judged.artifacts["int8"]}
    with np.load(outputs) as arrays:
        turned = {**arrays, "output_0": np.roll(arrays["output_0"], 1, axis=2)}
    np.savez(tmp_path / "outputs.npz", **turned)
    given |= {**inputs, "outputs.npz": tmp_path / "outputs.npz"}
    other = run_step("evaluate-classes", {}, given).expect_success()
    assert (list(other.result.artifacts), other.result.equal_to_int8) == (
        *(["int8", "compiled"], False),
    )
    assert "does not give the bytes of the int8 file on 4 of 4" in other.warnings[-1]["message"]


def test_a_model_of_other_classes_cannot_be_evaluated(
    run_step: RunStep, int8: Path, images: Path, tmp_path: Path
) -> None:
    evaluation = Path(shutil.copytree(images / "evaluation", tmp_path / "evaluation"))
    truth = json.loads((evaluation / "truth.json").read_text())
    truth["names"] = truth["names"][:3]
    (evaluation / "truth.json").write_text(json.dumps(truth))
    inputs = {"int8.tflite": int8 / "int8.tflite", "evaluation": evaluation}
    measured = run_step("evaluate-classes", {}, inputs)
    assert measured.failure is not None
    assert "its outputs are [1, 5], and the data set has 3 classes" in measured.failure["message"]


def test_the_emulated_board_reports_the_classes_of_a_frame(
    run_step: RunStep, int8: Path, images: Path
) -> None:
    inputs = {"model.tflite": int8 / "int8.tflite", "evaluation": images / "evaluation"}
    answers = run_step("outputs", {"images": 3}, inputs).expect_success().out
    inputs = {"outputs.npz": answers / "outputs.npz", "evaluation": images / "evaluation"}
    params = {"frame": [240, 240], "score": 0.0, "candidates": 50}
    out = run_step("emulator-frames-classes", params, inputs).expect_success().out
    recorded = read_recorded_classifier(out / "frames.json", sha256="", size=0)
    assert recorded.resolution == (240, 240)
    assert len(recorded.frames) == 3
    with np.load(answers / "outputs.npz") as arrays:
        bytes_ = arrays["output_0"][0][0].astype(int)
    percents = [(each + 128) / 256 * 100 for each in bytes_]
    reported = recorded.infer(0).report(0)["classes"]
    assert {number: score for score, number in reported} == {
        number: int(percent) for number, percent in enumerate(percents) if percent > 0
    }
    assert [score for score, _number in reported] == sorted(
        (score for score, _number in reported), reverse=True
    )


#: Run in the train environment: train for an epoch as a user would.
_CHECKPOINT = """
import sys
from pathlib import Path
import stages.train.ultralytics_env
from ultralytics import YOLO
folder, data = Path(sys.argv[1]), sys.argv[2]
model = YOLO("yolov8n-cls.yaml")
model.train(
    data=data, imgsz=64, epochs=1, batch=4, device="cpu", workers=0, plots=False, amp=False,
    project=str(folder), name="run",
)
"""
#: Does the exported file compute what the checkpoint computes?
_EXPORTED = """
import sys
import stages.train.ultralytics_env
import torch
from onnx.reference import ReferenceEvaluator
from ultralytics.nn.tasks import load_checkpoint
network, _checkpoint = load_checkpoint(sys.argv[1])
images = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    theirs = network(images)[0]
(ours,) = ReferenceEvaluator(sys.argv[2]).run(None, {"images": images.numpy()})
print(float(abs(theirs.numpy() - ours).max()))
"""


@pytest.mark.slow
def test_weights_of_ultralytics_are_taken_and_trained_further(
    run_step: RunStep, run_script: RunScript, shared: SharedResults, data: Path, tmp_path: Path
) -> None:
    run_script("train", _CHECKPOINT, tmp_path, data / "data" / "images")
    pt = tmp_path / "run" / "weights" / "best.pt"
    params = {"task": "classify", "trust": False}
    imported = run_step("import", params, {"weights.pt": pt}).expect_success()
    assert (imported.result.task, imported.result.model) == ("classify", "yolov8n-cls")
    assert imported.result.names == SIGNS
    weights = {"weights.safetensors": imported.out / "weights.safetensors"}
    exported = run_step("onnx", {"imgsz": IMGSZ}, weights).expect_success()
    assert [each.name for each in exported.result.outputs] == ["probabilities"]
    assert float(run_script("train", _EXPORTED, pt, exported.out / "model.onnx")) < 1e-5
    inputs = {
        "data": shared.out("classify", "frames") / "data",
        "dataset.json": data / "dataset.json",
        **weights,
    }
    trained = run_step("train", TINY, inputs).expect_success()
    taken, of = trained.result.tensors_taken_over
    assert taken == of
    asked = run_step("import", {"task": "detect", "trust": False}, {"weights.pt": pt})
    assert asked.failure is not None
    assert "are of a classify network, and TASK=detect" in asked.failure["message"]


#: Run in the export environment: a classifier of one convolution, its name, classes and last layer.
_SMALL = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf

folder = Path(sys.argv[1])
random = np.random.default_rng(0)

def build(classes, last):
    weights = tf.constant(random.normal(size=(3, 3, 3, classes)), tf.float32)

    def network(x):
        logits = tf.reduce_mean(tf.nn.conv2d(x, weights, 2, "SAME"), (1, 2))
        return {"softmax": tf.nn.softmax, "none": tf.identity}[last](logits)

    shape = (1, 32, 32, 3)
    function = tf.function(network).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    def representative():
        for _ in range(2):
            image = random.uniform(0, 1, shape).astype(np.float32)
            image.flat[0], image.flat[-1] = 0, 1
            yield [image]
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()

for name, classes, last in (("good", 3, "softmax"), ("logits", 3, "none"), ("one", 1, "softmax")):
    (folder / f"{name}.tflite").write_bytes(build(classes, last))
"""


@pytest.fixture(scope="module")
def small(run_script: RunScript, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    run_script("export", _SMALL, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("good", "", ""),
        ("logits", "outputs", "export it with its softmax"),
        ("one", "classes", "add a class of everything else"),
    ],
)
def test_a_classifier_of_another_maker_is_held_against_the_firmware(
    run_step: RunStep, small: Path, name: str, broken: str, words: str
) -> None:
    target = load_target(ROOT / "targets", "xiao-esp32s3").choose("classify", "2024-10")
    params = target.contract("classify", 32)
    checked = run_step("check-firmware", params, {"model.tflite": small / f"{name}.tflite"})
    result = checked.expect_success().result
    failed = {check.name: check.help for check in result.checks if not check.ok}
    assert broken in {*failed, ""}
    assert result.accepted == (not broken)
    assert words in failed.get(broken, "")


def test_the_firmware_would_not_take_it_for_a_detector(run_step: RunStep, small: Path) -> None:
    target = load_target(ROOT / "targets", "grove-v2").choose("detect")
    params = target.contract("detect", 32)
    checked = run_step("check-firmware", params, {"model.tflite": small / "good.tflite"})
    result = checked.expect_success().result
    helps = {check.name: check.help for check in result.checks if not check.ok}
    assert helps["outputs"] == "TASK=classify: the model is one for classify"
