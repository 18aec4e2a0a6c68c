"""Engines of the test's own: one that cannot see the driver's files, one that dies, none at all."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from kiln.errors import EngineError
from kiln.executors.docker.clean import clean_engine
from kiln.executors.docker.executor import engine_status
from tests.support.checkout import ROOT
from tests.support.docker_bench import PREFIX, Bench, engine_or_skip, make_bench, remove_all
from tests.support.fixtures import Recorder, tree

_START_S = 60.0


class Engine:
    """A dockerd that shares nothing with the host's own, and can be killed."""

    def __init__(self, folder: Path, hidden: tuple[Path, ...] = ()) -> None:
        self.address = f"unix://{folder}/engine.sock"
        self._folder = folder
        self._hidden = hidden
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it in namespaces of its own, lest it take the host's bridge away; wait for it."""
        covers = [f"mount -t tmpfs none {shlex.quote(str(path))}" for path in self._hidden]
        command = [
            *("dockerd", "--host", self.address, "--pidfile", f"{self._folder}/pid"),
            *("--data-root", f"{self._folder}/data", "--exec-root", f"{self._folder}/exec"),
            *("--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
        ]
        script = " && ".join([*covers, f"exec {shlex.join(command)}"])
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--net", "sh", "-c", script], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((self._folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.2)

    def kill(self) -> None:
        """Pull the plug: the daemon goes first, without a word to anybody, then all that ran.

        What it keeps under /run goes too, as when a machine starts again.
        """
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        _clear(self._folder)
        shutil.rmtree(self._folder / "exec")
        (self._folder / "pid").unlink()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _answers(self) -> bool:
        """Whether it serves: it listens long before that."""
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(self.address.removeprefix("unix://")) != 0:
                return False
        try:
            with contextlib.closing(docker.DockerClient(self.address, timeout=60)) as client:
                return bool(client.ping())
        except docker.errors.DockerException:
            return False


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The probing step's image, in the engine of the host."""
    client = engine_or_skip()
    missing = [tool for tool in ("dockerd", "unshare") if not shutil.which(tool)]
    if os.geteuid() != 0 or missing:
        reason = f"an engine of one's own takes root and {', '.join(missing) or 'nothing else'}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    bench = make_bench(tmp_path_factory.mktemp("checkout"), client)
    bench.executor().prepare([bench.environment], print)
    yield bench
    remove_all(client)
    client.close()


@pytest.fixture
def engine(built: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that has the image, and is the one that the driver finds.

    It sees neither the checkout nor the folders of the driver and its tests.
    """
    hidden = (ROOT, built.root, Path(tempfile.gettempdir()))
    # Outside of what is hidden from it.
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="kiln-test-") as folder:
        engine = Engine(Path(folder), tuple(path for path in hidden if path.is_dir()))
        engine.start()
        try:
            _copy_image(built, engine)
            monkeypatch.setenv("DOCKER_HOST", engine.address)
            yield engine
        finally:
            engine.stop()
            _clear(Path(folder))


def _copy_image(built: Bench, engine: Engine) -> None:
    """Give an engine the image, and the base that it is recognised by."""
    with contextlib.closing(docker.DockerClient(engine.address, timeout=300)) as client:
        for image in built.client.images.list():
            names = [tag for tag in image.tags if tag.startswith((PREFIX, "kiln-base:"))]
            if names:
                client.images.load(b"".join(image.save(named=names[0])))


def _clear(folder: Path) -> None:
    """End and unmount what a killed engine has left."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                # Containers are their children.
                children = (process / "task" / process.name / "children").read_text().split()
                for pid in (*children, process.name):
                    os.kill(int(pid), signal.SIGKILL)
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()[::-1]:
        if (place := line.split()[1]).startswith(str(folder)):
            subprocess.run(["umount", "--lazy", place], check=False)


def bench_of(built: Bench, engine: Engine) -> Bench:
    return Bench(root=built.root, client=docker.DockerClient(engine.address))


def test_an_engine_that_cannot_see_the_drivers_files(
    built: Bench, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.txt").write_text("picture", encoding="utf-8")
    there = bench_of(built, engine)
    # It really is blind: mounting the folder shows an empty one.
    volumes = {str(tmp_path): {"bind": "/mnt", "mode": "ro"}}
    image = next(tag for tag in _tags(there) if ":environment-" not in tag)
    with pytest.raises(docker.errors.ContainerError):
        there.client.containers.run(
            image, ["-c", "ls /mnt/images"], entrypoint="sh", volumes=volumes, remove=True
        )
    step = there.step(
        """
        import shutil
        shutil.copytree(job.inputs / "data", job.out / "data")
        """,
        inputs={"data": tree(tmp_path)},
    )
    assert there.executor().run(step, Recorder()).code == 0
    assert (step.out / "data" / "images" / "a.txt").read_text(encoding="utf-8") == "picture"
    assert {path.stat().st_uid for path in step.out.rglob("*")} == {os.getuid()}
    assert there.is_clear_of(step.key)
    there.client.close()


def test_clean_takes_what_is_kilns_and_nothing_else(engine: Engine) -> None:
    with contextlib.closing(docker.DockerClient(engine.address)) as client:
        ours = client.volumes.create("kiln-state-of-something", labels={"org.kiln": "job"})
        client.volumes.create("somebody-elses")
        assert [line for line in clean_engine(images=False) if "volume" in line]
        left = [volume.name for volume in client.volumes.list()]
        assert "somebody-elses" in left
        assert ours.name not in left
        assert client.images.list(f"{PREFIX}vela")
        clean_engine(images=True)
        assert not client.images.list(f"{PREFIX}vela")


def _tags(bench: Bench) -> list[str]:
    return [tag for image in bench.client.images.list(f"{PREFIX}vela") for tag in image.tags]


# The SDK does not close a socket on which nobody answers.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_engine_that_dies_is_told_and_its_successor_goes_on(
    built: Bench, engine: Engine
) -> None:
    there = bench_of(built, engine)
    step = there.step(
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

    class PullsThePlug(Recorder):
        def event(self, event: Mapping[str, Any]) -> None:
            super().event(event)
            if event["event"] == "artifact":
                engine.kill()

    started = time.monotonic()
    with pytest.raises(EngineError, match="engine went away when it was to tell how probe ended"):
        there.executor().run(step, PullsThePlug())
    assert time.monotonic() - started < 20
    gc.collect()
    engine.start()
    assert there.executor().run(step, Recorder()).code == 0
    assert there.is_clear_of(step.key)
    there.client.close()


def test_no_engine_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    status = engine_status()
    assert (status.reachable, status.detail) == (False, f"there is no {tmp_path}/none.sock")
    (tmp_path / "none.sock").touch()
    assert f"nothing answers on {tmp_path}/none.sock" in engine_status().detail
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert "tcp://127.0.0.1:9 does not answer" in engine_status().detail


class _OldEngine(BaseHTTPRequestHandler):
    """Tells its version, whatever it is asked."""

    version: Mapping[str, Any]

    def do_GET(self) -> None:
        data = json.dumps(self.version).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "a socket has no address"


@pytest.mark.parametrize(
    ("api", "system", "problem"),
    [
        ("1.40", "linux", "speaks API 1.40, and Kiln needs 1.41"),
        ("1.45", "windows", "runs windows containers"),
    ],
)
def test_an_engine_that_will_not_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: str, system: str, problem: str
) -> None:
    version = {"Version": "19.03.8", "ApiVersion": api, "Os": system}
    handler = type("Handler", (_OldEngine,), {"version": version})
    path = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socketserver.UnixStreamServer(str(path), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        status = engine_status()
        server.shutdown()
        thread.join()
    assert not status.reachable
    assert f"Docker 19.03.8 {problem}" in status.detail


def test_a_socket_that_one_may_not_use_says_what_to_do(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path = tmp_path / "engine.sock"
    code = (
        "import os; from kiln.executors.docker.executor import engine_status\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(engine_status().detail)"
    )
    with socketserver.UnixStreamServer(str(path), BaseHTTPRequestHandler):
        path.chmod(0o660)
        for folder in [tmp_path, *tmp_path.parents]:
            if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tempfile.gettempdir()):
                folder.chmod(folder.stat().st_mode | 0o011)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"DOCKER_HOST": f"unix://{path}", "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "usermod -aG docker" in done.stdout, done.stderr
