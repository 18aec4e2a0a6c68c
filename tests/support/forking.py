"""Steps and scripts in the stage environments, as forks of one interpreter for each.

Importing torch or TensorFlow takes seconds; a fork of a process that has imported them takes
none, and is as good as a process of its own: nothing has been computed in it before.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kiln.executors.environments import EnvironmentName, load_environment
from kiln.executors.events import EventReader, LogLine, StepObserver
from kiln.executors.local.executor import LocalExecutor
from kiln.executors.local.job import JobFolder
from kiln.executors.protocol import STEP_VARIABLES, StepExit, StepRun
from kiln.executors.virtualenvs import Interpreter
from tests.support.checkout import ROOT
from tests.support.fork_server import Program

#: What takes longest to import in each environment.
_LIBRARIES: Mapping[EnvironmentName, Sequence[str]] = {
    "train": (
        *("stages.train.ultralytics_env", "cv2", "ultralytics.models.yolo"),
        *("onnx", "onnxslim", "safetensors.torch"),
    ),
    "export": (
        *("onnxruntime", "onnx2tf", "pycocotools.cocoeval"),
        "tensorflow.lite.tools.flatbuffer_utils",
    ),
    "vela": ("stages.vela", "ethosu.vela.vela", "tflite_micro.python.tflite_micro.runtime"),
}
#: They import none of it; and ultralytics changes how PIL opens images.
_ON_THEIR_OWN = ("demo", "check", "fetch-data", "fetch-weights")


class ForkServer:
    """One interpreter that has imported an environment's libraries, started when first needed."""

    def __init__(self, python: Path, libraries: Sequence[str], folder: Path) -> None:
        self._python = python
        self._libraries = libraries
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        variables: Mapping[str, str],
        folder: Path,
        files: Sequence[Path],
    ) -> int:
        """Run a program on the processors that this process may use; see ``Program``."""
        program = Program(
            argv=[str(each) for each in argv],
            variables=variables,
            folder=str(folder),
            files=[str(each) for each in files],
            cpus=sorted(os.sched_getaffinity(0)),
        )
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(program) + "\n")
                process.stdin.flush()
                return int(process.stdout.readline())
            except BaseException:
                # Also if a test has run out of time: the next answer would be to its question.
                self.stop()
                raise

    def stop(self) -> None:
        """End it, and what runs in it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        self._folder.mkdir(exist_ok=True)
        environment = self._python.parents[1]
        variables = {
            **STEP_VARIABLES,
            "PATH": os.pathsep.join([str(environment / "bin"), os.defpath]),
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
            "PYTHONPYCACHEPREFIX": str(environment / "pycache"),
            "CUDA_VISIBLE_DEVICES": "",
        }
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._python, Path(__file__).with_name("fork_server.py"), *self._libraries],
                env=variables,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )


class ForkingExecutor(LocalExecutor):
    """The local executor, except that a step is a fork instead of a process of its own."""

    def __init__(self, *, home: Path, folder: Path) -> None:
        super().__init__(root=ROOT, home=home, logs=folder)
        self._folder = folder
        self._servers: dict[EnvironmentName, ForkServer] = {}
        self._scripts = 0

    def run_script(
        self, environment: EnvironmentName, code: str, *arguments: str | Path, given: str = ""
    ) -> str:
        """What a script prints that may import ``stages``; fails the test if the script fails."""
        self._scripts += 1
        folder = self._folder / f"script{self._scripts}"
        folder.mkdir()
        files = [folder / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(given, encoding="utf-8")
        argv = ("-c", code, *arguments)
        ended = self._server(environment).run(argv, variables={}, folder=folder, files=files)
        if ended != 0:
            pytest.fail(files[2].read_text("utf-8", errors="replace")[-2000:], pytrace=False)
        return files[1].read_text(encoding="utf-8")

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()

    def _server(self, name: EnvironmentName) -> ForkServer:
        if name not in self._servers:
            python = self.python(load_environment(ROOT, name))
            folder = self._folder / name
            self._servers[name] = ForkServer(python, _LIBRARIES[name], folder)
        return self._servers[name]

    def _start(
        self, run: StepRun, interpreter: Interpreter, job: JobFolder, observe: StepObserver
    ) -> StepExit:
        if run.step in _ON_THEIR_OWN:
            return super()._start(run, interpreter, job, observe)
        out, err = job.path / "stdout", job.path / "stderr"
        code = self._server(run.environment.name).run(
            ("-m", run.module, job.path),
            variables=self._variables(run, interpreter.path, job, os.environ),
            folder=job.path,
            files=(Path(os.devnull), out, err),
        )
        for line in err.read_text("utf-8", errors="replace").splitlines():
            observe(LogLine(text=line))
        events = EventReader(observe)
        events.feed(out.read_bytes())
        events.close()
        shell_code = code if code >= 0 else 128 - code
        return StepExit(code=shell_code, oom_killed=False, facts=interpreter.facts)
