"""Runs steps as processes of this host, in environments made from the same locks.

A step gets a job folder of links to its inputs, a bare set of variables and a process group of
its own. That is all that confines it: the network is not closed to it, and memory is not
limited; the docker executor does both.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from kiln.errors import EnvironmentBroken, StepTimeout
from kiln.executors.environments import Environment
from kiln.executors.events import EventReader, LogLine, StepObserver
from kiln.executors.local.job import STARTED_BY, JobFolder, job_folder
from kiln.executors.protocol import STEP_VARIABLES, Say, StepExit, StepRun
from kiln.executors.uv import proxies
from kiln.executors.virtualenvs import Interpreter, VirtualEnvironments
from kiln.system import process
from kiln.system.workers import do_all
from stages.contract import EXIT_FAILED, EXIT_OK

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_OOM_COUNTER = Path("/proc/vmstat")
_SIGNAL_BASE = 128


class LocalExecutor:
    """``root`` is the checkout that holds ``stages``; environments and jobs lie in ``home``."""

    name: Literal["docker", "local"] = "local"

    def __init__(self, *, root: Path, home: Path, logs: Path) -> None:
        self._root = root.resolve()
        # Processes of a step are recognised by this path, so it must be the same in every driver.
        self._jobs = home.resolve() / "jobs"
        self._environments = VirtualEnvironments(home=home, logs=logs)

    def prepare(self, environments: Sequence[Environment], say: Say) -> None:
        """Make what is missing of these; raises EnvironmentBroken, DiskFull."""
        do_all(lambda each: self._environments.make(each, say), environments)

    def python(self, environment: Environment) -> Path:
        """The interpreter of an environment; raises EnvironmentBroken if it is not whole."""
        return self._interpreter(environment).path

    @contextlib.contextmanager
    def run(self, run: StepRun, observe: StepObserver) -> Iterator[StepExit]:
        """Run one step; see ``Executor.run``."""
        interpreter = self._interpreter(run.environment)
        with job_folder(self._jobs, run, observe) as job:
            ended = self._start(run, interpreter, job, observe)
            if ended.code == EXIT_OK:
                job.move_outputs()
            yield ended
            job.finished = ended.code == EXIT_OK

    def _interpreter(self, environment: Environment) -> Interpreter:
        found = self._environments.find(environment)
        if found is None:
            raise EnvironmentBroken(
                f"the {environment.name} environment is not there or was changed by hand",
                hint="run the same command again: it is made again",
            )
        return found

    def _start(
        self, run: StepRun, interpreter: Interpreter, job: JobFolder, observe: StepObserver
    ) -> StepExit:
        """Run the step to its end; the code is as a shell would give it."""
        events = EventReader(observe)
        killed_before = _oom_kills()
        try:
            code = process.run(
                [interpreter.path, "-m", run.module, job.path],
                env=self._variables(run, interpreter.path, job, os.environ),
                cwd=job.path,
                on_stdout=events.feed,
                on_stderr=lambda line: observe(LogLine(text=line)),
                timeout_s=run.limits.timeout_s,
                # If a killed driver's step cannot be ended from here, its end is waited for.
                inherit=[job.claim],
            )
        except process.TimedOut as error:
            raise StepTimeout(
                f"step {run.step} ran past its limit of {run.limits.timeout_s:g} s",
                hint="it was stopped; run the same command again to try once more",
            ) from error
        finally:
            # What has left the step's group: it could still write into what the step gives.
            job.end_processes()
        events.close()
        return StepExit(
            code=code if code >= 0 else _SIGNAL_BASE - code,
            # The kernel may have killed a worker of the step, and the step failed over that.
            oom_killed=code not in (EXIT_OK, EXIT_FAILED) and _oom_kills() > killed_before,
            facts=interpreter.facts,
        )

    def _variables(
        self, run: StepRun, python: Path, job: JobFolder, environ: Mapping[str, str]
    ) -> dict[str, str]:
        """All that the step sees; of the user's own only what it cannot do without."""
        kept: dict[str, str] = {}
        if run.network:
            kept |= proxies(environ)
            kept |= {name: environ[name] for name in _CERTIFICATES if name in environ}
        if run.gpu == "none":
            kept["CUDA_VISIBLE_DEVICES"] = ""
        else:
            kept |= {name: environ[name] for name in _GPU_VARIABLES if name in environ}
        tmp = str(job.tmp)
        return {
            **STEP_VARIABLES,
            **kept,
            "PATH": os.pathsep.join([str(python.parent), os.defpath]),
            "HOME": tmp,
            "TMPDIR": tmp,
            STARTED_BY: job.started_by,
            "PYTHONPATH": str(self._root),
            "PYTHONSAFEPATH": "1",
            # Beside the packages, because a step leaves nothing in the user's checkout.
            "PYTHONPYCACHEPREFIX": str(python.parent.parent / "pycache"),
        }


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 if it won't say."""
    with contextlib.suppress(OSError):
        for line in _OOM_COUNTER.read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
