"""Which executor a build runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kiln.errors import EngineError
from kiln.executors import Executor, Say
from kiln.request import BuildRequest


def choose_executor(
    request: BuildRequest, *, root: Path, home: Path, variables: Mapping[str, str], say: Say
) -> Executor:
    """Take what was asked for; ``auto`` takes the engine where one answers, and says why.

    Raises EngineError if docker was asked for and no engine answers.
    """
    # The SDK takes longer to import than a whole build that has nothing to do.
    from kiln.executors.docker import BuildNetwork, DockerExecutor, engine_status
    from kiln.executors.local import LocalExecutor

    def local() -> Executor:
        return LocalExecutor(root=root, home=home, logs=home / "logs")

    def docker() -> Executor:
        return DockerExecutor(
            root=root,
            logs=home / "logs",
            network=BuildNetwork.from_environment(variables),
            registry=request.registry,
        )

    makers: Mapping[str, Callable[[], Executor]] = {"local": local, "docker": docker}
    if request.executor == "local":
        return local()
    status = engine_status()
    if request.executor == "auto":
        name = "docker" if status.reachable else "local"
        why = f"engine {status.version} answers" if status.reachable else status.detail
        say(f"executor: {name} ({why})")
        return makers[name]()
    if not status.reachable:
        raise EngineError(
            f"no container engine answers: {status.detail}",
            hint="start it, or use EXECUTOR=local, which needs none",
        )
    return docker()
