"""The local executor with real environments, on small steps written for the purpose."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import DiskFull, EnvironmentBroken, StepTimeout
from kiln.executors import local
from kiln.executors.environments import Environment, EnvironmentName, load_environment
from kiln.executors.local.executor import LocalExecutor
from kiln.executors.protocol import Executor, StepRun
from kiln.executors.virtualenvs import VirtualEnvironments
from tests.support.checkout import HOME, ROOT
from tests.support.fixtures import Recorder, tree

_STEP = """
import dataclasses, json, os, pathlib, signal, subprocess, sys, time
from stages.contract import Events, Job, StepFailed, main

@dataclasses.dataclass
class Result:
    value: object

def run(job: Job, events: Events) -> Result:
{body}
    return Result(result)

if __name__ == "__main__":
    main(run)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A root folder for probing steps and an executor over it."""

    root: Path
    executor: LocalExecutor
    environment: Environment
    jobs: Path

    def step(self, body: str, **settings: Any) -> StepRun:
        """A step whose ``run`` has this body; it may set ``result``."""
        name = f"probe_{uuid.uuid4().hex}"
        lines = ["result = {}", *body.strip().splitlines()]
        code = _STEP.format(body="\n".join(f"    {line}" for line in lines))
        (self.root / "stages" / "vela" / f"{name}.py").write_text(code, encoding="utf-8")
        out = self.root / "outs" / name
        out.mkdir(parents=True)
        defaults: dict[str, Any] = {
            "key": f"test-{name}",
            "step": "probe",
            "module": f"stages.vela.{name}",
            "environment": self.environment,
            "params": {},
            "inputs": {},
            "out": out,
        }
        return StepRun(**{**defaults, **settings})

    def result(self, body: str, **settings: Any) -> dict[str, Any]:
        recorder = Recorder()
        ended = self.executor.run(self.step(body, **settings), recorder)
        assert ended.code == 0, recorder.lines
        result: dict[str, Any] = recorder.events[-1]["result"]["value"]
        return result


def _driver(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A driver in a process of its own, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def bench(tmp_path: Path, env_python: Callable[[EnvironmentName], Path]) -> Bench:
    env_python("vela")
    (tmp_path / "stages" / "vela").mkdir(parents=True)
    shutil.copy(ROOT / "stages" / "contract.py", tmp_path / "stages")
    return Bench(
        root=tmp_path,
        executor=LocalExecutor(root=tmp_path, home=HOME, logs=tmp_path / "logs"),
        environment=load_environment(ROOT, "vela"),
        jobs=HOME / "jobs",
    )


def test_it_is_an_executor(bench: Bench) -> None:
    executor: Executor = bench.executor
    assert executor.name == "local"


def test_a_step_gets_its_inputs_and_gives_its_output(bench: Bench) -> None:
    data = bench.root / "data"
    (data / "images" / "train").mkdir(parents=True)
    (data / "images" / "train" / "a b.txt").write_text("picture", encoding="utf-8")
    weights = bench.root / "weights.bin"
    weights.write_bytes(b"weights")
    body = """
(job.out / "deep").mkdir()
picture = (job.inputs / "data" / "images" / "train" / "a b.txt").read_text()
(job.out / "deep" / "copy.txt").write_text(picture)
result = {"weights": (job.inputs / "weights.bin").read_text(), "params": dict(job.params)}
print("a library's chatter")
"""
    inputs = {"data": tree(data), "weights.bin": tree(weights)}
    step = bench.step(body, inputs=inputs, params={"n": 1})
    recorder = Recorder()
    ended = bench.executor.run(step, recorder)
    assert ended.code == 0
    assert str(ended.facts["python"]).startswith("3.11.")
    assert recorder.events[-1]["result"]["value"] == {"weights": "weights", "params": {"n": 1}}
    assert "a library's chatter" in recorder.lines
    assert (step.out / "deep" / "copy.txt").read_text(encoding="utf-8") == "picture"
    assert not (bench.jobs / step.key).exists()


def test_what_a_library_writes_beside_its_input_stays_out_of_the_users_data(bench: Bench) -> None:
    data = bench.root / "data"
    (data / "labels").mkdir(parents=True)
    (data / "labels" / "a.txt").touch()
    body = '(job.inputs / "data" / "labels" / "cache").write_text("litter")'
    bench.result(body, inputs={"data": tree(data)})
    assert [path.name for path in (data / "labels").iterdir()] == ["a.txt"]


def test_a_step_sees_none_of_the_users_variables(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = {
        "PYTHONHOME": "/nowhere",
        "PYTHONPATH": "/nowhere",
        "VIRTUAL_ENV": "/nowhere",
        "LD_PRELOAD": "",
        "OMP_NUM_THREADS": "1",
        "HTTPS_PROXY": "http://user:secret@proxy",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    for name, value in stale.items():
        monkeypatch.setenv(name, value)
    seen = bench.result("result = dict(os.environ)")
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["PYTHONPATH"] == str(bench.root)
    assert set(stale) & set(seen) == {"PYTHONPATH", "CUDA_VISIBLE_DEVICES"}
    assert seen["HOME"] == seen["TMPDIR"]


def test_proxies_and_gpus_reach_the_steps_that_need_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    seen = bench.result("result = dict(os.environ)", network=True, gpu="auto")
    assert (seen["HTTPS_PROXY"], seen["CUDA_VISIBLE_DEVICES"]) == ("http://proxy", "7")


def test_a_steps_processes_can_talk_however_deep_the_job_folder_lies(bench: Bench) -> None:
    """As torch's loaders do on a GPU; the name of a Unix socket has at most 107 bytes."""
    body = """
from multiprocessing.connection import Listener
from tempfile import gettempdir
with Listener(family="AF_UNIX") as listener:
    result = {"address": listener.address, "tmp": gettempdir()}
"""
    seen = bench.result(body, key="k" * 100)
    assert seen["address"].startswith(seen["tmp"])
    assert not Path(seen["tmp"]).parent.exists()


def test_a_step_leaves_nothing_in_the_checkout(bench: Bench) -> None:
    bench.result("import stages.contract")
    assert not list((bench.root / "stages").rglob("__pycache__"))


def test_a_failed_step_gives_nothing_and_leaves_nothing(bench: Bench) -> None:
    body = """
(job.out / "half").touch()
raise StepFailed("data", "label 7 is out of range", hint="mend it")
"""
    step = bench.step(body)
    recorder = Recorder()
    ended = bench.executor.run(step, recorder)
    assert (ended.code, ended.oom_killed) == (3, False)
    assert recorder.events[-1]["message"] == "label 7 is out of range"
    assert not list(step.out.iterdir())
    assert not (bench.jobs / step.key).exists()


def test_a_resumable_step_finds_its_state_again_and_nothing_else(bench: Bench) -> None:
    body = """
seen = sorted(path.name for path in [*job.state.iterdir(), *job.out.iterdir()])
(job.out / "half").touch()
(job.state / "checkpoint").touch()
if not seen:
    os._exit(9)
result = {"seen": seen}
"""
    step = bench.step(body, resumable=True)
    assert bench.executor.run(step, Recorder()).code == 9
    recorder = Recorder()
    assert bench.executor.run(step, recorder).code == 0
    assert recorder.events[-1]["result"]["value"] == {"seen": ["checkpoint"]}
    assert not (bench.jobs / step.key).exists()


def test_a_step_past_its_limit_is_stopped_with_its_children(bench: Bench) -> None:
    body = """
child = subprocess.Popen(["sleep", "60"])
events.emit("artifact", pid=child.pid)
time.sleep(60)
"""
    step = bench.step(body, limits=dataclasses.replace(StepRun.limits, timeout_s=2))
    recorder = Recorder()
    with pytest.raises(StepTimeout, match="probe ran past its limit of 2 s"):
        bench.executor.run(step, recorder)
    pid = next(event["pid"] for event in recorder.events if event["event"] == "artifact")
    state = Path(f"/proc/{pid}/stat")
    assert (
        not state.exists() or state.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] in "ZX"
    )
    assert not (bench.jobs / step.key).exists()


def test_ctrl_c_stops_the_step_and_keeps_what_it_can_go_on_from(bench: Bench) -> None:
    body = """
(job.state / "checkpoint").touch()
events.emit("artifact")
time.sleep(60)
"""
    step = bench.step(body, resumable=True)

    class Impatient(Recorder):
        def event(self, event: Mapping[str, Any]) -> None:
            super().event(event)
            if event["event"] == "artifact":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.executor.run(step, Impatient())
    kept = sorted(path.name for path in (bench.jobs / step.key).iterdir())
    shutil.rmtree(bench.jobs / step.key)
    assert kept == [".claim", "state"]


@pytest.mark.parametrize("grows", [True, False])
def test_a_kill_counts_as_out_of_memory_if_the_kernel_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    counter = bench.root / "vmstat"
    counter.write_text("pgfault 9\noom_kill 4\n", encoding="ascii")
    monkeypatch.setattr(local, "_OOM_COUNTER", counter)
    write = f"pathlib.Path({str(counter)!r}).write_text('oom_kill 5')" if grows else ""
    step = bench.step(f"{write}\nos.kill(os.getpid(), signal.SIGKILL)")
    ended = bench.executor.run(step, Recorder())
    assert (ended.code, ended.oom_killed) == (137, grows)


def test_garbage_on_stdout_is_dropped_and_events_still_arrive(bench: Bench) -> None:
    body = """
for _ in range(40):
    events._stream.write("x" * 1_000_000)
events._stream.write("\\n{not json\\n[]\\n")
"""
    assert bench.result(body) == {}


def test_two_drivers_never_share_a_job_folder(bench: Bench) -> None:
    body = """
(job.out / "file").write_text("mine")
time.sleep(0.5)
result = {"files": len(list(job.out.iterdir()))}
"""
    first = bench.step(body)
    second = dataclasses.replace(first, out=bench.root)
    heard = [Recorder(), Recorder()]
    runs = [
        threading.Thread(target=bench.executor.run, args=pair)
        for pair in zip([first, second], heard, strict=True)
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert [each.events[-1]["event"] for each in heard] == ["finished", "finished"]
    waited = [line for each in heard for line in each.lines if "waiting for it" in line]
    assert len(waited) == 1


def test_a_full_disk_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local, "_move", refuse)
    with pytest.raises(DiskFull, match="step probe cannot be run: No space left"):
        bench.executor.run(bench.step("pass"), Recorder())


def test_an_environment_that_is_not_there_is_a_sentence(bench: Bench, tmp_path: Path) -> None:
    executor = LocalExecutor(root=bench.root, home=tmp_path / "home", logs=tmp_path)
    with pytest.raises(EnvironmentBroken, match="vela environment is not there"):
        executor.run(bench.step("pass"), Recorder())


# --- making environments ---


@pytest.fixture
def small(tmp_path: Path) -> Environment:
    """An environment of one small package."""
    lock = tmp_path / "vela.lock"
    lines = (ROOT / "kiln.lock").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("idna=="))
    last = next(i for i in range(first, len(lines)) if not lines[i].endswith("\\"))
    lock.write_text("\n".join(lines[first : last + 1]) + "\n", encoding="utf-8")
    return dataclasses.replace(load_environment(ROOT, "vela"), lock=lock)


@pytest.fixture
def made(tmp_path: Path) -> VirtualEnvironments:
    return VirtualEnvironments(home=tmp_path / "home", logs=tmp_path / "logs")


def test_an_environment_is_made_once_and_remade_if_it_is_not_whole(
    made: VirtualEnvironments, small: Environment, tmp_path: Path
) -> None:
    said: list[str] = []
    assert made.find(small) is None
    made.make(small, said.append)
    assert len(said) == 2
    found = made.find(small)
    assert found is not None
    folder = found.path.parent.parent
    made.make(small, said.append)
    assert len(said) == 2
    (folder / ".complete").unlink()
    assert made.find(small) is None
    made.make(small, said.append)
    assert said[2] == "the vela environment is not whole: making it again"
    shutil.rmtree(next(folder.glob("lib/*/site-packages/idna-*.dist-info")))
    assert made.find(small) is None, "a package was removed by hand"
    assert tmp_path in folder.parents


def test_two_drivers_make_an_environment_once(
    made: VirtualEnvironments, small: Environment
) -> None:
    said: list[str] = []
    makers = [threading.Thread(target=made.make, args=(small, said.append)) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sum(line.startswith("making") for line in said) == 1


def test_a_package_that_differs_from_the_lock_is_refused(
    made: VirtualEnvironments, small: Environment
) -> None:
    text = small.lock.read_text(encoding="utf-8")
    line = text.splitlines()[0]
    small.lock.write_text(f"{line}\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    with pytest.raises(EnvironmentBroken, match="vela environment cannot be made") as caught:
        made.make(small, print)
    assert "differs from the lock" in caught.value.hint
    assert caught.value.log is not None
    assert caught.value.log.read_text(encoding="utf-8")
    assert made.find(small) is None


def test_an_index_out_of_reach_is_told_without_its_password(
    made: VirtualEnvironments,
    small: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(EnvironmentBroken) as caught:
        made.make(small, print)
    assert "check the network" in caught.value.hint
    assert caught.value.log is not None
    told = caught.value.message + caught.value.log.read_text(encoding="utf-8")
    assert "127.0.0.1:9" in told
    assert "secret" not in told


def test_without_a_python_the_sentence_names_both_ways_out(
    made: VirtualEnvironments, small: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "UV_PYTHON_INSTALL_MIRROR": f"file://{tmp_path}/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with pytest.raises(EnvironmentBroken, match=r"Python 3\.11 is not on this host") as caught:
        made.make(small, said.append)
    assert "downloading" in said[0]
    assert "python3.11 on PATH" in caught.value.hint
    assert "EXECUTOR=docker" in caught.value.hint


def test_a_killed_installation_is_never_taken_for_a_whole_one(
    made: VirtualEnvironments, small: Environment, tmp_path: Path
) -> None:
    code = """
import dataclasses, pathlib, sys
from kiln.executors.environments import load_environment
from kiln.executors import virtualenvs
root, folder = map(pathlib.Path, sys.argv[1:])
environment = dataclasses.replace(load_environment(root, "vela"), lock=folder / "vela.lock")
virtualenvs._packages = lambda folder: print("installed", flush=True) or input()
maker = virtualenvs.VirtualEnvironments(home=folder / "home", logs=folder / "logs")
maker.make(environment, lambda line: None)
"""
    with _driver(code, ROOT, tmp_path) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "installed\n"
        driver.send_signal(signal.SIGKILL)
    assert list((tmp_path / "home" / "envs").glob("vela-*/bin/python"))
    assert made.find(small) is None
    made.make(small, lambda _line: None)
    assert made.find(small) is not None


def test_a_driver_killed_outright_leaves_a_job_that_the_next_goes_on_from(bench: Bench) -> None:
    body = """
started = not list(job.state.iterdir())
(job.state / "checkpoint").touch()
events.emit("artifact")
if started:
    while True:
        events.progress(1, 2, "x")
        time.sleep(0.05)
"""
    step = bench.step(body, resumable=True)
    code = """
import os, pathlib, signal, sys
from kiln.executors.environments import load_environment
from kiln.executors.protocol import StepRun
from kiln.executors.local.executor import LocalExecutor
home, root, checkout, out = map(pathlib.Path, sys.argv[1:5])
key, module = sys.argv[5:]
class Killed:
    def log(self, line): pass
    def event(self, event):
        if event["event"] == "artifact":
            os.kill(os.getpid(), signal.SIGKILL)
environment = load_environment(checkout, "vela")
step = StepRun(key=key, step="probe", module=module, environment=environment, params={},
               inputs={}, out=out, resumable=True)
LocalExecutor(root=root, home=home, logs=out).run(step, Killed())
"""
    with _driver(code, HOME, bench.root, ROOT, step.out, step.key, step.module) as driver:
        assert driver.wait() == -signal.SIGKILL
    assert (bench.jobs / step.key / "state" / "checkpoint").exists()
    started = time.monotonic()
    assert bench.executor.run(step, Recorder()).code == 0
    assert time.monotonic() - started < 10


def test_the_job_file_is_what_the_contract_says(bench: Bench) -> None:
    body = 'result = json.loads((job.folder / "job.json").read_text())'
    assert bench.result(body, params={"a": [1]}) == json.loads(
        '{"contract": 1, "step": "probe", "params": {"a": [1]}}'
    )
