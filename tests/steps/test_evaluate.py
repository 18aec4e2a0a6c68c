"""The step `evaluate`: a detector that is right, one made bad, real networks, foreign files."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.results.evaluate import ClassAccuracy, EvaluateResult
from tests.support.compiled import limited
from tests.support.fixtures import RunScript, RunStep, Trial
from tests.support.flashed import compiled_file, outputs_of
from tests.support.shared_results import IMGSZ
from tests.support.spotter import NAMES, SPOTS, make_spotter, write_evaluation
from tests.support.tiny import make_tiny

QUANTIZE = {"granularity": "per-tensor", "order": None}
FRAME = {"frame": [240, 240]}
PERFECT = {"box/map50": 1.0, "box/map50_95": 1.0}

#: Argv: folder, folder to write: the TFLite files with their outputs in another order.
PERMUTE = """
import sys
from tensorflow.lite.tools import flatbuffer_utils

for name in ("float32.tflite", "int8.tflite"):
    model = flatbuffer_utils.read_model(f"{sys.argv[1]}/{name}")
    outputs = list(model.subgraphs[0].outputs)
    model.subgraphs[0].outputs = outputs[3:] + outputs[:3][::-1]
    flatbuffer_utils.write_model(model, f"{sys.argv[2]}/{name}")
"""

#: Argv: evaluation, files. Prints why each file is refused.
REFUSE = """
import json, sys
from pathlib import Path
from stages.contract import StepFailed
from stages.export.evaluation.inference import open_artifact, read_evaluation

evaluation, said = read_evaluation(Path(sys.argv[1]), frame=(240, 240), iou=45), []
for file in sys.argv[2:]:
    try:
        open_artifact("int8", Path(file), evaluation)
        said.append("accepted")
    except StepFailed as error:
        assert error.kind == "model"
        said.append(f"{error.message}. {error.hint}")
print(json.dumps(said))
"""

#: Stdin: a list of cases. Prints the accuracy of each.
MEASURE = """
import json, sys
import numpy as np
from stages.export.evaluation.decode import Detections
from stages.export.evaluation.coco_map import measure

def detections(found, keypoints):
    return Detections(
        boxes=np.array([each["box"] for each in found], np.float32).reshape(-1, 4),
        scores=np.array([each["score"] for each in found], np.float32),
        classes=np.array([each["class"] for each in found], np.int64),
        keypoints=np.array([each["keypoints"] for each in found], np.float32).reshape(
            -1, keypoints, 3
        ),
    )

measured = []
cases, out = json.load(sys.stdin), sys.stdout
sys.stdout = sys.stderr
for keypoints, truth, found in cases:
    given = [detections(each, keypoints) for each in found]
    kinds = measure(truth, given, classes=2, keypoints=keypoints)
    measured.append({kind: [each.map50, each.map50_95] for kind, each in kinds.items()})
json.dump(measured, out)
"""

#: Argv: an ONNX file for one channel of 32x32. Prints whether it gets the image in grey.
GREY = """
import sys
from pathlib import Path
import numpy as np
from stages.export.models.model_runners import open_runner

colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
red, green, blue = colours.astype(int).transpose(2, 0, 1)
grey = ((red * 299 + green * 587 + blue * 114) // 1000).astype(np.uint8)
images = np.stack([colours, np.stack([grey] * 3, axis=2), 255 - colours])
runner = open_runner(Path(sys.argv[1]), images)
shown, wanted, other = (runner.run(number)[0] for number in range(3))
print((shown == wanted).all() and (shown != other).any())
"""

#: Argv: an int8 file, a reference.npz. Prints how many values of the first image are not those of
#: the reference kernels: of what is evaluated, and of TensorFlow Lite's default kernels.
KERNELS = """
import json, sys
from pathlib import Path
import numpy as np
from stages.export.models.model_runners import open_runner
from stages.export.models.preprocess import as_int8
from stages.export.models.tflite_interpreter import TFLiteModel

model, reference = Path(sys.argv[1]), np.load(sys.argv[2])
images = (reference["images"].astype(np.int16) + 128).astype(np.uint8)
runner, found = open_runner(model, images), []
default = TFLiteModel(model.read_bytes(), kernels="delegate")
fast = default.run(as_int8(images[:1]))
for number, output in enumerate(runner.run(0)):
    details = default.outputs[number]
    wanted = reference[f"output_{number}"][0].astype(np.float32)
    real = (wanted - details.zero_point) * np.float32(details.scale)
    found.append([int((output != real).sum()), int((fast[number] != wanted).sum())])
print(json.dumps(np.sum(found, axis=0).tolist()))
"""

#: Argv: weights. Prints how far decode() is from ultralytics' own decoding, in pixels and
#: in parts of a score, and of how many cells.
COMPARE = """
import json, sys
from pathlib import Path
import stages.train.ultralytics_env
import numpy as np
import torch
from stages.export.evaluation.decode import Labels, candidates, find_roles
from stages.train.weights import checkpoint
from stages.train.weights.raw_heads import RawHeads

model, meta = checkpoint.load(Path(sys.argv[1]))
keypoints = meta.kpt_shape[0] if meta.kpt_shape else 0
labels = Labels(size=96, classes=meta.nc, keypoints=keypoints)
image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    table = model.eval()(image)[0][0].T.double().numpy()
    outputs = [output.numpy() for output in RawHeads(model, split_c2f=True).eval()(image)]
slots = find_roles([output.shape for output in outputs], labels)
rows = {role: slot.rows(outputs) for role, slot in slots.items()}
found = candidates(rows, labels, frame=(96, 96)).found
start, end = np.split(found.boxes, 2, axis=1)
points = found.keypoints.reshape(len(found), -1)
ours = np.concatenate([(start + end) / 2, end - start, found.scores[:, None], points], axis=1)
best = table[:, 4 : 4 + meta.nc].max(axis=1, keepdims=True)
theirs = np.concatenate([table[:, :4], best, table[:, 4 + meta.nc :]], axis=1)
nearest = np.abs(ours[:, None, :4] - theirs[None, :, :4]).max(axis=2).argmin(axis=1)
difference = np.abs(ours - theirs[nearest]).max(axis=0)
same = found.classes == table[nearest, 4 : 4 + meta.nc].argmax(axis=1)
print(json.dumps([len(set(nearest.tolist())), float(difference.max()), bool(same.all())]))
"""


@pytest.fixture(scope="session")
def spotter(
    run_script: RunScript, run_step: RunStep, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a detector in all three forms and with ``evaluation``."""
    folder = make_spotter(run_script, "raw", tmp_path_factory.mktemp("spotter"))
    _quantize(run_step, folder, folder / "calibration.npy")
    return folder


@pytest.fixture(scope="session")
def judged(spotter: Path, run_step: RunStep) -> Trial:
    return run_step("evaluate", FRAME, _inputs(spotter)).expect_success()


def test_a_perfect_detector(judged: Trial) -> None:
    assert judged.warnings == []
    result = judged.result
    assert (result.images, result.objects) == (len(SPOTS), 8)
    assert result.artifacts == dict.fromkeys(("onnx", "float32", "int8"), PERFECT)
    assert result.drop == {"box/map50": 0, "box/map50_95": 0}
    assert result.classes == tuple(
        ClassAccuracy(name=name, objects=number, float32=figure, int8=figure)
        for name, number, figure in zip(NAMES, (3, 3, 2, 0), (1, 1, 1, None), strict=True)
    )
    assert {each.name for each in result.outputs} == {
        f"{kind}{stride}" for kind in ("box", "score") for stride in (8, 16, 32)
    }
    assert all(each.snr_db > 40 for each in result.outputs)
    assert (result.score_threshold, result.iou_threshold) == (0.01, 0.45)
    assert result.seconds.keys() == {"onnx", "float32", "int8"}
    assert judged.events[-2] == {"event": "progress", "done": 5, "total": 5, "unit": "images"}


def test_its_evidence(judged: Trial) -> None:
    evidence = _evidence(judged)
    assert evidence["names"] == NAMES
    assert evidence["precision_recall"]["box"]["int8"][-1] == [1.0, 1.0]
    assert len(evidence["precision_recall"]["box"]["float32"]) == 101
    images = {image["file"]: image for image in evidence["images"]}
    assert images.keys() == {f"{number}.jpg" for number in SPOTS}
    first = images["0.jpg"]
    assert first["size"] == 64
    kind, data = first["image"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(data).startswith(b"\xff\xd8\xff")
    assert first["truth"][0] == {"class": 0, "box": [4, 4, 20, 20], "keypoints": None}
    for side in ("float32", "int8"):
        found = {each["class"]: each for each in first[side] if each["score"] > 0.99}
        assert found[0]["box"] == pytest.approx([4, 4, 20, 20], abs=0.1)
        assert found[0]["keypoints"] is None
        assert found[1]["box"] == pytest.approx([36, 36, 52, 52], abs=0.1)


def test_one_bad_calibration_is_told_with_its_output(
    spotter: Path, run_step: RunStep, tmp_path: Path
) -> None:
    """With ranges calibrated on black images score8 cannot tell certain from uncertain."""
    np.save(tmp_path / "black.npy", np.zeros((4, 64, 64, 3), np.uint8))
    shutil.copy(spotter / "model.onnx", tmp_path)
    _quantize(run_step, tmp_path, tmp_path / "black.npy")
    folder = _evaluation(spotter, tmp_path / "evaluation", 3 * _labels(spotter))
    trial = run_step("evaluate", FRAME, _inputs(tmp_path, evaluation=folder))
    (warning,) = trial.expect_success().warnings
    assert warning["message"].startswith("int8 loses ")
    assert "points of box mAP50 (100.0 to " in warning["message"]
    assert "least signal to noise: score8 (" in warning["message"]
    assert "[calibration] images" in warning["hint"]
    assert "per-channel" in warning["hint"]
    assert trial.result.artifacts["float32"] == PERFECT
    assert trial.result.drop["box/map50"] > 2
    shown = _evidence(trial)["images"]
    assert [image["note"] for image in shown] == ["largest difference"] * 6 + [""] * 6
    assert len({image["file"] for image in shown}) == 12, "of 15"


def test_an_image_without_objects_counts(spotter: Path, run_step: RunStep, tmp_path: Path) -> None:
    """A detection without a label is an error, also with the ONNX file alone."""
    folder = _evaluation(spotter, tmp_path / "evaluation", [[], *_labels(spotter)[1:]])
    inputs = {"model.onnx": spotter / "model.onnx", "evaluation": folder}
    trial = run_step("evaluate", FRAME, inputs).expect_success()
    assert 0.5 < trial.result.artifacts["onnx"]["box/map50"] < 1
    assert (trial.result.drop, trial.result.outputs) == ({}, ())
    assert [each.int8 for each in trial.result.classes] == [None] * 4
    assert _evidence(trial)["images"][0]["int8"] is None


def test_nothing_is_labelled(spotter: Path, run_step: RunStep, tmp_path: Path) -> None:
    folder = _evaluation(spotter, tmp_path / "evaluation", [[] for _ in SPOTS])
    inputs = {"int8.tflite": spotter / "int8.tflite", "evaluation": folder}
    trial = run_step("evaluate", FRAME, inputs).expect_success()
    (warning,) = trial.warnings
    assert "box mAP50 and box mAP50-95 cannot be measured" in warning["message"]
    assert trial.result.artifacts == {"int8": {"box/map50": None, "box/map50_95": None}}


def test_a_network_that_finds_nothing_says_so(
    spotter: Path, run_step: RunStep, tmp_path: Path
) -> None:
    elsewhere = [
        [each | {"box": [each["box"][0] + 17, 0, each["box"][0] + 20, 3]} for each in objects]
        for objects in _labels(spotter)
    ]
    folder = _evaluation(spotter, tmp_path / "evaluation", elsewhere)
    trial = run_step("evaluate", FRAME, _inputs(spotter, evaluation=folder)).expect_success()
    (warning,) = trial.warnings
    assert "finds next to nothing: its box mAP50 is 0.000" in warning["message"]
    assert "EPOCHS=" in warning["hint"]
    assert trial.result.finds_nothing


def test_a_class_that_is_labelled_and_never_found(
    spotter: Path, run_step: RunStep, tmp_path: Path
) -> None:
    objects = _labels(spotter)
    objects[2] = [{"class": 3, "box": [0, 0, 16, 16], "keypoints": None}]
    folder = _evaluation(spotter, tmp_path / "evaluation", objects)
    trial = run_step("evaluate", FRAME, _inputs(spotter, evaluation=folder)).expect_success()
    (warning,) = trial.warnings
    assert warning["message"] == "1 of 4 classes is labelled and never found: ghost"
    assert "images of them" in warning["hint"]
    assert not trial.result.finds_nothing


def test_no_images_no_models(spotter: Path, run_step: RunStep, tmp_path: Path) -> None:
    empty = write_evaluation(tmp_path / "empty", np.zeros((0, 64, 64, 3), np.uint8), [])
    trial = run_step("evaluate", FRAME, {"model.onnx": spotter / "model.onnx", "evaluation": empty})
    assert trial.failure is not None
    assert trial.failure["kind"] == "data"
    trial = run_step("evaluate", FRAME, {"evaluation": spotter / "evaluation"})
    assert trial.failure is not None
    assert trial.failure["kind"] == "request"


def test_outputs_in_another_order(
    judged: Trial, spotter: Path, run_step: RunStep, run_script: RunScript, tmp_path: Path
) -> None:
    run_script("export", PERMUTE, spotter, tmp_path)
    shutil.copy(spotter / "model.onnx", tmp_path)
    inputs = _inputs(tmp_path, evaluation=spotter / "evaluation")
    permuted = run_step("evaluate", FRAME, inputs).expect_success()
    assert _timeless(permuted) == _timeless(judged)


def test_decoded_in_the_graph(run_script: RunScript, run_step: RunStep, tmp_path: Path) -> None:
    """What ultralytics exports: one output, places as parts of the image, one scale in int8."""
    make_spotter(run_script, "decoded", tmp_path)
    _quantize(run_step, tmp_path, tmp_path / "calibration.npy")
    trial = run_step("evaluate", FRAME, _inputs(tmp_path)).expect_success()
    assert trial.result.artifacts["onnx"] == PERFECT
    assert trial.result.artifacts["float32"] == PERFECT
    assert trial.result.artifacts["int8"]["box/map50"] == 1
    assert [each.name for each in trial.result.outputs] == ["decoded"]


def test_pose_is_the_same_on_any_number_of_cores(
    pose_onnx: Path,
    pose_int8: Path,
    pose_images: Path,
    run_step: RunStep,
    request: pytest.FixtureRequest,
) -> None:
    inputs = {
        "model.onnx": pose_onnx / "model.onnx",
        "float32.tflite": pose_int8 / "float32.tflite",
        "int8.tflite": pose_int8 / "int8.tflite",
        "evaluation": pose_images / "evaluation",
    }
    usual = run_step("evaluate", FRAME, inputs).expect_success()
    request.getfixturevalue("one_cpu")
    alone = run_step("evaluate", FRAME, inputs).expect_success()
    assert _timeless(usual) == _timeless(alone)
    for figures in usual.result.artifacts.values():
        assert list(figures) == ["box/map50", "box/map50_95", "pose/map50", "pose/map50_95"]
    assert usual.result.outputs[-1].name == "keypoints"
    evidence = _evidence(usual)
    assert len(evidence["skeleton"]) == 19
    assert len(evidence["images"][0]["truth"][0]["keypoints"]) == 17
    assert evidence["precision_recall"].keys() == {"box", "pose"}


def test_int8_is_evaluated_with_the_reference_kernels(
    run_script: RunScript, pose_int8: Path
) -> None:
    files = pose_int8 / "int8.tflite", pose_int8 / "reference.npz"
    evaluated, default = json.loads(run_script("export", KERNELS, *files))
    assert evaluated == 0
    assert default > 0, "the kernels that TensorFlow Lite takes by default round differently"


def test_what_is_compiled_is_judged_on_the_same_images(
    run_step: RunStep, pose_int8: Path, pose_images: Path, tmp_path: Path
) -> None:
    evaluation, int8 = pose_images / "evaluation", pose_int8 / "int8.tflite"
    compiled = compiled_file(run_step, pose_int8)
    outputs = outputs_of(run_step, compiled, evaluation)
    forms = {"float32.tflite": pose_int8 / "float32.tflite", "int8.tflite": int8}
    given = {**forms, "evaluation": evaluation}
    plain = run_step("evaluate", FRAME, given).expect_success()
    assert plain.result.equal_to_int8 is None
    judged = run_step("evaluate", FRAME, {**given, "outputs.npz": outputs}).expect_success()
    assert judged.result.equal_to_int8 is True
    assert _timeless(judged) == (
        dataclasses.replace(plain.result, seconds={}, equal_to_int8=True),
        _evidence(plain),
    ), "no figure is repeated"
    alone = run_step("evaluate", FRAME, {"outputs.npz": outputs, "evaluation": evaluation})
    result = alone.expect_success().result
    assert result.artifacts == {"compiled": judged.result.artifacts["int8"]}
    assert (result.equal_to_int8, result.drop, result.seconds) == (None, {}, {})
    assert _evidence(alone)["images"][0]["int8"] is not None

    changed = tmp_path / "changed.tflite"
    changed.write_bytes(limited(compiled.read_bytes()))
    outputs = outputs_of(run_step, changed, evaluation)
    trial = run_step("evaluate", FRAME, {**given, "outputs.npz": outputs}).expect_success()
    assert trial.result.equal_to_int8 is False
    assert list(trial.result.artifacts) == ["float32", "int8", "compiled"]
    assert trial.result.drop == plain.result.drop
    message = trial.warnings[-1]["message"]
    assert "does not give the bytes of the int8 file on " in message
    truth = json.loads((evaluation / "truth.json").read_text(encoding="utf-8"))
    assert message.rpartition("first on ")[2] in [each["file"] for each in truth["images"]]


def test_outputs_of_some_images_alone_are_refused(
    run_step: RunStep, pose_int8: Path, pose_images: Path
) -> None:
    evaluation = pose_images / "evaluation"
    outputs = outputs_of(run_step, pose_int8 / "int8.tflite", evaluation, images=3)
    failure = run_step(
        "evaluate", FRAME, {"outputs.npz": outputs, "evaluation": evaluation}
    ).failure
    assert failure is not None
    assert (failure["kind"], "has outputs for 3 of 4 images" in failure["message"]) == (
        *("model", True),
    )


@pytest.mark.parametrize("task", ["pose", "detect"])
def test_decodes_as_ultralytics_does(
    task: str, run_script: RunScript, request: pytest.FixtureRequest
) -> None:
    weights = request.getfixturevalue(f"{task}_weights") / "weights.safetensors"
    cells, difference, same = json.loads(run_script("train", COMPARE, weights))
    assert cells == 144 + 36 + 9
    assert difference < 0.01
    assert same


def test_a_model_for_grey_images(run_script: RunScript, tmp_path: Path) -> None:
    tiny = make_tiny(run_script, "raw", tmp_path)
    assert run_script("export", GREY, tiny["model.onnx"]).strip() == "True"


def test_files_that_cannot_be_judged(
    spotter: Path,
    pose_int8: Path,
    detect_int8: Path,
    pose_images: Path,
    run_step: RunStep,
    run_script: RunScript,
    tmp_path: Path,
) -> None:
    vela = compiled_file(run_step, pose_int8)
    text, cut, image = (tmp_path / name for name in ("text.tflite", "cut.tflite", "a.onnx"))
    text.write_text("not a model at all", encoding="utf-8")
    cut.write_bytes((pose_int8 / "int8.tflite").read_bytes()[:100_000])
    image.write_bytes(b"\x89PNG")
    files = {
        vela: "compiled for an Ethos-U NPU",
        text: "no TFLite file",
        cut: "damaged",
        image: "ONNX Runtime cannot run it",
        spotter / "int8.tflite": "no form that Kiln can decode for images of 64x64",
        detect_int8 / "int8.tflite": "with 1 class and 17 keypoints",
        pose_int8 / "int8.tflite": "accepted",
    }
    evaluation = pose_images / "evaluation"
    said = json.loads(run_script("export", REFUSE, evaluation, *files))
    for (file, words), message in zip(files.items(), said, strict=True):
        assert words in message
        assert message == "accepted" or file.name in message
    assert "outputs.npz" in said[0]


def test_a_model_of_another_size(
    pose_int8: Path, pose_images: Path, run_step: RunStep, tmp_path: Path
) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(pose_images / "evaluation", folder)
    np.save(folder / "images.npy", np.zeros((4, 96, 96, 3), np.uint8))
    inputs = {"int8.tflite": pose_int8 / "int8.tflite", "evaluation": folder}
    trial = run_step("evaluate", FRAME, inputs)
    assert trial.failure is not None
    assert trial.failure["kind"] == "model"
    assert f"it takes [1, {IMGSZ}, {IMGSZ}, 3]" in trial.failure["message"]
    assert "[1, 96, 96, 1 or 3]" in trial.failure["message"]


def test_what_detections_are_worth(run_script: RunScript) -> None:
    """Two images; the objects of the first are 100x100, the second is empty."""
    one, two = _object([0, 0, 100, 100]), _object([200, 0, 300, 100])
    hidden = _object([200, 0, 300, 100], visibility=0)
    unmarked = two | {"keypoints": None}
    right = [_seen(one, 0.9), _seen(two, 0.8)]
    moved = _seen(_object([10, 0, 110, 100]), 0.9)  # IoU 90 / 110: 7 of 10 thresholds
    # OKS 0.72, 5 of 10 thresholds: exp(-d² / (2 * 0.53 * 100² * (2 * 1/2)²))
    bent = _seen(one, 0.9, bent_by=np.sqrt(-np.log(0.72) * 2 * 5300))
    cases: dict[str, tuple[list[Any], list[Any], list[float | None], list[float | None]]] = {
        "perfect": ([one, two], [right, []], [1, 1], [1, 1]),
        "half": ([one, two], [right[:1], []], [51 / 101] * 2, [51 / 101] * 2),
        "nothing found": ([one, two], [[], []], [0, 0], [0, 0]),
        "nothing to find": ([], [right, []], [None] * 2, [None] * 2),
        "a false one first": ([one, two], [right, [_seen(one, 0.99)]], [2 / 3] * 2, [2 / 3] * 2),
        "moved": ([one], [[moved], []], [1, 0.7], [1, 1]),
        "bent": ([one], [[bent], []], [1, 1], [1, 0.5]),
        "hidden": ([one, hidden], [[right[0], _seen(two, 0.99)], []], [1, 1], [1, 1]),
        "unmarked": ([one, unmarked], [[right[0], _seen(two, 0.99)], []], [1, 1], [1, 1]),
        "the other class": ([one | {"class": 1}], [right[:1], []], [0, 0], [0, 0]),
    }
    given = json.dumps([(2, [truth, []], found) for truth, found, _, _ in cases.values()])
    worth = json.loads(run_script("export", MEASURE, given=given))
    for (name, (_, _, box, pose)), found in zip(cases.items(), worth, strict=True):
        assert found["box"] == pytest.approx(box), name
        assert found["pose"] == pytest.approx(pose), name


def _object(box: list[float], *, visibility: int = 2) -> dict[str, Any]:
    """An object of class 0 with keypoints in two corners of its box."""
    left, top, right, bottom = box
    points = [[left, top, visibility], [right, bottom, visibility]]
    return {"class": 0, "box": box, "keypoints": points}


def _seen(what: dict[str, Any], score: float, *, bent_by: float = 0) -> dict[str, Any]:
    """It, found; with every keypoint so many pixels to the left."""
    points = [[x - bent_by, y, 0.9] for x, y, _ in what["keypoints"]]
    return what | {"score": score, "keypoints": points}


def _quantize(run_step: RunStep, folder: Path, images: Path) -> None:
    """Add float32.tflite and int8.tflite to a folder that has model.onnx."""
    inputs = {"model.onnx": folder / "model.onnx", "calibration.npy": images}
    out = run_step("quantize", QUANTIZE, inputs).expect_success().out
    for name in ("float32.tflite", "int8.tflite"):
        shutil.copy(out / name, folder)


def _inputs(folder: Path, *, evaluation: Path | None = None) -> dict[str, Path]:
    names = ("model.onnx", "float32.tflite", "int8.tflite")
    return {name: folder / name for name in names} | {
        "evaluation": evaluation or folder / "evaluation"
    }


def _labels(spotter: Path) -> list[list[dict[str, Any]]]:
    truth = json.loads((spotter / "evaluation" / "truth.json").read_text(encoding="utf-8"))
    return [image["objects"] for image in truth["images"]]


def _evaluation(spotter: Path, folder: Path, objects: list[list[dict[str, Any]]]) -> Path:
    """The spotter's images, as often as there are labels for them."""
    images = np.load(spotter / "evaluation" / "images.npy")
    rounds = len(objects) // len(images)
    return write_evaluation(folder, np.concatenate([images] * rounds), objects)


def _evidence(trial: Trial) -> dict[str, Any]:
    text = (trial.expect_success().out / "evidence.json").read_text(encoding="utf-8")
    evidence: dict[str, Any] = json.loads(text)
    return evidence


def _timeless(trial: Trial) -> tuple[EvaluateResult, dict[str, Any]]:
    """The step's result without its timings, and its evidence."""
    return dataclasses.replace(trial.result, seconds={}), _evidence(trial)
