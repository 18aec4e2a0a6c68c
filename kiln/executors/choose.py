"""Which executor a build runs in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kiln.executors import Executor, Say
from kiln.executors.local import LocalExecutor
from kiln.request import BuildRequest


def choose_executor(
    request: BuildRequest, *, root: Path, home: Path, variables: Mapping[str, str], say: Say
) -> Executor:
    """Take what was asked for; ``auto`` takes the engine where one answers, and says why.

    An engine that was asked for and does not answer is told by the executor's first use of it.
    """
    logs = home / "logs"
    if request.executor == "local":
        return LocalExecutor(root=root, home=home, logs=logs)
    # The SDK takes longer to import than a build that has nothing to do.
    from kiln.executors.docker import BuildNetwork, DockerExecutor, engine_status

    if request.executor == "auto":
        status = engine_status()
        name = "docker" if status.reachable else "local"
        why = f"engine {status.version} answers" if status.reachable else status.detail
        say(f"executor: {name} ({why})")
        if not status.reachable:
            return LocalExecutor(root=root, home=home, logs=logs)
    network = BuildNetwork.from_environment(variables)
    return DockerExecutor(root=root, logs=logs, network=network, registry=request.registry)
