"""Runs steps in the local environments for benchmarks: one job folder, one process, its cost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln.executors.environments import ENVIRONMENT_NAMES, EnvironmentName, load_environment
from kiln.executors.local.executor import LocalExecutor
from kiln.executors.protocol import STEP_VARIABLES

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("KILN_HOME") or ROOT / ".kiln").absolute()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """A step that ended well."""

    out: Path
    result: Mapping[str, Any]


def python(name: EnvironmentName) -> Path:
    """The interpreter of an environment, which is made if it is missing."""
    environment = load_environment(ROOT, name)
    executor = LocalExecutor(root=ROOT, home=HOME, logs=HOME / "logs")
    executor.prepare([environment], lambda message: print(message, file=sys.stderr))
    return executor.python(environment)


def make_job(
    folder: Path, step: str, params: Mapping[str, Any], inputs: Mapping[str, Path]
) -> Path:
    """A job folder as an executor makes it."""
    (folder / "in").mkdir(parents=True)
    document = {"contract": 1, "step": step, "params": params}
    (folder / "job.json").write_text(json.dumps(document), encoding="utf-8")
    for name, path in inputs.items():
        (folder / "in" / name).symlink_to(path.resolve())
    return folder


def run_step(
    module: str, folder: Path, params: Mapping[str, Any], inputs: Mapping[str, Path]
) -> Done:
    """Run ``stages.<environment>.<module>`` on a new job folder; exits with its log if it fails."""
    _, name, step = module.split(".")
    environment: EnvironmentName = next(each for each in ENVIRONMENT_NAMES if each == name)
    job = make_job(folder, step, params, inputs)
    lines = run([python(environment), "-m", module, job], cwd=folder).splitlines()
    events = [json.loads(line) for line in lines]
    return Done(out=folder / "out", result=events[-1]["result"])


def run(command: Sequence[object], *, cwd: Path) -> str:
    """Run to the end and return stdout; exits with the log if it fails."""
    return _run(command, cwd)[0]


def peak_mib(command: Sequence[object], *, cwd: Path) -> int:
    """Run to the end and return the peak memory in MiB; exits with the log if it fails."""
    return _run(command, cwd)[1]


def _run(command: Sequence[object], cwd: Path) -> tuple[str, int]:
    """A step sees the environment's own commands too: onnx2tf calls onnxsim."""
    path = f"{Path(str(command[0])).parent}:/usr/bin:/bin"
    variables = {**STEP_VARIABLES, "PATH": path, "HOME": str(cwd), "PYTHONPATH": str(ROOT)}
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, cwd=cwd, env=variables, stdout=said, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (said, log):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    if process.returncode:
        sys.exit("\n".join(texts))
    return texts[0], usage.ru_maxrss // 1024
