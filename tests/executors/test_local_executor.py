"""What is true of steps as processes of this host alone."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from kiln.errors import DiskFull, EnvironmentBroken, StepTimeout
from kiln.executors.events import Progress
from kiln.executors.local import executor, job
from kiln.executors.local.executor import LocalExecutor
from kiln.executors.protocol import Limits
from tests.support.executor_bench import LocalBench
from tests.support.fixtures import Recorder


def test_a_steps_processes_can_talk_however_deep_the_job_folder_lies(
    local_bench: LocalBench,
) -> None:
    """As torch's loaders do on a GPU; the name of a Unix socket has at most 107 bytes."""
    body = """
        from multiprocessing.connection import Listener
        from tempfile import gettempdir
        with Listener(family="AF_UNIX") as listener:
            result = {"address": listener.address, "tmp": gettempdir()}
        """
    seen = local_bench.result(body, key="k" * 100)
    assert seen["address"].startswith(seen["tmp"])
    assert not Path(seen["tmp"]).parent.exists()


def test_a_step_that_may_use_a_gpu_sees_the_users_choice_of_it(
    local_bench: LocalBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    seen = local_bench.result("import os\nresult = dict(os.environ)", gpu="auto")
    assert seen["CUDA_VISIBLE_DEVICES"] == "7"


def test_a_step_leaves_nothing_in_the_checkout(local_bench: LocalBench) -> None:
    local_bench.result("import stages.contract")
    assert not list((local_bench.root / "stages").rglob("__pycache__"))


def test_a_step_past_its_limit_is_stopped_with_its_children(local_bench: LocalBench) -> None:
    body = """
        import subprocess, time
        child = subprocess.Popen(["sleep", "60"])
        events.progress(child.pid, 1, "children")
        time.sleep(60)
        """
    recorder = Recorder()
    with pytest.raises(StepTimeout):
        local_bench.run(local_bench.step(body, limits=Limits(timeout_s=1)), recorder)
    pid = next(int(event.done) for event in recorder.events if isinstance(event, Progress))
    state = Path(f"/proc/{pid}/stat")
    assert (
        not state.exists() or state.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] in "ZX"
    )


@pytest.mark.parametrize("grows", [True, False])
def test_a_kill_counts_as_out_of_memory_if_the_kernel_says_so(
    local_bench: LocalBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("pgfault 9\noom_kill 4\n", encoding="ascii")
    monkeypatch.setattr(executor, "_OOM_COUNTER", counter)
    write = f"pathlib.Path({str(counter)!r}).write_text('oom_kill 5')" if grows else ""
    body = f"import os, pathlib, signal\n{write}\nos.kill(os.getpid(), signal.SIGKILL)"
    ended = local_bench.run(local_bench.step(body))
    assert (ended.code, ended.oom_killed) == (137, grows)


def test_two_drivers_never_share_a_job_folder(local_bench: LocalBench, tmp_path: Path) -> None:
    body = """
        import time
        (job.out / "file").write_text("mine")
        time.sleep(0.5)
        result = {"files": len(list(job.out.iterdir()))}
        """
    first = local_bench.step(body)
    steps = [first, dataclasses.replace(first, out=tmp_path)]
    heard = [Recorder(), Recorder()]
    runs = [
        threading.Thread(target=local_bench.run, args=pair)
        for pair in zip(steps, heard, strict=True)
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert [each.result for each in heard] == [{"files": 1}, {"files": 1}]
    waited = [line for each in heard for line in each.lines if "waiting for it" in line]
    assert len(waited) == 1


def test_a_full_disk_is_named(local_bench: LocalBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "_move", refuse)
    with pytest.raises(DiskFull, match="step probe cannot be run: No space left"):
        local_bench.run(local_bench.step(""))


def test_an_environment_that_is_not_there_is_a_sentence(
    local_bench: LocalBench, tmp_path: Path
) -> None:
    lost = LocalExecutor(root=local_bench.root, home=tmp_path / "home", logs=tmp_path)
    with pytest.raises(EnvironmentBroken, match="vela environment is not there"):  # noqa: SIM117
        with lost.run(local_bench.step(""), Recorder()):
            pass
