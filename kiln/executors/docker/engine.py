"""The container engine: is one there, and what to say when it is not, or goes away."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.context import Context, ContextAPI

from kiln.errors import DiskFull, EngineError

#: Docker 20.10 of 2020; it brought the platform of a container.
MINIMUM_API = (1, 41)
PLATFORM = "linux/amd64"

#: Everything that Kiln makes in an engine carries this label; `kiln clean` goes by it.
LABEL = "org.kiln"

_PROBE_TIMEOUT_S = 5.0
#: An engine answers nothing while it copies gigabytes from one stage of a build to the next.
_TIMEOUT_S = 900.0
_START = "start it and run the same command again: finished steps are kept"

#: What the SDK raises if an engine does not answer, or goes away.
UNREACHABLE = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    docker.errors.DockerException,
    OSError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """Can the engine be used; its version, or why it cannot."""

    reachable: bool
    version: str
    detail: str


def engine_status() -> EngineStatus:
    """Ask the engine, for a few seconds at most."""
    address = _address()
    problem = _socket_problem(address)
    if problem:
        return EngineStatus(reachable=False, version="", detail=problem)
    try:
        with contextlib.closing(_client(_PROBE_TIMEOUT_S)) as client:
            version = client.version()
    except UNREACHABLE as error:
        detail = f"{address} does not answer ({_root_cause(error)})"
        return EngineStatus(reachable=False, version="", detail=detail)
    text = f"{_brand(version)} {version.get('Version', '?')}"
    problem = _why_unusable(text, version)
    return EngineStatus(reachable=not problem, version=text, detail=problem)


def connect() -> docker.DockerClient:
    """A client of an engine that can be used; raises EngineError."""
    status = engine_status()
    if not status.reachable:
        raise EngineError(
            f"no container engine answers: {status.detail}",
            hint="start it, or use EXECUTOR=local, which needs none",
        )
    with engine_errors("answer"):
        return _client(_TIMEOUT_S)


def is_alive() -> bool:
    """Whether the engine answers at all; quick."""
    try:
        with contextlib.closing(_client(_PROBE_TIMEOUT_S)) as client:
            return bool(client.ping())
    except UNREACHABLE:
        return False


@contextlib.contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn what the SDK raises while the engine is to ``doing`` into EngineError or DiskFull."""
    try:
        yield
    except docker.errors.APIError as error:
        said = str(error.explanation or error)
        if "no space left" in said.lower():
            raise DiskFull(
                f"the container engine could not {doing}: its disk is full",
                hint="make room there: docker system prune, kiln clean --environments",
            ) from error
        raise EngineError(
            f"the container engine could not {doing}: {said}",
            hint="docker info tells how the engine is",
        ) from error
    except UNREACHABLE as error:
        raise EngineError(
            f"the container engine went away when it was to {doing}: {error}", hint=_START
        ) from error


def engine_gone(doing: str) -> EngineError:
    """For an end that no exception tells of."""
    return EngineError(f"the container engine went away {doing}", hint=_START)


def _client(timeout_s: float) -> docker.DockerClient:
    """The engine that the docker command would use: DOCKER_HOST, else its current context."""
    context = _context()
    if context is None:
        return docker.from_env(version="auto", timeout=int(timeout_s))
    return docker.DockerClient(
        base_url=context.Host,
        tls=context.TLSConfig or False,
        version="auto",
        timeout=int(timeout_s),
    )


def _context() -> Context | None:
    """What `docker context use` chose, which the SDK by itself takes no notice of."""
    if os.environ.get("DOCKER_HOST"):
        return None
    context = ContextAPI.get_current_context()
    return context if context is not None and context.Name != "default" else None


def _address() -> str:
    context = _context()
    if context is not None:
        return str(context.Host)
    default = str(DEFAULT_UNIX_SOCKET).replace("http+unix://", "unix://")
    return os.environ.get("DOCKER_HOST") or default


def _socket_problem(address: str) -> str:
    """Why the engine's socket on this host cannot be used; nothing if it can, or isn't here."""
    if not address.startswith("unix://"):
        return ""
    path = address.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return f"there is no {path}"
        except PermissionError:
            return f"you may not use {path}; join its group: sudo usermod -aG docker $USER"
        except OSError as error:
            return f"nothing answers on {path} ({error.strerror or error})"
    return ""


def _root_cause(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__


def _why_unusable(text: str, version: dict[str, Any]) -> str:
    api = str(version.get("ApiVersion", "0.0"))
    if tuple(int(part) for part in api.split(".")) < MINIMUM_API:
        least = ".".join(map(str, MINIMUM_API))
        return f"{text} speaks API {api}, and Kiln needs {least} (Docker 20.10 or later)"
    if str(version.get("Os")) != "linux":
        return f"{text} runs {version.get('Os')} containers, and Kiln needs linux ones"
    return ""


def _brand(version: dict[str, Any]) -> str:
    """Docker, or what else speaks its API."""
    names = [str(part.get("Name", "")) for part in version.get("Components") or []]
    return "Podman" if any("podman" in name.lower() for name in names) else "Docker"
