"""The demo and train steps: what they draw, what they learn, and what an interruption costs."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stages.results.train import TrainResult
from tests.support import fixtures
from tests.support.fixtures import EnvPython, RunStep, tree
from tests.support.resumable_job import ResumableJob

TINY = {"task": "pose", **fixtures.TINY}
#: The images and labels of {"train": 3, "val": 1, "seed": 7}. They must come out the same on
#: every host: the weights trained on them are compared between hosts.
DRAWN = {
    "pose": "b9adc45de6e7f1ec9395a61dbd9b26c95dfdd7cf8d529851f825ce473cc7a814",
    "detect": "504dd73325878fea4b4d2f62493ec2bab9ce1eea3e072244581338cdcf335d4f",
}


@pytest.mark.parametrize("task", ["pose", "detect"])
def test_demo_draws_the_same_bytes_on_every_host(run_step: RunStep, task: str) -> None:
    params = {"task": task, "train": 3, "val": 1, "seed": 7}
    drawn = run_step("demo", params, {}).expect_success()
    assert tree(drawn.out / "data").digest == DRAWN[task]


def test_another_seed_draws_other_images(run_step: RunStep) -> None:
    params = {"task": "pose", "train": 3, "val": 1, "seed": 8}
    drawn = run_step("demo", params, {}).expect_success()
    assert tree(drawn.out / "data").digest != DRAWN["pose"]


def test_every_demo_image_shows_someone_with_17_keypoints(pose_data: Path) -> None:
    for rows in _labels(pose_data):
        assert rows
        for row in rows:
            x, y, width, height = row[1:5]
            points = [row[number : number + 3] for number in range(5, len(row), 3)]
            assert len(points) == 17
            assert sum(point[2] == 2 for point in points) >= 3
            for px, py, visibility in points:
                assert visibility in (0, 1, 2)
                if visibility == 2:
                    # What is seen lies in the box, but for the half thickness of a limb.
                    assert abs(px - x) <= width / 2 + 0.02
                    assert abs(py - y) <= height / 2 + 0.02


def test_demo_shapes_are_of_several_classes(detect_data: Path) -> None:
    seen = {int(row[0]) for rows in _labels(detect_data) for row in rows}
    assert seen == {0, 1, 2, 3, 4}
    assert json.loads((detect_data / "dataset.json").read_text())["nc"] == 5


def test_equal_trainings_give_equal_bytes(
    run_step: RunStep, pose_frames: Path, pose_weights: Path
) -> None:
    before = tree(pose_frames / "data").digest
    again = run_step("train", TINY, _inputs(pose_frames)).expect_success()
    assert tree(again.out).digest == tree(pose_weights).digest
    assert sorted(path.name for path in again.out.iterdir()) == [
        "curves.csv",
        "weights.safetensors",
    ]
    assert tree(pose_frames / "data").digest == before, "a step wrote beside the user's images"


@pytest.mark.slow
def test_a_training_reports_each_epoch(
    env_python: EnvPython, tmp_path: Path, detect_data: Path
) -> None:
    params = {
        **TINY,
        "task": "detect",
        "epochs": 2,
        "reproducible": False,
        "overrides": {"optimizer": "SGD", "lr0": 0.005},
    }
    ended = ResumableJob(
        env_python("train"), tmp_path / "job", "train", params, _inputs(detect_data)
    ).run()
    metrics = {(e["name"], e["at"]) for e in ended.events if e["event"] == "metric"}
    assert {("train/box_loss", 1), ("box/map50", 1), ("box/map50", 2)} <= metrics
    device = next(event for event in ended.events if event["event"] == "device")
    assert device["kind"] == "cpu"
    assert ended.result.epochs_run == 2
    assert ended.result.reproducible is False
    assert ended.result.why_not == "thread count follows the cores"
    assert set(ended.result.metrics) == {
        f"box/{name}" for name in ("precision", "recall", "map50", "map50_95")
    }
    curves = (tmp_path / "job" / "out" / "curves.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curves] == ["epoch", "1", "2"]


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_weights(
    env_python: EnvPython, tmp_path: Path, pose_data: Path
) -> None:
    # Mosaics until the last epoch: they are made of images that the loader remembers.
    params = {**TINY, "epochs": 3, "overrides": {"close_mosaic": 1}}
    python = env_python("train")
    undisturbed = ResumableJob(
        python, tmp_path / "undisturbed", "train", params, _inputs(pose_data)
    )
    assert undisturbed.run().result.resumed_from is None

    job = ResumableJob(python, tmp_path / "disturbed", "train", params, _inputs(pose_data))
    assert job.run(end_with=signal.SIGKILL, after=1).code == -signal.SIGKILL
    assert job.run(end_with=signal.SIGTERM, after=2).code == 143
    assert job.run().result.resumed_from == 2
    assert tree(job.folder / "out").digest == tree(undisturbed.folder / "out").digest

    # Ended between its last epoch and the writing of the results: there is nothing to train.
    assert job.run().result.epochs_run == 3
    assert tree(job.folder / "out").digest == tree(undisturbed.folder / "out").digest


def test_a_training_that_diverges_says_so(run_step: RunStep, pose_data: Path) -> None:
    overrides = {"optimizer": "SGD", "lr0": 1.0, "warmup_epochs": 0.0, "pose": 1e39}
    failure = run_step("train", {**TINY, "overrides": overrides}, _inputs(pose_data)).failure
    assert failure is not None
    assert failure["kind"] == "request"
    assert "the training diverged" in failure["message"]
    assert "lr0" in failure["hint"]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_a_warning(
    env_python: EnvPython, tmp_path: Path, pose_frames: Path, pose_weights: Path
) -> None:
    job = ResumableJob(env_python("train"), tmp_path / "job", "train", TINY, _inputs(pose_frames))
    (job.folder / "state").mkdir()
    for name in ("last.pt", "best.safetensors"):
        (job.folder / "state" / name).write_bytes(b"half a")
    ended = job.run()
    warnings = [e["message"] for e in ended.events if e["event"] == "warning"]
    assert any("checkpoint cannot be read" in message for message in warnings)
    assert tree(job.folder / "out").digest == tree(pose_weights).digest


@pytest.mark.slow
def test_start_weights_are_taken_over(
    run_step: RunStep, pose_data: Path, pose_weights: Path
) -> None:
    inputs = {**_inputs(pose_data), "weights.safetensors": pose_weights / "weights.safetensors"}
    result: TrainResult = run_step("train", TINY, inputs).expect_success().result
    assert result.tensors_taken_over is not None
    taken, of = result.tensors_taken_over
    assert taken == of > 300


@pytest.mark.slow
def test_start_weights_of_other_keypoints_give_all_but_the_head(
    run_step: RunStep, pose_data: Path, pose_weights: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(pose_data, tmp_path / "pose")
    for label in (data / "data/labels").rglob("*.txt"):
        lines = [line.split()[: 5 + 2 * 3] for line in label.read_text().splitlines()]
        label.write_text("".join(" ".join(line) + "\n" for line in lines))
    description = data / "dataset.json"
    table = json.loads(description.read_text("utf-8"))
    table |= {"kpt_shape": [2, 3], "label_kpt_shape": [2, 3], "flip_idx": None}
    description.write_text(json.dumps(table), encoding="utf-8")
    inputs = {**_inputs(data), "weights.safetensors": pose_weights / "weights.safetensors"}
    trial = run_step("train", TINY, inputs).expect_success()
    taken, of = trial.result.tensors_taken_over
    assert 300 < taken < of
    said = [each["message"] for each in trial.warnings]
    assert (
        "part of the head is new: the weights have 17 keypoints and the data set 2; "
        f"{taken} of {of} tensors come from the start weights"
    ) in said


def test_start_weights_of_the_other_task_are_refused(
    run_step: RunStep, detect_data: Path, pose_weights: Path
) -> None:
    inputs = {**_inputs(detect_data), "weights.safetensors": pose_weights / "weights.safetensors"}
    failure = run_step("train", {**TINY, "task": "detect"}, inputs).failure
    assert failure is not None
    assert failure["kind"] == "weights"
    assert "a pose model, and a detect model is wanted" in failure["message"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"overrides": {"mosiac": 0.0}}, "request", "did you mean 'mosaic'?"),
        ({"overrides": {"imgsz": 320}}, "request", "IMGSZ="),
        ({"overrides": {"format": "onnx"}}, "request", "has no effect on a training"),
        ({"overrides": {"lr0": 0.1}}, "request", "set optimizer too"),
        ({"overrides": {"mosaic": "much"}}, "request", "mosaic=much"),
        ({"gpu": "required"}, "device", "torch sees none"),
    ],
)
def test_what_cannot_be_is_refused(
    run_step: RunStep, pose_data: Path, change: dict[str, Any], kind: str, words: str
) -> None:
    trial = run_step("train", {**TINY, **change}, _inputs(pose_data))
    if kind == "device" and trial.code == 0:
        pytest.skip("there is a GPU here")
    assert trial.failure is not None
    assert trial.failure["kind"] == kind
    assert words in f"{trial.failure['message']} {trial.failure['hint']}"


def _inputs(data: Path) -> dict[str, Path]:
    return {"data": data / "data", "dataset.json": data / "dataset.json"}


def _labels(data: Path) -> Iterable[list[list[float]]]:
    for path in sorted((data / "data" / "labels").rglob("*.txt")):
        yield [[float(word) for word in line.split()] for line in path.read_text().splitlines()]
