"""Which executor a build runs in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kiln.executors.local.executor import LocalExecutor
from kiln.executors.protocol import Executor, ExecutorName, Say


def choose_executor(
    name: ExecutorName,
    *,
    registry: str | None,
    root: Path,
    home: Path,
    variables: Mapping[str, str],
    say: Say,
) -> Executor:
    """Take what was asked for; ``auto`` takes the engine if one answers, and says why.

    ``registry`` is where images may be pulled from.

    An engine that was asked for and does not answer is told by the executor's first use of it.
    """
    logs = home / "logs"
    if name == "local":
        return LocalExecutor(root=root, home=home, logs=logs)
    # The SDK takes longer to import than a build that has nothing to do.
    from kiln.executors.docker.executor import BuildNetwork, DockerExecutor, engine_status

    if name == "auto":
        status = engine_status()
        chosen = "docker" if status.reachable else "local"
        why = f"engine {status.version} answers" if status.reachable else status.detail
        say(f"executor: {chosen} ({why})")
        if not status.reachable:
            return LocalExecutor(root=root, home=home, logs=logs)
    network = BuildNetwork.from_environment(variables)
    return DockerExecutor(root=root, logs=logs, network=network, registry=registry)
