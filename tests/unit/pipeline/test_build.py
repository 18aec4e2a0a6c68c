"""The loop and the store: what runs, what is reused, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import (
    DataError,
    KilnError,
    NotAccepted,
    OutOfMemory,
    RequestError,
    StepCrashed,
    WeightsError,
)
from kiln.executors.events import Device, Failed, Problem, StepObserver
from kiln.executors.protocol import StepExit, StepRun
from kiln.paths import Paths
from kiln.pipeline.build import Build
from kiln.plan.plan import make_plan
from kiln.plan.request import (
    BuildRequest,
    EvaluationSettings,
    LimitSettings,
    QuantizeSettings,
    TrainSettings,
)
from kiln.plan.targets import load_target
from kiln.system import process
from stages.results.check_firmware import CheckFirmwareResult
from tests.support.checkout import ROOT
from tests.support.scripted_executor import (
    CONTENTS,
    OUTPUTS,
    RESULTS,
    Record,
    Script,
    ScriptedExecutor,
    finish,
    gives,
)

_CHECKED: CheckFirmwareResult = RESULTS["check-firmware"]
REFUSED = dataclasses.replace(
    _CHECKED,
    accepted=False,
    checks=(
        dataclasses.replace(
            _CHECKED.checks[0], figure="1171 KiB", ok=False, help="a smaller IMGSZ"
        ),
    ),
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(root=ROOT, home=tmp_path / "home", results=tmp_path / "build")


def _build(
    paths: Paths, executor: ScriptedExecutor, *, target: str = "grove-v2", **request: Any
) -> Build:
    # One after the other, so that it is told in which order they run.
    limits = request.pop("limits", LimitSettings(steps=1))
    wanted = BuildRequest(limits=limits, **request)
    plan = make_plan(wanted, load_target(ROOT / "targets", target))
    return Build(plan, paths, lambda: executor)


MADE = ["demo", "check", "frames", "train", "images", "onnx", "quantize", "compile"]
ALL_STEPS = [*MADE, "check-firmware", "outputs", "evaluate"]


def test_the_second_build_runs_nothing_and_gives_the_same_files(paths: Paths) -> None:
    executor = ScriptedExecutor()
    first = _build(paths, executor).run(Record())
    assert executor.ran == ALL_STEPS
    second_executor, record = ScriptedExecutor(), Record()
    second = _build(paths, second_executor).run(record)
    assert second_executor.ran == second_executor.prepared == []
    assert record.reused == ALL_STEPS
    assert any("nothing to do" in text for text in record.said)
    assert second.document() == first.document()


def test_the_result_folder_holds_the_models_their_sums_and_the_recipe(paths: Paths) -> None:
    result = _build(paths, ScriptedExecutor(), name="dog").run(Record())
    folder = paths.results / "grove-v2" / "dog"
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "build.json",
        "dog.onnx",
        "dog.safetensors",
        "dog_float32.tflite",
        "dog_full_integer_quant.tflite",
        "dog_full_integer_quant_vela.tflite",
        "report.html",
    ]
    document = json.loads((folder / "build.json").read_text())
    assert document["numbers"]["sram"]["used_kib"] == 294
    assert document["numbers"]["sram"]["limit_kib"] == 1110
    assert document["numbers"]["traffic"]["flash_bytes"] == 100
    assert document["numbers"]["accuracy"] == {
        "images": 4,
        "artifacts": {
            "trained": {"pose/map50": 0.8},
            "float32": {"pose/map50": 0.79},
            "int8": {"pose/map50": 0.78},
        },
        "drop": {"pose/map50": 1.0},
        "finds_nothing": False,
        "equal_to_int8": True,
    }
    assert document["evidence"]["curves"] == {"epoch": [1, 2], "box/map50": [0.25, None]}
    assert document["deployed"] == "dog_full_integer_quant_vela.tflite"
    assert result.numbers.sram.fits


def test_the_report_is_made_again_when_it_is_gone_or_the_build_is_another(
    paths: Paths,
) -> None:
    _build(paths, ScriptedExecutor(), name="dog").run(Record())
    report = paths.results / "grove-v2/dog/report.html"
    first = report.read_text(encoding="utf-8")
    report.unlink()
    _build(paths, ScriptedExecutor(), name="dog").run(Record())
    assert report.read_text(encoding="utf-8") == first
    quantize = QuantizeSettings(granularity="per-channel")
    _build(paths, ScriptedExecutor(), name="dog", quantize=quantize).run(Record())
    assert report.read_text(encoding="utf-8") != first


def test_a_model_that_the_firmware_refuses_fails_the_build_before_its_accuracy_is_measured(
    paths: Paths,
) -> None:
    executor = ScriptedExecutor()
    executor.scripts["check-firmware"] = gives("check-firmware", REFUSED)
    with pytest.raises(NotAccepted) as error:
        _build(paths, executor, name="dog").run(Record())
    assert error.value.message.splitlines() == [
        "SSCMA-Micro 1.0.x (2024-03) would not take this model:",
        "  ✕ tensor arena: 1171 KiB, limit 1110 KiB (a smaller IMGSZ)",
    ]
    assert "FORCE=1" in error.value.hint
    assert "evaluate" not in executor.ran
    assert not (paths.results / "grove-v2/dog").exists()
    again = ScriptedExecutor()
    result = _build(paths, again, name="dog", force=True).run(Record())
    assert again.ran == ["outputs", "evaluate"], "nothing that took time is made anew"
    assert (result.verdict.accepted, result.verdict.forced) == (False, True)


@pytest.mark.parametrize(
    ("images", "found", "words"),
    [
        (2, 0.78, ["pose mAP50-95 of the float network is 78.0", "was 80.0 in training"]),
        (2, 0.795, []),
        (1, 0.1, []),
    ],
    ids=["another figure", "the same but for ranking", "of some of the images"],
)
def test_a_float_network_that_is_judged_unlike_its_training_is_a_warning(
    paths: Paths, images: int, found: float, words: Sequence[str]
) -> None:
    metrics = {"pose/map50": 0.99, "pose/map50_95": 0.8}
    float32 = {"pose/map50": 0.5, "pose/map50_95": found}
    executor = ScriptedExecutor()
    executor.scripts = {
        "train": gives("train", dataclasses.replace(RESULTS["train"], metrics=metrics)),
        "evaluate": gives(
            "evaluate",
            dataclasses.replace(RESULTS["evaluate"], images=images, artifacts={"float32": float32}),
        ),
    }
    warnings = _build(paths, executor).run(Record()).warnings
    assert len(warnings) == bool(words)
    assert all(word in warnings[0].message for word in words)


def test_layers_are_shown_where_they_were_asked_for(paths: Paths) -> None:
    plain = _build(paths, ScriptedExecutor()).run(Record())
    executor = ScriptedExecutor()
    asked = _build(paths, executor, evaluation=EvaluationSettings(layers=True)).run(Record())
    assert executor.ran == ["layers"]
    assert plain.evidence.layers == ()
    assert [layer.name for layer in asked.evidence.layers] == ["conv"]


def test_another_target_reuses_all_it_can(paths: Paths) -> None:
    _build(paths, ScriptedExecutor()).run(Record())
    executor = ScriptedExecutor()
    result = _build(paths, executor, target="xiao-esp32s3").run(Record())
    images = ["images", "quantize"]  # its camera gives another kind of pixels
    assert executor.ran == [*images, "check-firmware", "evaluate"]
    assert result.numbers.estimated_ms is None


def test_a_changed_setting_runs_its_step_and_what_follows(paths: Paths) -> None:
    _build(paths, ScriptedExecutor()).run(Record())
    executor, record = ScriptedExecutor(), Record()
    quantize = QuantizeSettings(granularity="per-channel")
    _build(paths, executor, quantize=quantize).run(record)
    assert executor.ran == ["quantize", "compile", "check-firmware", "outputs", "evaluate"]
    assert executor.prepared == ["export", "vela"]
    assert record.why["quantize"] == 'granularity changed from "mixed" to "per-channel"'


def test_only_what_changed_is_named(paths: Paths) -> None:
    _build(paths, ScriptedExecutor()).run(Record())
    record = Record()
    _build(paths, ScriptedExecutor(), imgsz=256).run(record)
    changed = "its input int8.tflite changed, its input reference.npz changed"
    assert record.why["compile"] == changed


def test_a_step_that_gives_the_same_bytes_spares_what_follows(paths: Paths) -> None:
    first = ScriptedExecutor()
    first.constant = {"quantize"}
    _build(paths, first).run(Record())
    second = ScriptedExecutor()
    second.constant = {"quantize"}
    quantize = QuantizeSettings(granularity="per-channel")
    _build(paths, second, quantize=quantize).run(Record())
    assert second.ran == ["quantize"]


def test_steps_that_do_not_wait_for_each_other_run_at_the_same_time(paths: Paths) -> None:
    executor = ScriptedExecutor()
    met = threading.Barrier(2, timeout=60)

    def meet(run: StepRun, observe: StepObserver) -> StepExit:
        met.wait()
        return gives(run.step, RESULTS[run.step])(run, observe)

    executor.scripts = {"train": meet, "images": meet}
    result = _build(paths, executor, limits=LimitSettings(steps=2)).run(Record())
    assert [step.name for step in result.steps] == ALL_STEPS, "whatever was done first"


def test_the_first_failure_ends_what_runs_beside_it(paths: Paths) -> None:
    executor = ScriptedExecutor()
    ended = threading.Event()
    started = threading.Event()

    def long(run: StepRun, _observe: StepObserver) -> StepExit:
        try:
            argv = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]
            process.run(
                argv,
                env={},
                cwd=run.out,
                on_stdout=lambda _chunk: started.set(),
                on_stderr=lambda _line: None,
            )
        finally:
            ended.set()
        return StepExit(code=0)

    def fails(_run: StepRun, _observe: StepObserver) -> StepExit:
        assert started.wait(60)
        return StepExit(code=1)

    executor.scripts = {"train": long, "images": fails}
    with pytest.raises(StepCrashed, match="images ended with code 1"):
        _build(paths, executor, limits=LimitSettings(steps=2)).run(Record())
    assert ended.is_set()
    assert list((paths.store / "tmp").iterdir()) == []


def test_a_failure_keeps_what_was_finished(paths: Paths) -> None:
    executor = ScriptedExecutor()
    executor.scripts["quantize"] = lambda _run, _observe: StepExit(code=1)
    with pytest.raises(StepCrashed, match="quantize ended with code 1"):
        _build(paths, executor).run(Record())
    again = ScriptedExecutor()
    _build(paths, again).run(Record())
    assert again.ran == ["quantize", "compile", "check-firmware", "outputs", "evaluate"]


def test_half_written_outputs_of_a_failed_step_are_never_taken(paths: Paths) -> None:
    executor = ScriptedExecutor()

    def half(run: StepRun, _observe: StepObserver) -> StepExit:
        (run.out / "weights.safetensors").write_text("half")
        raise KeyboardInterrupt

    executor.scripts["train"] = half
    with pytest.raises(KeyboardInterrupt):
        _build(paths, executor).run(Record())
    assert list((paths.store / "tmp").iterdir()) == []
    again = ScriptedExecutor()
    _build(paths, again).run(Record())
    assert "train" in again.ran


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "entry"])
def test_a_damaged_entry_is_said_and_made_again(paths: Paths, damage: str) -> None:
    result = _build(paths, ScriptedExecutor()).run(Record())
    key = next(step.key for step in result.steps if step.name == "quantize")
    folder = paths.store / "entries" / key
    model = folder / "out" / "int8.tflite"
    content = model.read_bytes()
    model.chmod(0o644)
    match damage:
        case "flip":
            model.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "truncate":
            model.write_bytes(content[:-1])
        case "remove":
            model.unlink()
        case "entry":
            (folder / "entry.json").write_text("{}")
    executor, record = ScriptedExecutor(), Record()
    again = _build(paths, executor).run(record)
    assert executor.ran == ["quantize"]
    assert any("damaged" in said for said in record.said)
    assert again.files == result.files


def test_a_result_file_that_was_changed_is_laid_out_again(paths: Paths) -> None:
    result = _build(paths, ScriptedExecutor(), name="dog").run(Record())
    model = paths.results / "grove-v2/dog/dog.onnx"
    model.write_text("mine")
    _build(paths, ScriptedExecutor(), name="dog").run(Record())
    assert model.stat().st_size == result.files["dog.onnx"].bytes


def test_explain_says_why_and_changes_nothing(paths: Paths) -> None:
    before = _build(paths, ScriptedExecutor()).explain()
    assert [look.runs for look in before] == [True] * len(ALL_STEPS)
    assert before[0].why == "it has not run before"
    assert before[2].why == "needs what demo gives, which would run"
    assert not paths.store.exists()
    _build(paths, ScriptedExecutor()).run(Record())
    after = _build(paths, ScriptedExecutor(), imgsz=256).explain()
    assert [look.step for look in after if not look.runs] == ["demo", "check"]
    assert after[2].why == "imgsz changed from 192 to 256"


def _fails_with(kind: str, message: str, hint: str) -> Script:
    def fail(_run: StepRun, observe: StepObserver) -> StepExit:
        for number in range(23):
            observe(Problem(path="labels/a.txt", line=number, message="bad"))
        observe(Failed(kind=kind, message=message, hint=hint))
        return StepExit(code=3)

    return fail


def test_faults_of_the_data_are_listed_with_file_and_line(paths: Paths) -> None:
    executor = ScriptedExecutor()
    executor.scripts["check"] = _fails_with("data", message="23 faults", hint="mend them")
    with pytest.raises(DataError) as error:
        _build(paths, executor).run(Record())
    lines = error.value.message.splitlines()
    assert lines[0] == "23 faults"
    assert lines[2] == "  labels/a.txt:1: bad"
    assert lines[-1] == "  … and 13 more"
    assert error.value.log is not None
    assert error.value.log.is_file()


def test_a_step_killed_for_memory_says_what_to_do(paths: Paths) -> None:
    executor = ScriptedExecutor()
    executor.scripts["train"] = lambda _run, _observe: StepExit(code=137, oom_killed=True)
    with pytest.raises(OutOfMemory) as error:
        _build(paths, executor).run(Record())
    assert "BATCH" in error.value.hint


def test_two_classes_for_pose_stop_before_training(paths: Paths) -> None:
    executor = ScriptedExecutor()

    def two(run: StepRun, observe: StepObserver) -> StepExit:
        (run.out / "dataset.json").write_text("{}")
        return finish(observe, dataclasses.replace(RESULTS["check"], nc=2))

    executor.scripts["check"] = two
    with pytest.raises(KilnError, match="2 classes for pose"):
        _build(paths, executor).run(Record())
    assert "train" not in executor.ran


def test_a_gpu_that_the_engine_did_not_give_is_a_warning(paths: Paths) -> None:
    executor = ScriptedExecutor()

    def on_cpu(run: StepRun, observe: StepObserver) -> StepExit:
        for name in OUTPUTS["train"]:
            (run.out / name).write_text(CONTENTS.get(name, "trained"))
        observe(Device(kind="cpu", name="CPU"))
        return finish(observe, RESULTS["train"], gpu_requested=True)

    executor.scripts["train"] = on_cpu
    result = _build(paths, executor).run(Record())
    assert any("asked for a GPU" in warning.message for warning in result.warnings)


@pytest.mark.parametrize(
    ("request_", "weights", "sentence", "hint"),
    [
        (
            {"data": "coco8.yaml", "task": "detect"},
            {"task": "detect", "nc": 3, "kpt_shape": None},
            "do not fit the data set: they have 3 classes where the data set has 1",
            "pass EPOCHS=n to train them on this data set",
        ),
        (
            {"data": "coco8-pose.yaml"},
            {"nc": 2, "kpt_shape": (11, 3)},
            "they have 2 classes where the data set has 1 and 11 keypoints where",
            "correct names and kpt_shape in data.yaml",
        ),
        (
            {},
            {"kpt_shape": (11, 3)},
            "fit the demo data set: they have 11 keypoints where the data set has 17",
            "pass DATA=path/to/data.yaml",
        ),
        (
            {"task": "detect"},
            {"task": "detect", "nc": 80, "kpt_shape": None},
            "fit the demo data set: they have 80 classes where the data set has 1",
            "pass DATA=path/to/data.yaml",
        ),
    ],
)
def test_own_weights_that_do_not_fit_the_data_set_stop_before_anything_is_built(
    paths: Paths,
    tmp_path: Path,
    request_: dict[str, Any],
    weights: dict[str, Any],
    sentence: str,
    hint: str,
) -> None:
    own = tmp_path / "best.pt"
    own.write_bytes(b"weights")
    executor = ScriptedExecutor()
    executor.scripts = {
        "fetch-data": gives("fetch-data", RESULTS["fetch-data"]),
        "import": gives("import", dataclasses.replace(RESULTS["import"], **weights)),
    }
    with pytest.raises(WeightsError, match=sentence) as error:
        _build(paths, executor, weights=str(own), force=True, **request_).run(Record())
    assert hint in error.value.hint
    assert not {"quantize", "compile", "evaluate"} & {*executor.ran}


def test_own_weights_that_are_trained_further_may_have_another_head(
    paths: Paths, tmp_path: Path
) -> None:
    own = tmp_path / "best.pt"
    own.write_bytes(b"weights")
    executor = ScriptedExecutor()
    imported = dataclasses.replace(RESULTS["import"], kpt_shape=(11, 3))
    executor.scripts = {"import": gives("import", imported)}
    train = TrainSettings(epochs=1)
    _build(paths, executor, weights=str(own), train=train).run(Record())
    assert "train" in executor.ran


def test_a_skeleton_that_joins_what_is_not_there_stops_before_anything_is_built(
    paths: Paths,
) -> None:
    executor = ScriptedExecutor()
    with pytest.raises(RequestError, match="joins keypoint 17, and there are keypoints 0 to 16"):
        _build(paths, executor, skeleton=((0, 1), (16, 17))).run(Record())
    assert "train" not in executor.ran


def test_a_data_set_of_poses_is_no_mismatch_for_detection_weights(
    paths: Paths, tmp_path: Path
) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"weights")
    executor = ScriptedExecutor()
    executor.scripts = {
        "fetch-data": gives("fetch-data", RESULTS["fetch-data"]),
        "check": gives("check", RESULTS["check"]),
        "import": gives("import", dataclasses.replace(RESULTS["import"], kpt_shape=None)),
    }
    request = {"weights": str(weights), "data": "coco8-pose.yaml", "task": "detect"}
    assert not _build(paths, executor, **request).run(Record()).warnings
