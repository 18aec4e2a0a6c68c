"""Removes what Kiln has left in an engine; everything it makes there carries its label."""

from __future__ import annotations

import contextlib
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from kiln.executors.docker_engine import LABEL, connect, engine_errors, engine_status

_OURS: dict[str, Any] = {"label": LABEL}


def clean_engine(*, images: bool) -> list[str]:
    """Remove volumes and ended containers, and images if asked; says what went.

    A container that runs, or has yet to, may belong to a build that goes on: it stays, and so do
    its volumes. Nothing is done where no engine answers. Raises EngineError.
    """
    if not engine_status().reachable:
        return []
    with contextlib.closing(connect()) as client, engine_errors("clean up"):
        ended = [each for each in client.containers.list(all=True, filters=_OURS) if _ended(each)]
        for container in ended:
            container.remove(v=True)
        unused = client.volumes.list(filters={**_OURS, "dangling": True})
        for volume in unused:
            volume.remove()
        counts = {"containers": len(ended), "volumes": len(unused)}
        if images:
            counts["images"] = _remove_images(client)
    return [f"{count} {kind} of the container engine" for kind, count in counts.items() if count]


def _ended(container: Container) -> bool:
    return str(container.status) in ("exited", "dead")


def _remove_images(client: docker.DockerClient) -> int:
    """Newest first: an engine keeps an image that another one is built on."""
    found = client.images.list(filters=_OURS)
    found.sort(key=lambda image: str(image.attrs.get("Created")), reverse=True)
    for image in found:
        with contextlib.suppress(docker.errors.ImageNotFound):
            client.images.remove(str(image.id), force=True)
    return len(found)
