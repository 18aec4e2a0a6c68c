"""A checkout in miniature whose one step does what a test tells it, and an executor over it."""

from __future__ import annotations

import abc
import contextlib
import shutil
import textwrap
import uuid
from pathlib import Path
from typing import Any

from kiln.executors.environments import Environment, load_environment
from kiln.executors.events import StepObserver
from kiln.executors.local.executor import LocalExecutor
from kiln.executors.protocol import Executor, StepExit, StepRun
from tests.support.checkout import ROOT
from tests.support.fixtures import Recorder

PROBE = '''"""Runs the text that it is given as its work."""
import dataclasses

from stages.contract import main

def run(job, events):
    space = {"job": job, "events": events, "result": {}}
    exec(job.params["body"], space)
    return dataclasses.make_dataclass("Result", space["result"])(**space["result"])

if __name__ == "__main__":
    main(run)
'''

#: The first step of `kiln inspect`; says so in its log, and never ends by itself.
WAITS = '''"""Waits."""
import sys
import time

from stages.contract import main

def run(job, events):
    print("the step waits", file=sys.stderr, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    main(run)
'''

_CACHES = shutil.ignore_patterns("__pycache__")


def one_pin(package: str) -> str:
    """One small package of the driver's own lock, with its hashes."""
    lines = (ROOT / "kiln.lock").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{package}=="))
    last = next(i for i in range(first, len(lines)) if not lines[i].endswith("\\"))
    return "\n".join(lines[first : last + 1]) + "\n"


class Bench(abc.ABC):
    """Runs steps in one of the executors."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home
        for folder in ("docker", "stages/vela"):
            (root / folder).mkdir(parents=True)
        shutil.copytree(ROOT / "stages" / "results", root / "stages" / "results", ignore=_CACHES)
        for name in ("vela.Dockerfile", "vela.lock"):
            shutil.copy(ROOT / "docker" / name, root / "docker" / name)
        for path in (ROOT / "stages").glob("*.py"):  # what the driver imports too
            shutil.copy(path, root / "stages")
        shutil.copy(ROOT / "stages" / "vela" / "__init__.py", root / "stages" / "vela")
        (root / "stages" / "vela" / "probe.py").write_text(PROBE, encoding="utf-8")
        (root / "stages" / "vela" / "describe.py").write_text(WAITS, encoding="utf-8")

    @property
    def environment(self) -> Environment:
        """That of the step, as the checkout defines it now."""
        return load_environment(self.root, "vela")

    @abc.abstractmethod
    def executor(self) -> Executor:
        """A new one."""

    @abc.abstractmethod
    def left(self, key: str) -> list[str]:
        """What there is of a job now: "state" is its unfinished work."""

    def running(self) -> list[str]:
        """What runs now that belongs to this checkout: drivers and steps."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.root).encode() in (each / "environ").read_bytes():
                    found.append((each / "cmdline").read_text().replace("\0", " "))
        return found

    def step(self, body: str, **settings: Any) -> StepRun:
        """A step that runs ``body``, which may set ``result``."""
        name = uuid.uuid4().hex
        out = self.root / "outs" / name
        out.mkdir(parents=True)
        defaults: dict[str, Any] = {
            "key": f"test-{name}",
            "step": "probe",
            "module": "stages.vela.probe",
            "environment": self.environment,
            "inputs": {},
            "out": out,
        }
        params = {"body": textwrap.dedent(body), **settings.pop("params", {})}
        return StepRun(**{**defaults, "params": params, **settings})

    def run(self, step: StepRun, observe: StepObserver | None = None) -> StepExit:
        """Run a step to its end, and leave the executor's block without an exception."""
        with self.executor().run(step, observe or Recorder()) as ended:
            return ended

    def result(self, body: str, **settings: Any) -> Any:
        """What a step gives as its result that runs ``body``."""
        recorder = Recorder()
        self.run(self.step(body, **settings), recorder)
        return recorder.result


class LocalBench(Bench):
    """The real vela environment, and a probing step."""

    def executor(self) -> LocalExecutor:
        return LocalExecutor(root=self.root, home=self.home, logs=self.root / "logs")

    def left(self, key: str) -> list[str]:
        paths = (self.home / "jobs" / key).glob("*")
        return sorted(path.name for path in paths if path.name != ".claim")
