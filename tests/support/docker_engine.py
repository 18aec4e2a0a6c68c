"""An engine of the tests' own, which shares nothing with the host's and can be killed."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.support.docker_bench import tags

_START_S = 60.0


def own_engine_or_skip() -> None:
    """Skip the test if this host cannot run an engine of one's own, or fail it if CI is set."""
    missing = [tool for tool in ("docker", "dockerd", "unshare") if not shutil.which(tool)]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"an engine of one's own takes root and {', '.join(missing) or 'nothing else'}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class Engine:
    """A dockerd that shares nothing with the host's own, and can be killed."""

    def __init__(self, folder: Path, hidden: tuple[Path, ...] = ()) -> None:
        self.address = f"unix://{folder}/engine.sock"
        self._folder = folder
        self._hidden = hidden
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it in namespaces of its own, so that the host's bridge stays; wait for it."""
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

    def take(self, client: docker.DockerClient, prefixes: tuple[str, ...]) -> None:
        """Copy the images of another engine whose names begin like this."""
        names = [tag for tag in tags(client) if tag.startswith(prefixes)]
        saved = self._folder / "images.tar"
        subprocess.run(["docker", "save", "--output", saved, *names], check=True)
        subprocess.run(["docker", "-H", self.address, "load", "-qi", saved], check=True)
        saved.unlink()

    def kill(self) -> None:
        """Pull the plug: the daemon goes first, without telling anybody, then all that ran.

        What it keeps under /run goes too, as when a machine starts again.
        """
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        clear(self._folder)
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


def clear(folder: Path) -> None:
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
