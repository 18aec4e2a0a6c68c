"""What doctor asks of an engine beyond its version: disk, GPU, images, and its own network."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import docker

from kiln.executors.docker.build import BuildNetwork
from kiln.executors.docker.clean import list_images, taken
from kiln.executors.docker.engine import UNREACHABLE, connect, engine_errors
from kiln.executors.docker.gpu import gpu_request
from kiln.executors.docker.images import Images
from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment

#: An engine asks the registry itself, and waits for it as long as it likes.
_REGISTRY_TIMEOUT_S = 4
#: What the SDK calls an engine that is reached by a socket of this host.
_SOCKET = "http+docker:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """An engine that answers: the folder of its data if that is on this host, what its images take
    in bytes, which of the checkout's are missing, and why it reaches no registry.
    """

    data: Path | None
    offers_gpu: bool
    image_bytes: int
    missing: tuple[str, ...]
    registry: str
    registry_problem: str


def engine_facts(root: Path) -> EngineFacts:
    """Ask an engine that answers; takes seconds. Raises EngineError, EnvironmentBroken."""
    network = BuildNetwork.from_environment(os.environ)
    images = Images(root=root, logs=root, network=network, registry=None)
    environments = [load_environment(root, name) for name in ENVIRONMENT_NAMES]
    base = environments[0].base
    with contextlib.closing(connect()) as client, engine_errors("say how it is"):
        engine = client.info()
        data = Path(str(engine.get("DockerRootDir")))
        missing = [each.name for each in environments if images.find(client, each) is None]
        return EngineFacts(
            # Elsewhere a folder of that name would be another one.
            data=data if client.api.base_url.startswith(_SOCKET) and data.is_dir() else None,
            offers_gpu=gpu_request(engine, "auto") is not None,
            image_bytes=taken(list_images(client)),
            missing=tuple(missing),
            registry=_registry_of(base),
            registry_problem=_registry_problem(client, base),
        )


def _registry_of(image: str) -> str:
    """The host that an image's name begins with; Docker's own if it begins with none."""
    first, slash, _rest = image.partition("/")
    return first if slash and ("." in first or ":" in first) else "docker.io"


def _registry_problem(client: docker.DockerClient, image: str) -> str:
    """Why an image cannot be pulled, or nothing; only asks."""
    client.api.timeout = _REGISTRY_TIMEOUT_S
    try:
        client.images.get_registry_data(image)
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    except UNREACHABLE:
        return f"no answer within {_REGISTRY_TIMEOUT_S} s"
    return ""
