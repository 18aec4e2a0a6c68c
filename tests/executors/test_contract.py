"""What every executor does for a step and with its files, held against both of them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import DataError, StepTimeout
from kiln.executors.events import Failed, Progress, StepEvent
from kiln.executors.protocol import STEP_VARIABLES, Limits, StepRun
from kiln.store.tree import File, tree_of
from tests.support.checkout import ROOT
from tests.support.executor_bench import Bench
from tests.support.fixtures import Recorder, tree
from tests.support.user import User


def test_a_step_gets_its_inputs_and_gives_its_output_to_the_caller(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "images" / "träin").mkdir(parents=True)
    (tmp_path / "images" / "träin" / "a b.txt").write_text("image", encoding="utf-8")
    (tmp_path / ("long" * 40)).write_text("named", encoding="utf-8")
    weights = tmp_path.parent / f"{tmp_path.name}.bin"
    weights.write_bytes(b"weights" * 1_000_000)
    step = bench.step(
        """
        import json
        (job.out / "deep" / "empty").mkdir(parents=True)
        image = (job.inputs / "data" / "images" / "träin" / "a b.txt").read_text()
        (job.out / "deep" / "copy ü.txt").write_text(image)
        (job.out / "big").write_bytes(bytes(3_000_000))
        print("a library's chatter")
        result = {
            "weights": (job.inputs / "weights.bin").stat().st_size,
            "files": sorted(path.name for path in (job.inputs / "data").rglob("*")),
            "job": json.loads((job.folder / "job.json").read_text()),
        }
        """,
        inputs={"data": tree(tmp_path), "weights.bin": tree(weights)},
        params={"n": [1]},
    )
    recorder = Recorder()
    ended = bench.run(step, recorder)
    assert (ended.code, ended.oom_killed) == (0, False)
    assert recorder.result["weights"] == 7_000_000
    assert recorder.result["files"] == ["a b.txt", "images", "long" * 40, "träin"]
    assert recorder.result["job"] == {"contract": 1, "step": "probe", "params": dict(step.params)}
    assert "a library's chatter" in recorder.lines
    assert (step.out / "deep" / "copy ü.txt").read_text(encoding="utf-8") == "image"
    assert (step.out / "big").read_bytes() == bytes(3_000_000)
    assert (step.out / "deep" / "empty").is_dir()
    assert {path.stat().st_uid for path in step.out.rglob("*")} == {os.getuid()}
    assert bench.left(step.key) == []


def test_what_a_library_writes_beside_its_input_stays_out_of_the_users_data(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").touch()
    bench.result(
        """
        try:
            (job.inputs / "data" / "labels" / "cache").write_text("litter")
        except OSError:
            pass
        """,
        inputs={"data": tree(tmp_path)},
    )
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["a.txt"]


def test_a_step_sees_none_of_the_users_variables(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = {
        "PYTHONHOME": "/nowhere",
        "VIRTUAL_ENV": "/nowhere",
        "LD_PRELOAD": "",
        "OMP_NUM_THREADS": "1",
        "HTTPS_PROXY": "http://user:secret@proxy",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    for name, value in stale.items():
        monkeypatch.setenv(name, value)
    seen = bench.result("import os\nresult = dict(os.environ)")
    assert seen.items() >= STEP_VARIABLES.items()
    assert {name: seen[name] for name in stale if name in seen} == {"CUDA_VISIBLE_DEVICES": ""}
    assert seen["HOME"] == seen["TMPDIR"]


def test_only_a_step_with_a_network_gets_the_proxy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    body = "import os\nresult = {'proxy': os.environ.get('HTTPS_PROXY')}"
    seen = [bench.result(body, network=network)["proxy"] for network in (True, False)]
    assert seen == ["http://proxy:3128", None]


def test_garbage_on_stdout_is_counted_and_events_still_arrive(bench: Bench) -> None:
    body = """
        for _ in range(40):
            events._stream.write("x" * 1_000_000)
        events._stream.write("\\n{not json\\n[]\\n")
        """
    recorder = Recorder()
    bench.run(bench.step(body), recorder)
    assert recorder.result == {}
    assert "3 lines on stdout were not events" in recorder.lines[-1]


def test_a_failed_step_gives_nothing_and_leaves_nothing(bench: Bench) -> None:
    step = bench.step(
        """
        from stages.contract import StepFailed
        (job.out / "half").touch()
        raise StepFailed("data", "label 7 is out of range", hint="mend it")
        """
    )
    recorder = Recorder()
    ended = bench.run(step, recorder)
    assert (ended.code, ended.oom_killed) == (3, False)
    failed = Failed(kind="data", message="label 7 is out of range", hint="mend it")
    assert recorder.events[-1] == failed
    assert not list(step.out.iterdir())
    assert bench.left(step.key) == []


@pytest.fixture
def unfinished(bench: Bench) -> StepRun:
    """A step that leaves a checkpoint, dies at its first attempt, and then says what it found."""
    body = """
        import os
        seen = sorted(path.name for path in [*job.state.iterdir(), *job.out.iterdir()])
        (job.out / "half").touch()
        (job.state / "checkpoint").touch()
        if not seen:
            os._exit(9)
        result = {"seen": seen}
        """
    step = bench.step(body, resumable=True)
    assert bench.run(step).code == 9
    assert bench.left(step.key) == ["state"]
    return step


def test_a_resumable_step_finds_its_state_again_and_nothing_else(
    bench: Bench, unfinished: StepRun
) -> None:
    recorder = Recorder()
    assert bench.run(unfinished, recorder).code == 0
    assert recorder.result == {"seen": ["checkpoint"]}
    assert bench.left(unfinished.key) == []


def test_unfinished_work_stays_until_what_the_step_gave_is_stored(
    bench: Bench, unfinished: StepRun
) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):  # noqa: PT012, SIM117
        with bench.executor().run(unfinished, Recorder()) as ended:
            assert ended.code == 0
            assert (unfinished.out / "half").is_file()
            raise ValueError("cannot be stored")
    assert bench.left(unfinished.key) == ["state"]
    (unfinished.out / "half").unlink()
    assert bench.run(unfinished).code == 0
    assert bench.left(unfinished.key) == []


def test_a_step_past_its_limit_is_stopped(bench: Bench) -> None:
    step = bench.step("import time\ntime.sleep(60)", limits=Limits(timeout_s=1))
    with pytest.raises(StepTimeout, match="probe ran past its limit of 1 s"):
        bench.run(step)
    assert bench.left(step.key) == []


#: Waits at its first attempt, having left something to go on from.
WAITS = """
import time
if (job.state / "checkpoint").exists():
    result = {"resumed": True}
else:
    try:
        (job.state / "checkpoint").touch()
        events.progress(1, 2, "epochs")
        print("a library's chatter", flush=True)
        time.sleep(60)
    finally:
        (job.state / "tidied").touch()
"""


class Impatient(Recorder):
    """Presses Ctrl-C as soon as it has heard that the step works, and a line."""

    def __call__(self, event: StepEvent) -> None:
        super().__call__(event)
        if self.lines and any(isinstance(each, Progress) for each in self.events):
            raise KeyboardInterrupt


def test_ctrl_c_asks_the_step_to_end_and_keeps_what_it_can_go_on_from(bench: Bench) -> None:
    step = bench.step(WAITS, resumable=True)
    heard = Impatient()
    with pytest.raises(KeyboardInterrupt):
        bench.run(step, heard)
    assert heard.lines == ["a library's chatter"]
    assert bench.left(step.key) == ["state"]
    body = "result = {'seen': sorted(path.name for path in job.state.iterdir())}"
    assert bench.result(body, key=step.key, resumable=True) == {"seen": ["checkpoint", "tidied"]}
    assert bench.left(step.key) == []


#: A driver that kills itself: when its step works, or when that has ended.
DRIVER = """
import os, pathlib, pickle, signal, sys
from kiln.executors.choose import choose_executor
from kiln.executors.events import Progress

name, root, home, when = sys.argv[1:]

def die(at):
    if at == when:
        os.kill(os.getpid(), signal.SIGKILL)

executor = choose_executor(name, registry=None, root=pathlib.Path(root), home=pathlib.Path(home),
                           variables=os.environ, say=print)
with executor.run(pickle.load(sys.stdin.buffer),
                  lambda event: isinstance(event, Progress) and die("working")):
    die("ended")
"""


@pytest.mark.parametrize("when", ["working", "ended"])
def test_what_a_killed_driver_left_is_cleared_away_and_its_work_gone_on_from(
    bench: Bench, when: str
) -> None:
    body = WAITS if when == "working" else WAITS.replace("time.sleep(60)", "pass")
    step = bench.step(body, resumable=True)
    where: tuple[Any, ...] = (bench.executor().name, bench.root, bench.home)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *where, when],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=pickle.dumps(step),
        check=False,
    )
    assert done.returncode < 0
    assert "state" in bench.left(step.key)
    recorder = Recorder()
    assert bench.run(step, recorder).code == 0
    assert recorder.result == {"resumed": True}
    assert bench.left(step.key) == []


def test_an_input_that_changes_on_the_way_is_never_taken_for_the_one_that_was_hashed(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("hashed", encoding="utf-8")
    data = tree(tmp_path)
    for text in ("hasted", "longer than that", "short"):
        path.write_text(text, encoding="utf-8")
        step = bench.step("", inputs={"data": data})
        with pytest.raises(DataError, match=r"file is not what was hashed"):
            bench.run(step)
        assert bench.left(step.key) == []
    path.write_text("hashed", encoding="utf-8")
    body = "result = {'text': (job.inputs / 'data' / 'file').read_text()}"
    assert bench.result(body, inputs={"data": data}) == {"text": "hashed"}


def test_an_input_that_is_gone_is_named(bench: Bench, tmp_path: Path) -> None:
    lost = tree_of({"": File(path=tmp_path / "lost", sha256="0" * 64, size=1)})
    with pytest.raises(DataError, match="lost cannot be read: No such file"):
        bench.run(bench.step("", inputs={"data": lost}))


#: As `nohup`, `&` in a script and some CI systems start a command.
WITHOUT_SIGINT = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


def test_kiln_started_with_sigint_ignored_ends_on_sigterm_and_leaves_nothing_running(
    bench: Bench, tmp_path: Path
) -> None:
    for name in ("kiln", "targets"):
        shutil.copytree(ROOT / name, bench.root / name)
    user = User(tmp_path)
    user.variables |= {"PYTHONPATH": str(bench.root), "PYTHONDONTWRITEBYTECODE": "1"}
    (tmp_path / "model.tflite").write_bytes(b"a model")
    command = ("inspect", "model.tflite", "--executor", bench.executor().name)
    with user.starts(*command, under=WITHOUT_SIGINT) as driver:
        _wait_for("the step waits", user.home / "logs", driver)
        driver.send_signal(signal.SIGINT)
        driver.send_signal(signal.SIGTERM)
        _out, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "interrupted; nothing is left running" in said
    assert bench.running() == []


def _wait_for(text: str, logs: Path, driver: subprocess.Popen[str]) -> None:
    """Until a log has this text."""
    deadline = time.monotonic() + 60
    while not any(text in path.read_text(encoding="utf-8") for path in logs.glob("*.log")):
        if driver.poll() is not None or time.monotonic() > deadline:
            driver.kill()
            pytest.fail(f"the step never began: {driver.communicate()}")
        time.sleep(0.05)
