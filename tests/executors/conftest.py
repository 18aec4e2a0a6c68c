"""Benches for both executors, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from kiln.executors.environments import EnvironmentName
from tests.support.checkout import HOME
from tests.support.docker_bench import DockerBench, engine_or_skip, remove_all
from tests.support.executor_bench import Bench, LocalBench


@pytest.fixture(scope="session")
def local_bench(
    tmp_path_factory: pytest.TempPathFactory, env_python: Callable[[EnvironmentName], Path]
) -> LocalBench:
    env_python("vela")
    return LocalBench(tmp_path_factory.mktemp("local") / "checkout", HOME)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """The host's engine; at the end all that the tests have made there is removed."""
    client = engine_or_skip()
    yield client
    remove_all(client)
    client.close()


@pytest.fixture(scope="session")
def docker_bench(
    tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient
) -> DockerBench:
    bench = DockerBench(tmp_path_factory.mktemp("docker") / "checkout", client)
    bench.executor().prepare([bench.environment], print)
    return bench


@pytest.fixture(scope="session", params=["local", "docker"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """One after the other; without an engine the second is skipped."""
    found: Bench = request.getfixturevalue(f"{request.param}_bench")
    return found
