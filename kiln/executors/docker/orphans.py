"""Removes from an engine what drivers of this host have left that were killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from kiln.executors.docker.engine import LABEL, engine_errors
from kiln.executors.orphans import is_dead

#: Says which driver made a container or a volume.
DRIVER_LABEL = f"{LABEL}.driver"
#: How the name of a volume begins that holds a job folder.
FOLDER = "kiln-job-"

_DRIVEN: dict[str, Any] = {"label": DRIVER_LABEL}


def remove_orphans(client: docker.DockerClient) -> None:
    """Remove the containers and job folders of dead drivers; raises EngineError.

    The unfinished work of a step that can go on from it stays.
    """
    with engine_errors("remove what a killed driver left"):
        for container in client.containers.list(all=True, sparse=True, filters=_DRIVEN):
            if is_dead(container.attrs["Labels"][DRIVER_LABEL]):
                remove_container(container)
        for volume in client.volumes.list(filters=_DRIVEN):
            if volume.name.startswith(FOLDER) and is_dead(volume.attrs["Labels"][DRIVER_LABEL]):
                if_there(volume.remove)


def remove_container(container: Container) -> None:
    """End and remove a container, which others may be doing too; when it returns it is gone."""

    def remove() -> None:
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            container.wait(condition="removed")

    if_there(remove)


def if_there(remove: Callable[[], object]) -> None:
    """Remove what may be gone already; raises what the SDK raises for all else."""
    with contextlib.suppress(docker.errors.NotFound):
        remove()
