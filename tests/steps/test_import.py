"""The import step on real checkpoints of ultralytics, and on what people take for one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from stages.results.import_weights import ImportResult
from tests.support.checkout import ROOT
from tests.support.fixtures import EnvPython, RunScript, RunStep, Trial
from tests.support.shared_results import IMGSZ

#: Run in the train environment: train for an epoch as a user would, and spoil what comes out.
_CHECKPOINTS = """
import os, shutil, sys
from pathlib import Path
import stages.train.ultralytics_env
import torch, yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, PoseModel, SegmentationModel, yaml_model_load

folder, data, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
table = yaml.safe_load((data / "data.yaml").read_text()) | {"path": str(data)}
(folder / "own.yaml").write_text(yaml.safe_dump(table))
model = YOLO("yolov8n-pose.yaml")
model.add_callback("on_model_save", lambda run: shutil.copy(run.last, folder / "last.pt"))
model.train(
    data=str(folder / "own.yaml"), imgsz=size, epochs=1, batch=4, device="cpu", workers=0,
    plots=False, project=str(folder / "runs"), name="x", amp=False, mosaic=0,
)
os.rename(folder / "runs/x/weights/best.pt", folder / "best.pt")
best = torch.load(folder / "best.pt", weights_only=False)
last = torch.load(folder / "last.pt", weights_only=False)
assert last["optimizer"] and last["ema"] and not last["model"]
torch.save({"state_dict": best["model"].state_dict()}, folder / "bare.pt")

class Code:
    def __reduce__(self):
        return os.system, (f"touch {folder}/ran",)

torch.save({**best, "more": Code()}, folder / "code.pt")

def save(name, model, classes):
    model.names = {number: str(number) for number in range(classes)}
    torch.save({**best, "model": model.half()}, folder / name)

save("fused.pt", torch.load(folder / "best.pt", weights_only=False)["model"].float().fuse(), 1)
changed = PoseModel("yolov8n-pose.yaml", verbose=False)
changed.model[0].act = torch.nn.ReLU()
save("changed.pt", changed, 1)
save("detect.pt", DetectionModel("yolov8n.yaml", nc=3, verbose=False), 3)
save("segment.pt", SegmentationModel("yolov8n-seg.yaml", nc=3, verbose=False), 3)
save("yolo11.pt", DetectionModel("yolo11n.yaml", nc=3, verbose=False), 3)
spoilt = DetectionModel("yolov8n.yaml", nc=3, verbose=False)
spoilt.model[0].conv.weight.data[0] = float("inf")
save("spoilt.pt", spoilt, 3)
widened = DetectionModel("yolov8n.yaml", nc=5, verbose=False)
widened.load(DetectionModel("yolov8n.yaml", nc=80, verbose=False), verbose=False)
assert widened.model[-1].cv3[0][0].conv.out_channels == 80
save("widened.pt", widened, 5)

def relu(nc):
    table = {**yaml_model_load("yolov8n.yaml"), "activation": "torch.nn.ReLU()"}
    return DetectionModel(table, nc=nc, verbose=False)

for name, start in (("relu.pt", relu(80)), ("mixed.pt", DetectionModel("yolov8n.yaml", nc=80))):
    started = relu(5)
    started.load(start, verbose=False)
    save(name, started, 5)
script = torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8))
torch.jit.save(script, folder / "script.pt")
"""

#: Run in the train environment: does the canonical file compute what the checkpoint computes?
_COMPARE = """
import sys
from pathlib import Path
from stages.train.weights import checkpoint
import torch
from ultralytics.nn.tasks import load_checkpoint
ours, meta = checkpoint.load(Path(sys.argv[1]))
theirs, _checkpoint = load_checkpoint(sys.argv[2])
images = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    print(float((ours(images)[0] - theirs(images)[0]).abs().max()), meta.names, meta.imgsz)
"""

#: Run in the train environment: the step itself on many files, for starting it takes seconds.
_REFUSALS = """
import io, json, shutil, sys, tempfile
from pathlib import Path
from stages.contract import Events, Job, StepFailed
from stages.train import import_weights
said = {}
for path, task in json.loads(sys.argv[1]):
    folder = Path(tempfile.mkdtemp())
    for name in ("in", "out", "state"):
        (folder / name).mkdir()
    shutil.copy(path, folder / "in/weights.pt")
    job = Job(step="import", params={"task": task, "trust": False}, folder=folder)
    try:
        import_weights.run(job, Events(io.StringIO()))
    except StepFailed as error:
        said[Path(path).name] = [error.kind, error.message, error.hint]
print(json.dumps(said))
"""

Import = Callable[..., Trial]
Refusals = Mapping[str, tuple[str, str, str]]

#: A checkpoint, the task that was asked for, the kind of the failure and a part of what it says.
NETWORKS = [
    ("best.pt", "detect", "weights", "are of a pose network, and TASK=detect"),
    ("segment.pt", "detect", "weights", "are of a SegmentationModel"),
    ("yolo11.pt", "detect", "weights", "not of the YOLOv8 family"),
    ("bare.pt", "pose", "weights", "bare tensors"),
    ("fused.pt", "pose", "weights", "are fused"),
    ("changed.pt", "pose", "weights", "model.0 has another activation"),
    ("mixed.pt", "detect", "weights", "model.22.cv3.0.0 has another activation"),
    ("spoilt.pt", "detect", "weights", "not finite"),
    ("script.pt", "pose", "weights", "TorchScript"),
    ("code.pt", "pose", "weights", "would run code: they ask for posix.system"),
]

#: What people pass by mistake, and a part of what is said to it.
FILES = [
    ("empty.pt", b"", "is empty"),
    ("page.pt", b"<!DOCTYPE html><html>not found</html>", "a web page"),
    ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ("onnx.pt", b"\x08\x07\x12\x07pytorch" * 9, "an ONNX model"),
    ("tflite.pt", b"\x1c\0\0\0TFL3" * 9, "a TFLite model"),
    ("other.pt", b"something else entirely", "no checkpoint of PyTorch"),
]


@pytest.fixture(scope="module")
def checkpoints(
    run_script: RunScript, pose_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    data = shutil.copytree(pose_data / "data", folder / "data")
    run_script("train", _CHECKPOINTS, folder, data, str(IMGSZ))
    return folder


@pytest.fixture(scope="module")
def take(run_step: RunStep) -> Import:
    def take(path: Path, *, task: str = "pose", trust: bool = False, **more: str) -> Trial:
        name = "weights.safetensors" if path.suffix == ".safetensors" else "weights.pt"
        return run_step("import", {"task": task, "trust": trust, **more}, {name: path})

    return take


@pytest.fixture(scope="module")
def imported(take: Import, checkpoints: Path) -> Trial:
    return take(checkpoints / "best.pt").expect_success()


def test_a_checkpoint_of_ultralytics_is_taken_without_running_its_code(imported: Trial) -> None:
    assert imported.result.versions.keys() == {"ultralytics", "torch"}
    parameters = imported.result.parameters
    assert 3_000_000 < parameters < 3_500_000
    assert imported.result == ImportResult(
        task="pose",
        nc=1,
        names=("person",),
        kpt_shape=(17, 3),
        model="yolov8n-pose",
        parameters=parameters,
        versions=imported.result.versions,
    )
    assert not imported.warnings


def test_a_checkpoint_of_an_unfinished_training_is_taken(take: Import, checkpoints: Path) -> None:
    """It holds the optimiser as well, and its network under another key."""
    assert not take(checkpoints / "last.pt").expect_success().warnings


def test_the_imported_network_is_the_original(
    imported: Trial, checkpoints: Path, run_script: RunScript
) -> None:
    ours = imported.out / "weights.safetensors"
    said = run_script("train", _COMPARE, ours, checkpoints / "best.pt")
    difference, rest = said.split(maxsplit=1)
    assert float(difference) < 1e-4
    assert rest.strip() == f"('person',) {IMGSZ}"


def test_a_class_branch_wider_than_its_yaml_says_is_kept(
    take: Import, checkpoints: Path, run_script: RunScript
) -> None:
    """As it is in most weights that were trained on from COCO's 80 classes."""
    widened = checkpoints / "widened.pt"
    ours = take(widened, task="detect").expect_success().out / "weights.safetensors"
    said = run_script("train", _COMPARE, ours, widened)
    assert float(said.split()[0]) < 1e-4


def test_a_network_keeps_the_activation_that_its_yaml_names(
    take: Import, checkpoints: Path, run_script: RunScript
) -> None:
    """Its class branch, which is wider than the yaml says, as well."""
    trial = take(checkpoints / "relu.pt", task="detect", activation="relu").expect_success()
    assert trial.result.model == "yolov8n-relu"
    ours = trial.out / "weights.safetensors"
    said = run_script("train", _COMPARE, ours, checkpoints / "relu.pt")
    assert float(said.split()[0]) < 1e-4


def test_weights_of_another_activation_than_asked_for_are_refused(
    take: Import, checkpoints: Path
) -> None:
    failure = take(checkpoints / "best.pt", activation="relu").failure
    assert failure is not None
    assert failure["kind"] == "weights"
    assert "activation is silu, and MODEL asks for relu" in failure["message"]
    assert "EPOCHS=n" in failure["hint"]


def test_our_own_weights_pass_unchanged(take: Import, imported: Trial) -> None:
    ours = imported.out / "weights.safetensors"
    again = take(ours).expect_success().out / "weights.safetensors"
    assert again.read_bytes() == ours.read_bytes()


@pytest.fixture(scope="module")
def refusals(checkpoints: Path, run_script: RunScript) -> Refusals:
    """What the step said to each file: kind, message, hint."""
    best = (checkpoints / "best.pt").read_bytes()
    flipped = bytearray(best)
    flipped[len(best) // 2] ^= 0xFF
    (checkpoints / "cut.pt").write_bytes(best[: len(best) // 2])
    (checkpoints / "flipped.pt").write_bytes(flipped)
    for name, content, _message in FILES:
        (checkpoints / name).write_bytes(content)
    asked = [(name, task) for name, task, _kind, _message in NETWORKS]
    asked += [(name, "pose") for name in ("cut.pt", "flipped.pt", *(each[0] for each in FILES))]
    paths = json.dumps([[str(checkpoints / name), task] for name, task in asked])
    said: Refusals = json.loads(run_script("train", _REFUSALS, paths))
    assert not (checkpoints / "ran").exists()
    return said


@pytest.mark.parametrize(("name", "task", "kind", "message"), NETWORKS)
def test_what_cannot_be_exported_is_refused(
    refusals: Refusals, name: str, task: str, kind: str, message: str
) -> None:
    found_kind, found_message, hint = refusals[name]
    assert found_kind == kind, task
    assert message in found_message
    assert hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, message) for name, _content, message in FILES),
        ("cut.pt", "cut short"),
        ("flipped.pt", "damaged: the checksum"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    refusals: Refusals, name: str, message: str
) -> None:
    kind, found, _hint = refusals[name]
    assert kind == "weights"
    assert message in found


def test_code_in_weights_runs_only_when_trusted(take: Import, checkpoints: Path) -> None:
    trial = take(checkpoints / "code.pt", trust=True).expect_success()
    assert any("posix.system" in each["message"] for each in trial.warnings)
    (checkpoints / "ran").unlink()


def test_a_container_is_trust_enough(
    checkpoints: Path, env_python: EnvPython, tmp_path: Path
) -> None:
    """The docker executor says so by a variable, for parameters are the same in both."""
    (tmp_path / "in").mkdir()
    shutil.copy(checkpoints / "code.pt", tmp_path / "in/weights.pt")
    job = '{"contract":1,"step":"import","params":{"task":"pose","trust":false}}'
    (tmp_path / "job.json").write_text(job)
    subprocess.run(
        [env_python("train"), "-m", "stages.train.import_weights", tmp_path],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "KILN_SANDBOXED": "1", "TMPDIR": str(tmp_path)},
    )
    (checkpoints / "ran").unlink()


def test_a_damaged_file_of_ours_is_refused(
    take: Import, pose_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((pose_weights / "weights.safetensors").read_bytes()[:100_000])
    trial = take(path)
    assert trial.failure is not None
    assert trial.failure["kind"] == "weights"
    assert "cannot be read as safetensors" in trial.failure["message"]
