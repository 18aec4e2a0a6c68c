"""A checkout in miniature whose one step does what a test tells it, for tests with an engine."""

from __future__ import annotations

import dataclasses
import os
import shutil
import textwrap
import uuid
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from kiln.executors.docker.executor import BuildNetwork, DockerExecutor, engine_status
from kiln.executors.environments import Environment, load_environment
from kiln.executors.protocol import StepRun
from tests.support.checkout import ROOT
from tests.support.fixtures import Recorder

#: What names begin with instead of kiln-; of one run of the tests, for another may go on beside.
PREFIX = f"kiln-test-{os.getpid()}-"

PROBE = '''"""Runs the text that it is given as its work."""
import dataclasses
from stages.contract import main

@dataclasses.dataclass
class Result:
    value: object

def run(job, events):
    space = {"job": job, "events": events, "result": {}}
    exec(job.params["body"], space)
    return Result(space["result"])

if __name__ == "__main__":
    main(run)
'''


def engine_or_skip() -> docker.DockerClient:
    """A client; without an engine the test is skipped, or fails where CI is set."""
    status = engine_status()
    if not status.reachable:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have an engine: {status.detail}", pytrace=False)
        pytest.skip(f"no container engine: {status.detail}")
    return docker.from_env()


def one_pin(package: str) -> str:
    """One small package of the driver's own lock, with its hashes."""
    lines = (ROOT / "kiln.lock").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{package}=="))
    last = next(i for i in range(first, len(lines)) if not lines[i].endswith("\\"))
    return "\n".join(lines[first : last + 1]) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """The checkout, and an executor over it."""

    root: Path
    client: docker.DockerClient

    @property
    def environment(self) -> Environment:
        return load_environment(self.root, "vela")

    def executor(self, **settings: Any) -> DockerExecutor:
        network = BuildNetwork.from_environment(os.environ)
        defaults = {"root": self.root, "logs": self.root / "logs", "network": network}
        return DockerExecutor(**{**defaults, **settings})

    def step(self, body: str, **settings: Any) -> StepRun:
        """A step that runs ``body``, which may set ``result``."""
        name = uuid.uuid4().hex
        out = self.root / "outs" / name
        out.mkdir(parents=True)
        defaults: dict[str, Any] = {
            "key": name,
            "step": "probe",
            "module": "stages.vela.probe",
            "environment": self.environment,
            "params": {"body": textwrap.dedent(body)},
            "inputs": {},
            "out": out,
        }
        return StepRun(**{**defaults, **settings})

    def result(self, body: str, **settings: Any) -> Any:
        recorder = Recorder()
        with self.executor().run(self.step(body, **settings), recorder):
            return recorder.result

    def containers(self, key: str) -> list[Container]:
        label = f"org.kiln.job={key}"
        return list(self.client.containers.list(all=True, filters={"label": label}))

    def volumes(self, key: str) -> list[str]:
        found = self.client.volumes.list(filters={"label": f"org.kiln.job={key}"})
        return sorted(volume.name.removesuffix(f"-{key}") for volume in found)

    def is_clear_of(self, key: str) -> bool:
        """Whether nothing of a job is left in the engine."""
        return not self.containers(key) and not self.volumes(key)


def remove_all(client: docker.DockerClient) -> None:
    """Take everything of all benches out of the engine, but the base image."""
    for image in client.images.list():
        for tag in image.tags:
            if PREFIX in tag:
                client.images.remove(tag, force=True)
    for volume in client.volumes.list():
        if volume.name.startswith(PREFIX):
            volume.remove()


def make_bench(root: Path, client: docker.DockerClient) -> Bench:
    """Lay out the checkout: everything real but for the packages, the step and the names."""
    for folder in ("docker", "scripts", "stages/results", "stages/vela", "outs"):
        (root / folder).mkdir(parents=True)
    for name in ("kiln.lock", "docker/vela.Dockerfile", "scripts/build_base.sh"):
        shutil.copy(ROOT / name, root / name)
    for name in ("__init__.py", "contract.py", "results/__init__.py", "vela/__init__.py"):
        shutil.copy(ROOT / "stages" / name, root / "stages" / name)
    (root / "stages" / "vela" / "probe.py").write_text(PROBE, encoding="utf-8")
    (root / "docker" / "vela.lock").write_text(one_pin("idna"), encoding="utf-8")
    names = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for kind in ("image: ", "name: "):
        names = names.replace(f"{kind}kiln-", f"{kind}{PREFIX}")
    (root / "compose.yaml").write_text(names, encoding="utf-8")
    return Bench(root=root, client=client)
