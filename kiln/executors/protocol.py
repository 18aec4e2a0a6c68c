"""Where a step runs: the protocol that the two executors share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from kiln.executors.environments import Environment
from kiln.executors.events import StepObserver
from kiln.store.tree import Tree
from stages.contract import CONTRACT_VERSION

Gpu = Literal["none", "auto", "required"]
ExecutorName = Literal["auto", "docker", "local"]

#: Takes one line on what the executor is doing now.
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a step may use at most; None means as much as the host or engine gives."""

    memory_mib: int | None = None
    timeout_s: float | None = None
    pids: int = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRun:
    """One step, ready to run.

    ``key`` names the job: a resumable step that is interrupted finds its ``state/`` again under
    the same key. ``out`` is an existing empty folder on this host that the executor fills.
    """

    key: str
    step: str
    module: str
    environment: Environment
    params: Mapping[str, Any]
    inputs: Mapping[str, Tree]
    out: Path
    network: bool = False
    gpu: Gpu = "none"
    resumable: bool = False
    limits: Limits = Limits()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepExit:
    """How a step ended. ``facts`` is what the executor knows of it (image, interpreter, GPU)."""

    code: int
    oom_killed: bool = False
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Executor(Protocol):
    """Makes environments and runs steps in them."""

    name: Literal["docker", "local"]

    def prepare(self, environments: Sequence[Environment], say: Say) -> None:
        """Make what is missing of these environments; raises EnvironmentBroken, EngineError."""

    def run(self, run: StepRun, observe: StepObserver) -> AbstractContextManager[StepExit]:
        """Run one step; inside the ``with`` block it has ended, and ``run.out`` is filled if it
        exited with 0.

        Leaving the block without an exception throws the unfinished work of a resumable step
        away that exited with 0; so what it gave must be stored inside. ``observe`` is called in
        the caller's thread. Raises EngineError if the engine goes away, StepTimeout, DiskFull, and
        lets KeyboardInterrupt through after the step has been stopped; leaves nothing running.
        """


def job_document(run: StepRun) -> dict[str, Any]:
    """The content of ``job.json``."""
    return {"contract": CONTRACT_VERSION, "step": run.step, "params": dict(run.params)}


#: Variables that every step sees, in both executors, so that its bytes depend on nothing else.
STEP_VARIABLES: Mapping[str, str] = {
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    "PYTHONNOUSERSITE": "1",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "SOURCE_DATE_EPOCH": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Newer processors have wider kernels, which add in another order: everywhere those of AVX2.
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's convolutions
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's products and factors of matrices
    "MKL_CBWR": "COMPATIBLE",  # torch's products of matrices: it takes AVX2 on Intel's alone
}
