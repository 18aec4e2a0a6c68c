"""A bench in a container engine, whose image holds the probing step and next to no packages."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from kiln.executors.docker.executor import BuildNetwork, DockerExecutor, engine_status
from tests.support.checkout import ROOT
from tests.support.executor_bench import Bench, one_pin

#: What names begin with instead of kiln-; of one run of the tests, as another may go on beside it.
PREFIX = f"kiln-test-{os.getpid()}-"


def engine_or_skip() -> docker.DockerClient:
    """A client; without an engine the test is skipped, or fails if CI is set."""
    status = engine_status()
    if not status.reachable:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have an engine: {status.detail}", pytrace=False)
        pytest.skip(f"no container engine: {status.detail}")
    return docker.from_env()


def remove_all(client: docker.DockerClient) -> None:
    """Take everything of all benches out of the engine, except the base image."""
    for image in client.images.list():
        for tag in image.tags:
            if PREFIX in tag:
                client.images.remove(tag, force=True)
    for volume in client.volumes.list():
        if volume.name.startswith(PREFIX):
            volume.remove()


class DockerBench(Bench):
    """All but the packages, the step and the names is as in the real checkout."""

    def __init__(self, root: Path, client: docker.DockerClient) -> None:
        super().__init__(root, root / "home")
        self.client = client
        (root / "scripts").mkdir()
        for name in ("kiln.lock", "scripts/build_base.sh"):
            shutil.copy(ROOT / name, root / name)
        (root / "docker" / "vela.lock").write_text(one_pin("idna"), encoding="utf-8")
        names = (ROOT / "compose.yaml").read_text(encoding="utf-8")
        for kind in ("image: ", "name: "):
            names = names.replace(f"{kind}kiln-", f"{kind}{PREFIX}")
        (root / "compose.yaml").write_text(names, encoding="utf-8")

    def executor(self, **settings: Any) -> DockerExecutor:
        network = BuildNetwork.from_environment(os.environ)
        defaults = {"root": self.root, "logs": self.home / "logs", "network": network}
        return DockerExecutor(**{**defaults, **settings})

    def over(self, client: docker.DockerClient) -> DockerBench:
        """The same checkout, with its steps looked for in another engine."""
        other = copy.copy(self)
        other.client = client
        return other

    def containers(self, key: str) -> list[Container]:
        label = f"org.kiln.job={key}"
        return list(self.client.containers.list(all=True, filters={"label": label}))

    def running(self) -> list[str]:
        containers = self.client.containers.list(filters={"ancestor": f"{PREFIX}vela"})
        return [*super().running(), *(str(each.name) for each in containers)]

    def left(self, key: str) -> list[str]:
        volumes = self.client.volumes.list(filters={"label": f"org.kiln.job={key}"})
        names = [volume.name.removeprefix("kiln-").removesuffix(f"-{key}") for volume in volumes]
        return sorted([*names, *(str(each.name) for each in self.containers(key))])
