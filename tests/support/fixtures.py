"""Real steps in real environments, and a tiny build whose results tests share."""

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
from kiln.executors.protocol import StepRun
from kiln.plan.request import Task
from kiln.plan.step_results import read_result
from kiln.store.tree import File, Tree, hash_file, tree_of
from tests.support.checkout import HOME, ROOT
from tests.support.forking import ForkingExecutor
from tests.support.shared_results import IMGSZ, SharedResults
from tests.support.user import User

#: Step: its environment and module; with -classes those of the same step for classify.
STEPS: Mapping[str, tuple[EnvironmentName, str]] = {
    "demo": ("train", "demo"),
    "fetch-data": ("train", "fetch"),
    "fetch-weights": ("train", "fetch"),
    "check": ("train", "check"),
    "check-classes": ("train", "check_classes"),
    "import": ("train", "import_weights"),
    "frames": ("train", "frames"),
    "frames-classes": ("train", "frames_classes"),
    "train": ("train", "train"),
    "images": ("train", "images"),
    "images-classes": ("train", "images_classes"),
    "onnx": ("train", "onnx"),
    "quantize": ("export", "quantize"),
    "graph": ("export", "graph"),
    "finetune": ("train", "finetune"),
    "requantize": ("export", "requantize"),
    "compile": ("vela", "compile"),
    "reference": ("export", "reference"),
    "check-firmware": ("vela", "check_firmware"),
    "evaluate": ("export", "evaluate"),
    "evaluate-classes": ("export", "evaluate_classes"),
    "layers": ("export", "layers"),
    "difference": ("export", "difference"),
    "outputs": ("vela", "outputs"),
    "emulator-frames": ("export", "emulator_frames"),
    "emulator-frames-classes": ("export", "emulator_frames_classes"),
}
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

    step: str
    code: int
    events: list[dict[str, Any]]
    out: Path
    log: list[str]

    @property
    def result(self) -> Any:
        """The step's own record of its result."""
        finished = next(e for e in self.events if e["event"] == "finished")
        name = self.step.removesuffix("-classes")
        return read_result(name, finished["result"], f"the step {self.step}")

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


EnvPython = Callable[[EnvironmentName], Path]
RunStep = Callable[[str, Mapping[str, Any], Mapping[str, Path]], Trial]
#: Environment, code, arguments; ``given`` on stdin. What the code prints.
RunScript = Callable[..., str]


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
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkingExecutor]:
    executor = ForkingExecutor(home=HOME, folder=tmp_path_factory.mktemp("executor"))
    yield executor
    executor.stop()


@pytest.fixture(scope="session")
def env_python(executor: ForkingExecutor) -> EnvPython:
    """The interpreter of an environment by its name; makes the environment if it is missing."""

    def python(name: EnvironmentName) -> Path:
        environment = load_environment(ROOT, name)
        try:
            executor.prepare([environment], print)
        except EnvironmentBroken as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no {name} environment: {error}")
        return executor.python(environment)

    return python


@pytest.fixture(scope="session")
def environments(env_python: EnvPython) -> Path:
    """The stage environments, all made."""
    for name in ENVIRONMENT_NAMES:
        env_python(name)
    return HOME / "envs"


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.fixture(scope="session")
def run_script(executor: ForkingExecutor, env_python: EnvPython) -> RunScript:
    """Run code in an environment; see ``ForkingExecutor.run_script``."""

    def run(name: EnvironmentName, code: str, *arguments: str | Path, given: str = "") -> str:
        env_python(name)
        return executor.run_script(name, code, *arguments, given=given)

    return run


@pytest.fixture(scope="session")
def run_step(
    executor: ForkingExecutor, env_python: EnvPython, tmp_path_factory: pytest.TempPathFactory
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
            network=step.startswith("fetch-"),
        )
        with executor.run(job, recorder) as ended:
            events = [_document(event) for event in recorder.events]
            return Trial(step=step, code=ended.code, events=events, out=out, log=recorder.lines)

    return run


def _document(event: StepEvent) -> dict[str, Any]:
    """An event as the step wrote it."""
    return {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}


@pytest.fixture(scope="session")
def shared(executor: ForkingExecutor, env_python: EnvPython) -> SharedResults:
    return SharedResults(executor, env_python)


@pytest.fixture(scope="session")
def pose_data(shared: SharedResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _data(shared, "pose", tmp_path_factory.mktemp("pose"))


@pytest.fixture(scope="session")
def pose_frames(
    shared: SharedResults, pose_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What `pose_weights` were trained on: data and dataset.json."""
    folder = tmp_path_factory.mktemp("frames")
    (folder / "data").symlink_to(shared.out("pose", "frames") / "data")
    (folder / "dataset.json").symlink_to(pose_data / "dataset.json")
    return folder


@pytest.fixture(scope="session")
def detect_data(shared: SharedResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _data(shared, "detect", tmp_path_factory.mktemp("detect"))


@pytest.fixture(scope="session")
def pose_weights(shared: SharedResults) -> Path:
    return shared.out("pose", "train")


@pytest.fixture(scope="session")
def detect_weights(shared: SharedResults) -> Path:
    return shared.out("detect", "train")


@pytest.fixture(scope="session")
def pose_onnx(shared: SharedResults) -> Path:
    return shared.out("pose", "onnx")


@pytest.fixture(scope="session")
def detect_onnx(shared: SharedResults) -> Path:
    return shared.out("detect", "onnx")


@pytest.fixture(scope="session")
def pose_images(shared: SharedResults) -> Path:
    return shared.out("pose", "images")


@pytest.fixture(scope="session")
def detect_images(shared: SharedResults) -> Path:
    return shared.out("detect", "images")


@pytest.fixture(scope="session")
def pose_int8(shared: SharedResults) -> Path:
    return shared.out("pose", "quantize")


@pytest.fixture(scope="session")
def detect_int8(shared: SharedResults) -> Path:
    return shared.out("detect", "quantize")


def _data(shared: SharedResults, task: Task, folder: Path) -> Path:
    """``data/`` and ``dataset.json`` side by side: copies, which tests may copy and change."""
    data = shared.out(task, "demo") / "data"
    shutil.copytree(data, folder / "data", copy_function=shutil.copyfile)
    shutil.copyfile(shared.out(task, "check") / "dataset.json", folder / "dataset.json")
    return folder
