"""Runs steps in containers, one each, removed whatever happens.

Nothing of the host is mounted: inputs and outputs travel as archives, so an engine on another
machine works like one on this. The inputs' volume is shared by all steps and read-only to them;
a job's own volume goes with it, except the unfinished work of a step that can go on from it.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import docker
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from kiln.errors import DeviceError, EngineError, EnvironmentBroken
from kiln.executors.docker.build import BuildNetwork
from kiln.executors.docker.compose import load_names
from kiln.executors.docker.engine import (
    LABEL,
    EngineStatus,
    connect,
    engine_errors,
    engine_gone,
    engine_status,
)
from kiln.executors.docker.files import download_folder, upload_tree
from kiln.executors.docker.gpu import gpu_request, is_gpu_trouble
from kiln.executors.docker.images import Image, Images
from kiln.executors.docker.job import JOB_FOLDER, DockerJob
from kiln.executors.docker.stream import Output, follow
from kiln.executors.environments import Environment
from kiln.executors.events import LogLine, StepObserver
from kiln.executors.protocol import STEP_VARIABLES, Say, StepExit, StepRun
from kiln.system.workers import do_all
from stages.contract import EXIT_OK

__all__ = ["BuildNetwork", "DockerExecutor", "EngineStatus", "engine_status"]

#: Where a step's container has the inputs' volume.
_INPUTS = "/kiln"
#: What the engine and its host need beside a step.
_SPARE_BYTES = 512 << 20
_KILLED = 137

_VARIABLES: Mapping[str, str] = {
    **STEP_VARIABLES,
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    # Tells a step that nothing outside its job can be reached.
    "KILN_SANDBOXED": "1",
}
_NO_GPU: Mapping[str, str] = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}


class DockerExecutor:
    """``root`` is the checkout that defines the images; ``logs`` takes those of their builds."""

    name: Literal["docker", "local"] = "docker"

    def __init__(
        self, *, root: Path, logs: Path, network: BuildNetwork, registry: str | None = None
    ) -> None:
        self._network = network
        self._images = Images(root=root, logs=logs, network=network, registry=registry)
        self._inputs_volume = load_names(root).inputs_volume

    def prepare(self, environments: Sequence[Environment], say: Say) -> None:
        """Make what is missing of these images; raises EnvironmentBroken, EngineError, DiskFull."""
        client = self._client
        do_all(lambda each: self._images.make(client, each, say), environments)

    @contextlib.contextmanager
    def run(self, run: StepRun, observe: StepObserver) -> Iterator[StepExit]:
        """Run one step; see ``Executor.run``."""
        image = self._images.find(self._client, run.environment)
        if image is None:
            raise EnvironmentBroken(
                f"the {run.environment.name} image is not there, or not of this code",
                hint="make images",
            )
        job = DockerJob(self._client, run)
        with job.cleared():
            inputs = self._upload(job, image, run)
            container, output, gpu_requested = self._start(job, image, inputs, run, observe)
            code = follow(container, output, run, observe)
            facts = {"image": image.tag, "image_id": image.id, "base": image.base}
            ended = StepExit(
                code=code,
                oom_killed=code != EXIT_OK and _was_killed_for_memory(container, code, run),
                facts={**facts, "gpu_requested": gpu_requested},
            )
            if code == EXIT_OK:
                download_folder(container, f"{JOB_FOLDER}/out", run.out, step=run.step)
            yield ended
            job.finished = code == EXIT_OK

    @functools.cached_property
    def _client(self) -> docker.DockerClient:
        client = connect()
        weakref.finalize(self, client.close)
        return client

    @functools.cached_property
    def _engine(self) -> Mapping[str, Any]:
        """What the engine says of itself; see ``docker info``."""
        with engine_errors("tell what it is"):
            info: Mapping[str, Any] = self._client.info()
            return info

    def _upload(self, job: DockerJob, image: Image, run: StepRun) -> dict[str, str]:
        """Bring the inputs into their volume; a path of the step's container for each."""
        with engine_errors("make a volume"):
            self._client.volumes.create(self._inputs_volume, labels={LABEL: "inputs"})
        if not run.inputs:
            return {}
        mount = Mount(_INPUTS, self._inputs_volume)
        with job.upload_container(image.id, mount) as container:
            return {
                name: upload_tree(container, _INPUTS, tree) for name, tree in run.inputs.items()
            }

    def _start(
        self,
        job: DockerJob,
        image: Image,
        inputs: Mapping[str, str],
        run: StepRun,
        observe: StepObserver,
    ) -> tuple[Container, Output, bool]:
        """Start the step, with a GPU if the engine has one and the step wants it."""
        settings = self._settings(run) | {
            "mounts": [Mount(_INPUTS, self._inputs_volume, read_only=True), *job.mounts]
        }
        files = self._network.certificate_files() if run.network else {}
        request = gpu_request(self._engine, run.gpu)
        if request is not None:
            try:
                with_gpu = settings | {"device_requests": [request]}
                return *job.start(image.id, inputs, files, with_gpu), True
            except EngineError as error:
                if not is_gpu_trouble(error.message):
                    raise
                if run.gpu == "required":
                    raise DeviceError(
                        f"{run.step} must have a GPU: {error.message}",
                        hint="check the NVIDIA driver and container toolkit, or use GPU=auto",
                    ) from error
                observe(LogLine(text=f"going on without a GPU: {error.message}"))
        return *job.start(image.id, inputs, files, settings), False

    def _settings(self, run: StepRun) -> dict[str, Any]:
        """What a step is limited to: the sandbox around it."""
        if run.limits.memory_mib is not None:
            memory = run.limits.memory_mib << 20
        else:
            total = int(self._engine["MemTotal"])
            memory = max(total - _SPARE_BYTES, total // 2)
        return {
            "command": [run.module, JOB_FOLDER],
            "environment": {
                **_VARIABLES,
                **(_NO_GPU if run.gpu == "none" else {}),
                **(self._network.proxies() if run.network else {}),
            },
            "network_mode": "bridge" if run.network else "none",
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "mem_limit": memory,
            "memswap_limit": memory,
            "pids_limit": run.limits.pids,
            "shm_size": memory // 2,
            "init": True,
            # The driver keeps the log; the engine's copy would only fill its disk.
            "log_config": LogConfig(type=LogConfig.types.NONE),
        }


def _was_killed_for_memory(container: Container, code: int, run: StepRun) -> bool:
    """Ask the engine. Some never say so; but nothing else kills a step that nobody stopped."""
    with engine_errors(f"tell how {run.step} ended"):
        container.reload()
    state: Mapping[str, Any] = container.attrs["State"]
    if state.get("Running"):
        raise engine_gone(f"while {run.step} ran")
    return bool(state.get("OOMKilled")) or code == _KILLED
