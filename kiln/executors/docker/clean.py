"""Removes what Kiln has left in an engine; everything it makes there carries its label."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from kiln.executors.docker.build import BuildNetwork
from kiln.executors.docker.engine import LABEL, connect, engine_errors, engine_status
from kiln.executors.docker.images import Images
from kiln.executors.docker.orphans import remove_orphans
from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment

_OURS: dict[str, Any] = {"label": LABEL}
#: How an engine refuses to remove what a container or another image stands on.
_CONFLICT = 409


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineImage:
    """An image of an engine: its layers from the bottom up, and the bytes of all of them."""

    id: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]
    bytes: int

    @property
    def name(self) -> str:
        return f"image {self.tags[0] if self.tags else self.id[:19]}"


def clean_engine(*, images: bool) -> list[str]:
    """Remove volumes and ended containers, and images if asked; says what went.

    A container that runs, or has yet to, may belong to a build that goes on: it stays, and so do
    its volumes, unless its driver is known to be dead. Nothing is done if no engine answers.
    Raises EngineError.
    """
    if not engine_status().reachable:
        return []
    with contextlib.closing(connect()) as client, engine_errors("clean up"):
        remove_orphans(client)
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


def stale_images(root: Path) -> list[EngineImage]:
    """Kiln's images that a checkout does not name; ``bytes`` is what removing them all frees.

    Nothing if no engine answers. Raises EngineError, EnvironmentBroken.
    """
    if not engine_status().reachable:
        return []
    network = BuildNetwork.from_environment(os.environ)
    images = Images(root=root, logs=root, network=network, registry=None)
    with contextlib.closing(connect()) as client, engine_errors("list its images"):
        names = {
            tag
            for name in ENVIRONMENT_NAMES
            for tag in images.tags(client, load_environment(root, name))
        }
        return unnamed(list_images(client), names)


def list_images(client: docker.DockerClient) -> list[EngineImage]:
    """All images that Kiln has made in an engine, the oldest first."""
    found = client.images.list(filters=_OURS)
    found.sort(key=lambda image: str(image.attrs.get("Created")))
    return [
        EngineImage(
            id=str(image.id),
            tags=tuple(image.tags),
            layers=tuple(image.attrs["RootFS"]["Layers"]),
            bytes=int(image.attrs["Size"]),
        )
        for image in found
    ]


def taken(images: Sequence[EngineImage]) -> int:
    """Bytes that images take together, each layer counted once."""
    return sum(image.bytes for image in unnamed(images, ()))


def unnamed(images: Sequence[EngineImage], names: Collection[str]) -> list[EngineImage]:
    """Images, the oldest first, that go by none of these names; the newest first.

    An image that is built on another counts only what it adds to it.
    """
    kept = [image for image in images if {image.id, *image.tags} & set(names)]
    stale: list[EngineImage] = []
    counted = list(kept)
    for image in images:
        if image not in kept:
            below = [each.bytes for each in counted if _is_built_on(image, each)]
            counted.append(image)
            stale.insert(0, dataclasses.replace(image, bytes=image.bytes - max(below, default=0)))
    return stale


def remove_image(image: EngineImage) -> bool:
    """Remove an image; False if a container or another image stands on it. Raises EngineError."""
    with contextlib.closing(connect()) as client, engine_errors("remove an image"):
        try:
            for name in image.tags or (image.id,):
                client.images.remove(name)
        except docker.errors.ImageNotFound:
            return True
        except docker.errors.APIError as error:
            if error.status_code == _CONFLICT:
                return False
            raise
    return True


def _is_built_on(image: EngineImage, other: EngineImage) -> bool:
    return image.layers[: len(other.layers)] == other.layers


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
