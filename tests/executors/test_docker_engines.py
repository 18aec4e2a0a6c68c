"""Engines of the test's own: one that cannot see the driver's files, one that dies, none at all."""

from __future__ import annotations

import contextlib
import gc
import json
import os
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
from kiln.executors.events import Progress, StepEvent
from tests.support.checkout import ROOT
from tests.support.docker_bench import PREFIX, DockerBench
from tests.support.docker_engine import Engine, clear, own_engine_or_skip
from tests.support.fixtures import Recorder, tree


@pytest.fixture(scope="module")
def own_engine(docker_bench: DockerBench) -> Iterator[Engine]:
    """An engine that has the probing step's image, and the base that it is recognised by.

    It sees neither the checkout nor the folders of the driver and its tests.
    """
    own_engine_or_skip()
    hidden = (ROOT, docker_bench.root, Path(tempfile.gettempdir()))
    # Outside of what is hidden from it.
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="kiln-test-") as folder:
        engine = Engine(Path(folder), tuple(path for path in hidden if path.is_dir()))
        engine.start()
        try:
            engine.take(docker_bench.client, (PREFIX, "kiln-base:"))
            yield engine
        finally:
            engine.stop()
            clear(Path(folder))


@pytest.fixture
def engine(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine that the driver finds."""
    monkeypatch.setenv("DOCKER_HOST", own_engine.address)
    return own_engine


@pytest.fixture
def there(docker_bench: DockerBench, engine: Engine) -> Iterator[DockerBench]:
    """The bench, over that engine."""
    with contextlib.closing(docker.DockerClient(engine.address)) as client:
        yield docker_bench.over(client)


def test_an_engine_that_cannot_see_the_drivers_files(there: DockerBench, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.txt").write_text("image", encoding="utf-8")
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
    assert there.run(step).code == 0
    assert (step.out / "data" / "images" / "a.txt").read_text(encoding="utf-8") == "image"
    assert {path.stat().st_uid for path in step.out.rglob("*")} == {os.getuid()}
    assert there.left(step.key) == []


def _tags(bench: DockerBench) -> list[str]:
    return [tag for image in bench.client.images.list(f"{PREFIX}vela") for tag in image.tags]


# The SDK does not close a socket on which nobody answers.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_engine_that_dies_is_told_and_its_successor_goes_on(
    there: DockerBench, engine: Engine
) -> None:
    step = there.step(
        """
        import time
        started = not list(job.state.iterdir())
        (job.state / "checkpoint").touch()
        events.progress(1, 2, "epochs")
        if started:
            time.sleep(60)
        """,
        resumable=True,
    )

    class PullsThePlug(Recorder):
        def __call__(self, event: StepEvent) -> None:
            super().__call__(event)
            if isinstance(event, Progress):
                engine.kill()

    started = time.monotonic()
    with pytest.raises(EngineError, match="engine went away when it was to tell how probe ended"):
        there.run(step, PullsThePlug())
    assert time.monotonic() - started < 20
    gc.collect()
    engine.start()
    assert there.run(step).code == 0
    assert there.left(step.key) == []


def test_clean_takes_what_is_kilns_and_nothing_else(engine: Engine) -> None:
    """The last of the tests that use the engine of their own: its images go."""
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
