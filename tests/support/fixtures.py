"""Runs real steps in real environments, and a tiny chain of them that tests share."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import EnvironmentBroken
from kiln.executors.environments import ENVIRONMENT_NAMES, EnvironmentName, load_environment
from kiln.executors.events import Finished, LogLine, StepEvent
from kiln.executors.local.executor import LocalExecutor
from kiln.executors.protocol import StepRun
from kiln.store.tree import File, Tree, hash_file, tree_of
from tests.support.checkout import HOME, ROOT
from tests.support.user import User

#: Step: its environment and module.
STEPS: Mapping[str, tuple[EnvironmentName, str]] = {
    "demo": ("train", "demo"),
    "fetch": ("train", "fetch"),
    "check": ("train", "check"),
    "import": ("train", "import_weights"),
    "train": ("train", "train"),
    "images": ("train", "images"),
    "onnx": ("train", "onnx"),
    "quantize": ("export", "quantize"),
    "compile": ("vela", "compile"),
    "reference": ("export", "reference"),
    "check-firmware": ("vela", "check_firmware"),
    "evaluate": ("export", "evaluate"),
    "layers": ("export", "layers"),
    "tflm-outputs": ("vela", "tflm_outputs"),
    "emulator-frames": ("export", "emulator_frames"),
}
IMGSZ = 64
#: A training that is over in seconds; its task is the test's.
TINY: Mapping[str, Any] = {
    "model": "yolov8n",
    "imgsz": IMGSZ,
    "epochs": 1,
    "batch": 4,
    "seed": 0,
    "gpu": "none",
    "reproducible": True,
    "overrides": {},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How a step ended: exit code, all events, its result or failure, warnings, out/ and log."""

    code: int
    events: list[dict[str, Any]]
    out: Path
    log: list[str]

    @property
    def result(self) -> dict[str, Any] | None:
        return next((e["result"] for e in self.events if e["event"] == "finished"), None)

    @property
    def failure(self) -> dict[str, Any] | None:
        return next((e for e in self.events if e["event"] == "failed"), None)

    @property
    def warnings(self) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == "warning"]

    @property
    def problems(self) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == "problem"]

    def expect_success(self) -> Trial:
        """Fail the test with the step's own words unless it ended well."""
        if self.code != 0:
            tail = "\n".join(self.log[-40:])
            pytest.fail(f"step ended with {self.code}: {self.failure}\n{tail}", pytrace=False)
        return self


RunStep = Callable[[str, Mapping[str, Any], Mapping[str, Path]], Trial]


class Recorder:
    """An observer of a step that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[StepEvent] = []
        self.lines: list[str] = []

    def __call__(self, event: StepEvent) -> None:
        if isinstance(event, LogLine):
            self.lines.append(event.text)
        else:
            self.events.append(event)

    @property
    def result(self) -> Any:
        """What the step gave as its result; fails the test if it did not finish."""
        last = self.events[-1] if self.events else None
        assert isinstance(last, Finished), [*self.events, *self.lines]
        return last.result


def tree(path: Path) -> Tree:
    """Hash a file or folder."""
    paths = {"": path} if path.is_file() else {}
    if path.is_dir():
        paths = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    assert paths, f"{path} is not there or empty"
    return tree_of(
        {
            name: File(path=each, sha256=hash_file(each), size=each.stat().st_size)
            for name, each in paths.items()
        }
    )


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """What runs in the test may use a single processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="session")
def local_executor(tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    return LocalExecutor(root=ROOT, home=HOME, logs=tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def env_python(local_executor: LocalExecutor) -> Callable[[EnvironmentName], Path]:
    """The interpreter of an environment by its name; makes the environment if it is missing."""

    def python(name: EnvironmentName) -> Path:
        environment = load_environment(ROOT, name)
        try:
            local_executor.prepare([environment], print)
        except EnvironmentBroken as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no {name} environment: {error}")
        return local_executor.python(environment)

    return python


@pytest.fixture(scope="session")
def environments(env_python: Callable[[EnvironmentName], Path]) -> Path:
    """The stage environments, all made."""
    for name in ENVIRONMENT_NAMES:
        env_python(name)
    return HOME / "envs"


@pytest.fixture
def user(tmp_path: Path, environments: Path) -> User:
    return User(tmp_path, environments)


@pytest.fixture(scope="session")
def run_step(
    local_executor: LocalExecutor,
    env_python: Callable[[EnvironmentName], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunStep:
    """Run one step on files or folders of this host."""

    def run(step: str, params: Mapping[str, Any], inputs: Mapping[str, Path]) -> Trial:
        environment, module = STEPS[step]
        env_python(environment)
        out = tmp_path_factory.mktemp(step)
        recorder = Recorder()
        job = StepRun(
            key=f"test-{uuid.uuid4().hex}",
            step=step,
            module=f"stages.{environment}.{module}",
            environment=load_environment(ROOT, environment),
            params=params,
            inputs={name: tree(path) for name, path in inputs.items()},
            out=out,
            network=step == "fetch",
        )
        with local_executor.run(job, recorder) as ended:
            events = [_document(event) for event in recorder.events]
            return Trial(code=ended.code, events=events, out=out, log=recorder.lines)

    return run


def _document(event: StepEvent) -> dict[str, Any]:
    """An event as the step wrote it."""
    return {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}


@pytest.fixture(scope="session")
def pose_data(run_step: RunStep) -> Path:
    return _data(run_step, "pose")


@pytest.fixture(scope="session")
def detect_data(run_step: RunStep) -> Path:
    return _data(run_step, "detect")


@pytest.fixture(scope="session")
def pose_weights(run_step: RunStep, pose_data: Path) -> Path:
    return _weights(run_step, "pose", pose_data)


@pytest.fixture(scope="session")
def detect_weights(run_step: RunStep, detect_data: Path) -> Path:
    return _weights(run_step, "detect", detect_data)


@pytest.fixture(scope="session")
def pose_onnx(run_step: RunStep, pose_weights: Path) -> Path:
    return _onnx(run_step, pose_weights)


@pytest.fixture(scope="session")
def detect_onnx(run_step: RunStep, detect_weights: Path) -> Path:
    return _onnx(run_step, detect_weights)


@pytest.fixture(scope="session")
def pose_pictures(run_step: RunStep, pose_data: Path) -> Path:
    return _pictures(run_step, pose_data)


@pytest.fixture(scope="session")
def detect_pictures(run_step: RunStep, detect_data: Path) -> Path:
    return _pictures(run_step, detect_data)


@pytest.fixture(scope="session")
def pose_int8(run_step: RunStep, pose_onnx: Path, pose_pictures: Path) -> Path:
    return _int8(run_step, pose_onnx, pose_pictures)


@pytest.fixture(scope="session")
def detect_int8(run_step: RunStep, detect_onnx: Path, detect_pictures: Path) -> Path:
    return _int8(run_step, detect_onnx, detect_pictures)


def _data(run_step: RunStep, task: str) -> Path:
    """``data/`` and ``dataset.json`` side by side, as the demo and check steps give them."""
    params = {"task": task, "train": 8, "val": 4, "seed": 0}
    out = run_step("demo", params, {}).expect_success().out
    checked = run_step("check", {"task": task}, {"data": out / "data"}).expect_success()
    shutil.copy(checked.out / "dataset.json", out)
    return out


def _weights(run_step: RunStep, task: str, data: Path) -> Path:
    inputs = {"data": data / "data", "dataset.json": data / "dataset.json"}
    return run_step("train", {"task": task, **TINY}, inputs).expect_success().out


def _onnx(run_step: RunStep, weights: Path) -> Path:
    inputs = {"weights.safetensors": weights / "weights.safetensors"}
    return run_step("onnx", {"imgsz": IMGSZ}, inputs).expect_success().out


def _pictures(run_step: RunStep, data: Path) -> Path:
    params = {"imgsz": IMGSZ, "calibration": 4, "evaluation": 4, "letterbox": False}
    inputs = {"data": data / "data", "dataset.json": data / "dataset.json"}
    return run_step("images", params, inputs).expect_success().out


def _int8(run_step: RunStep, exported: Path, pictures: Path) -> Path:
    inputs = {
        "model.onnx": exported / "model.onnx",
        "calibration.npy": pictures / "calibration.npy",
    }
    params = {"granularity": "per-tensor", "order": None}
    return run_step("quantize", params, inputs).expect_success().out
