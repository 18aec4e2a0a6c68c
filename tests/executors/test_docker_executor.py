"""The docker executor in a real engine, on a step that does what the test says."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from kiln.errors import (
    DataError,
    DeviceError,
    DiskFull,
    EngineError,
    StepCrashed,
    StepTimeout,
)
from kiln.executors.docker.engine import engine_errors
from kiln.executors.docker.files import download_folder
from kiln.executors.docker.orphans import remove_orphans
from kiln.executors.orphans import this_driver
from kiln.executors.protocol import STEP_VARIABLES, Executor, Limits, StepExit
from kiln.store.tree import File, tree_of
from tests.support.checkout import ROOT
from tests.support.docker_bench import PREFIX, Bench, engine_or_skip, make_bench, remove_all
from tests.support.fixtures import Recorder, tree


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    client = engine_or_skip()
    bench = make_bench(tmp_path_factory.mktemp("checkout"), client)
    try:
        bench.executor().prepare([bench.environment], print)
        yield bench
    finally:
        remove_all(client)
        client.close()


def test_it_is_an_executor(bench: Bench) -> None:
    executor: Executor = bench.executor()
    assert executor.name == "docker"


def test_a_step_gets_its_inputs_and_gives_its_output_to_the_caller(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "images" / "träin").mkdir(parents=True)
    (tmp_path / "images" / "träin" / "a b.txt").write_text("picture", encoding="utf-8")
    (tmp_path / ("long" * 40)).write_text("named", encoding="utf-8")
    weights = tmp_path.parent / f"{tmp_path.name}.bin"
    weights.write_bytes(b"weights" * 1_000_000)
    step = bench.step(
        """
        import os
        from pathlib import Path
        (job.out / "deep" / "empty").mkdir(parents=True)
        picture = (job.inputs / "data" / "images" / "träin" / "a b.txt").read_text()
        (job.out / "deep" / "copy ü.txt").write_text(picture)
        (job.out / "big").write_bytes(bytes(3_000_000))
        result = {
            "weights": (job.inputs / "weights.bin").stat().st_size,
            "files": sorted(path.name for path in (job.inputs / "data").rglob("*")),
            "uid": os.getuid(),
        }
        """,
        inputs={"data": tree(tmp_path), "weights.bin": tree(weights)},
    )
    recorder = Recorder()
    ended = bench.executor().run(step, recorder)
    assert (ended.code, ended.oom_killed, ended.facts["gpu_requested"]) == (0, False, False)
    assert str(ended.facts["image"]).startswith(f"{PREFIX}vela:")
    result = recorder.events[-1]["result"]["value"]
    assert result["weights"] == 7_000_000
    assert result["files"] == ["a b.txt", "images", "long" * 40, "träin"]
    assert (step.out / "deep" / "copy ü.txt").read_text(encoding="utf-8") == "picture"
    assert (step.out / "big").read_bytes() == bytes(3_000_000)
    assert (step.out / "deep" / "empty").is_dir()
    assert result["uid"] != os.getuid()
    assert {path.stat().st_uid for path in step.out.rglob("*")} == {os.getuid()}
    assert bench.is_clear_of(step.key)


class Impatient(Recorder):
    """Presses Ctrl-C as soon as it has heard one `artifact` and one line."""

    def event(self, event: Mapping[str, Any]) -> None:
        super().event(event)
        self.interrupt()

    def log(self, line: str) -> None:
        super().log(line)
        self.interrupt()

    def interrupt(self) -> None:
        if self.lines and any(event["event"] == "artifact" for event in self.events):
            raise KeyboardInterrupt


def test_a_step_has_no_network_no_root_and_no_writable_root(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    seen = bench.result(
        """
        import errno, os, pathlib, socket
        def refusal(write):
            try:
                write()
            except OSError as error:
                return errno.errorcode[error.errno]
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        places = ["/", "/etc", "/opt/kiln", "/opt/kiln-stages/stages", "/kiln", "/var/tmp", "/home"]
        result = {
            "uids": os.getresuid() + os.getresgid(),
            "groups": os.getgroups(),
            "capabilities": {name: status[name].strip() for name in status if name[:3] == "Cap"},
            "no_new_privileges": status["NoNewPrivs"].strip(),
            "places": {p: refusal(pathlib.Path(p, "x").touch) for p in places},
            "input": refusal(lambda: (job.inputs / "data" / "file").write_text("theirs")),
            "in": refusal((job.inputs / "more").touch),
            "interfaces": [name for _number, name in socket.if_nameindex()],
            "routes": pathlib.Path("/proc/net/route").read_text().splitlines()[1:],
            "mounts": pathlib.Path("/proc/mounts").read_text(),
            "devices": sorted(os.listdir("/dev")),
        }
        for folder in (job.out, job.state, pathlib.Path("/tmp"), pathlib.Path.home()):
            (folder / "x").touch()
        """,
        inputs={"data": tree(tmp_path)},
    )
    assert 0 not in [*seen["uids"], *seen["groups"]]
    assert {value.strip("0") for value in seen["capabilities"].values()} == {""}
    assert seen["no_new_privileges"] == "1"
    assert set(seen["places"].values()) == {"EROFS"}
    assert (seen["input"], seen["in"]) == ("EROFS", "EACCES")
    assert seen["interfaces"] == ["lo"]
    assert seen["routes"] == []
    assert "docker.sock" not in seen["mounts"]
    assert "kmsg" not in seen["devices"]


def test_a_step_sees_these_variables_and_no_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
    seen = bench.result("import os\nresult = dict(os.environ)")
    assert seen.items() >= STEP_VARIABLES.items()
    assert set(seen) - set(STEP_VARIABLES) == {
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HOME", "TMPDIR", "HOSTNAME"),
        *("KILN_WALLED", "PATH", "PYTHONPATH"),
    }


def test_only_a_step_that_is_given_a_network_has_one(bench: Bench) -> None:
    names = "import socket\nresult = [name for _number, name in socket.if_nameindex()]"
    assert set(bench.result(names, network=True)) > {"lo"}


@pytest.mark.parametrize("network", [True, False])
def test_only_a_step_with_a_network_gets_the_proxy_and_its_certificates(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text("certificates", encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    seen = bench.result(
        """
        import os
        path = job.inputs / "ca.pem"
        result = [os.environ.get("HTTPS_PROXY"), path.read_text() if path.exists() else None]
        """,
        network=network,
    )
    assert seen == (["http://proxy:3128", "certificates"] if network else [None, None])


def test_limits_reach_the_kernel(bench: Bench) -> None:
    seen = bench.result(
        """
        import pathlib, subprocess, sys, threading
        groups = [pathlib.Path("/sys/fs/cgroup", name) for name in
                  ("memory.max", "memory/memory.limit_in_bytes")]
        result = {"memory": next(g.read_text().strip() for g in groups if g.exists())}
        try:
            result["threads"] = 0
            for _ in range(40):
                threading.Thread(target=threading.Event().wait, daemon=True).start()
                result["threads"] += 1
        except RuntimeError:
            pass
        """,
        limits=Limits(memory_mib=300, pids=20),
    )
    assert int(seen["memory"]) == 300 << 20
    assert 5 < seen["threads"] < 20


def test_a_failed_step_gives_nothing_and_leaves_nothing(bench: Bench) -> None:
    step = bench.step(
        """
        from stages.contract import StepFailed
        (job.out / "half").touch()
        raise StepFailed("data", "label 7 is out of range", hint="mend it")
        """
    )
    recorder = Recorder()
    ended = bench.executor().run(step, recorder)
    assert (ended.code, ended.oom_killed) == (3, False)
    assert recorder.events[-1]["message"] == "label 7 is out of range"
    assert not list(step.out.iterdir())
    assert bench.is_clear_of(step.key)


RESUMABLE = """
    import os
    seen = sorted(path.name for path in [*job.state.iterdir(), *job.out.iterdir()])
    (job.out / "half").touch()
    (job.state / "checkpoint").touch()
    if not seen:
        os._exit(9)
    result = {"seen": seen}
    """


def test_a_resumable_step_finds_its_state_again_and_nothing_else(bench: Bench) -> None:
    step = bench.step(RESUMABLE, resumable=True)
    assert bench.executor().run(step, Recorder()).code == 9
    assert not bench.containers(step.key)
    assert bench.volumes(step.key) == ["kiln-state"]
    recorder = Recorder()
    assert bench.executor().run(step, recorder).code == 0
    assert recorder.events[-1]["result"]["value"] == {"seen": ["checkpoint"]}
    assert bench.is_clear_of(step.key)


def test_a_step_past_its_limit_is_stopped(bench: Bench) -> None:
    step = bench.step("import time\ntime.sleep(60)", limits=Limits(timeout_s=2))
    with pytest.raises(StepTimeout, match="probe ran past its limit of 2 s"):
        bench.executor().run(step, Recorder())
    assert bench.is_clear_of(step.key)


def test_ctrl_c_asks_the_step_to_end_and_keeps_what_it_can_go_on_from(bench: Bench) -> None:
    step = bench.step(
        """
        import time
        if (job.state / "tidied").exists():
            result = {"resumed": True}
        else:
            try:
                events.emit("artifact")
                print("a library's chatter", flush=True)
                time.sleep(60)
            finally:
                (job.state / "tidied").touch()
        """,
        resumable=True,
    )
    heard = Impatient()
    with pytest.raises(KeyboardInterrupt):
        bench.executor().run(step, heard)
    assert heard.lines == ["a library's chatter"]
    assert not bench.containers(step.key)
    assert bench.volumes(step.key) == ["kiln-state"]
    recorder = Recorder()
    assert bench.executor().run(step, recorder).code == 0
    assert recorder.events[-1]["result"]["value"] == {"resumed": True}


HUNGRY = "bytearray(400 << 20)"


@pytest.mark.parametrize(
    "body",
    [
        HUNGRY,
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {HUNGRY!r}], check=1)",
    ],
    ids=["itself", "its child"],
)
def test_a_step_killed_for_memory_is_told_from_others(bench: Bench, body: str) -> None:
    ended = bench.executor().run(bench.step(body, limits=Limits(memory_mib=100)), Recorder())
    assert ended.code != 0
    assert ended.oom_killed


def test_garbage_on_stdout_is_dropped_and_events_still_arrive(bench: Bench) -> None:
    body = """
        for _ in range(40):
            events._stream.write("x" * 1_000_000)
        events._stream.write("\\n{not json\\n[]\\n")
        """
    assert bench.result(body) == {}


@pytest.mark.parametrize(
    "body",
    ["(job.out / 'x').symlink_to('/etc/passwd')", "import os\nos.mkfifo(job.out / 'x')"],
    ids=["link", "pipe"],
)
def test_an_output_that_is_no_file_is_refused(bench: Bench, body: str) -> None:
    step = bench.step(body)
    with pytest.raises(StepCrashed, match="gave out/x, which is no plain file"):
        bench.executor().run(step, Recorder())
    assert bench.is_clear_of(step.key)


class Hostile:
    """What stands where a container does, and gives an archive that no engine would make."""

    def __init__(self, *names: str, cut: int | None = None) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 2000
                archive.addfile(member, io.BytesIO(bytes(member.size)))
        self.data = stream.getvalue()[:cut]

    def get_archive(self, _path: str, *, chunk_size: int) -> tuple[Iterator[bytes], None]:
        starts = range(0, len(self.data), chunk_size)
        return (self.data[start : start + chunk_size] for start in starts), None


def test_an_archive_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    hostile = cast(Container, Hostile("out/ok", "out/../../escaped"))
    with pytest.raises(StepCrashed, match="no plain file"):
        download_folder(hostile, "/job/out", tmp_path / "out", step="probe")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "ok"]


def test_an_archive_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    cut = cast(Container, Hostile("out/file", cut=1000))
    with pytest.raises(EngineError, match="broke off"):
        download_folder(cut, "/job/out", tmp_path, step="probe")


def test_an_input_is_uploaded_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("once", encoding="utf-8")
    data = tree(tmp_path)
    names = "import os\nresult = [os.readlink(job.inputs / 'data'), len(os.listdir('/kiln'))]"
    first = bench.result(names, inputs={"data": data})
    (tmp_path / "file").unlink()
    assert bench.result(names, inputs={"data": data}) == first


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
            bench.executor().run(step, Recorder())
        assert bench.is_clear_of(step.key)
    path.write_text("hashed", encoding="utf-8")
    body = "result = (job.inputs / 'data' / 'file').read_text()"
    assert bench.result(body, inputs={"data": data}) == "hashed"


def test_an_input_that_is_gone_is_named(bench: Bench, tmp_path: Path) -> None:
    lost = tree_of({"": File(path=tmp_path / "lost", sha256="0" * 64, size=1)})
    with pytest.raises(DataError, match="lost cannot be read: No such file"):
        bench.executor().run(bench.step("", inputs={"data": lost}), Recorder())


def test_what_a_killed_driver_left_is_cleared_away_and_its_work_gone_on_from(bench: Bench) -> None:
    step = bench.step(
        """
        import time
        started = not list(job.state.iterdir())
        (job.state / "checkpoint").touch()
        events.emit("artifact")
        if started:
            time.sleep(60)
        """,
        resumable=True,
    )
    code = """
import os, pathlib, signal, sys
from kiln.executors.environments import load_environment
from kiln.executors.protocol import StepRun
from kiln.executors.docker.executor import BuildNetwork, DockerExecutor
root, out = map(pathlib.Path, sys.argv[1:3])
key, body = sys.argv[3:]
class Killed:
    def log(self, line): pass
    def event(self, event):
        if event["event"] == "artifact":
            os.kill(os.getpid(), signal.SIGKILL)
step = StepRun(key=key, step="probe", module="stages.vela.probe", params={"body": body}, inputs={},
               environment=load_environment(root, "vela"), out=out, resumable=True)
network = BuildNetwork(settings={}, certificates=None)
DockerExecutor(root=root, logs=out, network=network).run(step, Killed())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, bench.root, step.out, step.key, step.params["body"]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [container.status for container in bench.containers(step.key)] == ["running"]
    assert bench.executor().run(step, Recorder()).code == 0
    assert bench.is_clear_of(step.key)


def test_steps_that_begin_at_once_clear_away_what_one_killed_driver_left(bench: Bench) -> None:
    image = next(tag for each in bench.client.images.list() for tag in each.tags if PREFIX in tag)
    place, _, process = this_driver().rpartition(" at ")
    labels = {"org.kiln.driver": f"{place} at {process}9", "org.kiln.job": "orphan"}
    for _ in range(4):
        bench.client.volumes.create(f"kiln-job-{uuid.uuid4().hex}", labels=labels)
        bench.client.containers.run(
            image,
            ["-c", "input()"],
            entrypoint="python3",
            detach=True,
            stdin_open=True,
            labels=labels,
        )
    with ThreadPoolExecutor(4) as steps:
        list(steps.map(lambda _step: remove_orphans(bench.client), range(4)))
    assert bench.is_clear_of("orphan")


def test_a_gpu_that_the_engine_lacks(bench: Bench) -> None:
    if "nvidia" in bench.client.info()["Runtimes"]:
        pytest.skip("this engine has a GPU")
    step = bench.step("", gpu="required")
    with pytest.raises(DeviceError, match=r"probe must have a GPU: .*device driver"):
        bench.executor().run(step, Recorder())
    assert bench.is_clear_of(step.key)
    ended: StepExit = bench.executor().run(bench.step("", gpu="auto"), Recorder())
    assert (ended.code, ended.facts["gpu_requested"]) == (0, False)


def test_a_full_disk_of_the_engine_is_named() -> None:
    said = "write /var/lib/docker/tmp/x: no space left on device"
    with pytest.raises(DiskFull, match="could not take the inputs: its disk is full"):  # noqa: SIM117
        with engine_errors("take the inputs"):
            raise docker.errors.APIError("500 Server Error", explanation=said)


def test_a_step_reads_no_inputs_but_its_own(bench: Bench, tmp_path: Path) -> None:
    for name in ("theirs", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name, encoding="utf-8")
    bench.result("result = 1", inputs={"data": tree(tmp_path / "theirs")})
    walk = "import os\nresult = [f for _, _, files in os.walk('/kiln') for f in files]"
    assert bench.result(walk, inputs={"data": tree(tmp_path / "mine")}) == []
