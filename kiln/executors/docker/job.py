"""The container and the volumes of one step, by names that a later attempt finds again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import docker
from docker.models.containers import Container
from docker.types import Mount

from kiln.errors import EngineError
from kiln.executors.docker.engine import LABEL, PLATFORM, engine_errors
from kiln.executors.docker.files import put_files
from kiln.executors.docker.orphans import (
    DRIVER_LABEL,
    FOLDER,
    if_there,
    remove_container,
    remove_orphans,
)
from kiln.executors.docker.stream import Output, hang_up
from kiln.executors.orphans import this_driver
from kiln.executors.protocol import StepRun, job_document
from kiln.store.tree import canonical_json

JOB_LABEL = f"{LABEL}.job"
#: Where a step finds its job folder.
JOB_FOLDER = "/job"
_STATE_FOLDER = f"{JOB_FOLDER}/state"
_KEY_DIGITS = 12


class DockerJob:
    """What one step leaves in an engine; ``finished`` is set by the executor."""

    def __init__(self, client: docker.DockerClient, run: StepRun) -> None:
        self.finished = False
        self._client = client
        self._run = run
        self._labels = {LABEL: "job", JOB_LABEL: run.key, DRIVER_LABEL: this_driver()}
        self._container = f"kiln-{run.step}-{run.key[:_KEY_DIGITS]}"
        self._folder = f"{FOLDER}{run.key}"
        self._state = f"kiln-state-{run.key}"

    @property
    def mounts(self) -> list[Mount]:
        """The job folder, and apart from it the unfinished work of a step that can go on."""
        folder = Mount(JOB_FOLDER, self._folder)
        return [folder, Mount(_STATE_FOLDER, self._state)] if self._run.resumable else [folder]

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """Remove what killed drivers left, and at the end what this one leaves."""
        remove_orphans(self._client)
        self._remove(keep_state=True)
        try:
            yield
        except BaseException:
            # The reason matters more than that an engine that went away cannot clear up.
            with contextlib.suppress(EngineError):
                self._remove(keep_state=self._run.resumable)
            raise
        self._remove(keep_state=self._run.resumable and not self.finished)

    @contextlib.contextmanager
    def upload_container(self, image: str, mount: Mount) -> Iterator[Container]:
        """A container that never starts and is there only to carry files into a volume."""
        name = f"{self._container}-upload"
        try:
            self._remove_container(name)
            with engine_errors("make a container"):
                made = self._create(image, name, mounts=[mount], network_mode="none")
            yield made
        finally:
            with contextlib.suppress(EngineError):
                self._remove_container(name)

    def start(
        self,
        image: str,
        inputs: Mapping[str, str],
        files: Mapping[str, bytes],
        settings: Mapping[str, Any],
    ) -> tuple[Container, Output]:
        """Start the step in a job folder whose ``in/`` links to ``inputs`` and holds ``files``.

        Raises EngineError.
        """
        self._remove_container(self._container)
        with engine_errors("make a volume"):
            for mount in self.mounts:
                self._client.volumes.create(mount["Source"], labels=self._labels)
        with engine_errors(f"start {self._run.step}"):
            container = self._create(image, self._container, **settings)
            put_files(
                container,
                JOB_FOLDER,
                {
                    "job.json": canonical_json(job_document(self._run)),
                    **{f"in/{name}": data for name, data in files.items()},
                },
                links={f"in/{name}": path for name, path in inputs.items()},
                own=("out", "state"),
            )
            output: Output = container.attach(
                stdout=True, stderr=True, stream=True, logs=False, demux=True
            )
            try:
                container.start()
            except BaseException:
                hang_up(output)
                raise
        return container, output

    def _create(self, image: str, name: str, **settings: Any) -> Container:
        return self._client.containers.create(
            image, name=name, labels=self._labels, platform=PLATFORM, **settings
        )

    def _remove(self, *, keep_state: bool) -> None:
        self._remove_container(self._container)
        with engine_errors("remove a volume"):
            if_there(lambda: self._client.volumes.get(self._folder).remove())
            if not keep_state:
                if_there(lambda: self._client.volumes.get(self._state).remove())

    def _remove_container(self, name: str) -> None:
        """The store lets one driver make a step, so one of this name is in no use."""
        with engine_errors("remove a container"):
            if_there(lambda: remove_container(self._client.containers.get(name)))
