"""The pipeline of a finished build for DVC, on the same images, for benchmarks."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kiln.executors.uv import installer_variables, run_uv
from kiln.plan.plan import Plan
from kiln.plan.step import FromHost, FromStep, Input, Step
from scripts.stage_jobs import ROOT
from scripts.watch import Watched, watch

_STOP = "STOP_AT_FIRST_STAGE"
_STARTED = "started"
_UP_TO_DATE = "Data and pipelines are up to date."


class DvcPipeline:
    """A DVC project whose folder holds ``data/`` and ``weights.pt``; DVC has its own environment.

    A stage has the inputs and outputs of a step, and its code and lock; its command copies what
    the step gave.
    """

    up_to_date = _UP_TO_DATE

    def __init__(self, folder: Path, plan: Plan, build: Mapping[str, Any], store: Path) -> None:
        self._folder = folder
        self._variables = {"DVC_NO_ANALYTICS": "1", "PATH": f"{folder}/env/bin:{os.defpath}"}
        self._install()
        shutil.copytree(ROOT / "stages", folder / "code", ignore=shutil.ignore_patterns("__py*"))
        for lock in (ROOT / "docker").glob("*.lock"):
            shutil.copy(lock, folder / "code")
        keys = {step["name"]: step["key"] for step in build["steps"]}
        outs = {name: store / "entries" / key / "out" for name, key in keys.items()}
        stages = {step.name: _stage(step, outs[step.name]) for step in plan.steps}
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
        self._dvc("init", "--no-scm")
        self._dvc("config", "core.analytics", "false")

    def _install(self) -> None:
        variables = installer_variables(os.environ, self._folder)
        log = self._folder / "log"
        python = self._folder / "env" / "bin" / "python"
        run_uv("venv", "--no-project", self._folder / "env", variables=variables, log=log)
        run_uv("pip", "install", "--python", python, "dvc", variables=variables, log=log)

    def version(self) -> str:
        return self._dvc("--version").said.strip()

    def repro(self) -> Watched:
        """Make what is missing, or know that nothing is."""
        return self._dvc("repro")

    def seconds_to_first_stage(self) -> float:
        """How long it takes to know what has changed and to start the first stage."""
        started = time.time()
        self._dvc("repro", **{_STOP: "1"})
        return (self._folder / _STARTED).stat().st_mtime - started

    def _dvc(self, *arguments: str, **variables: str) -> Watched:
        command = [self._folder / "env" / "bin" / "dvc", *arguments]
        return watch(command, cwd=self._folder, variables=self._variables | variables)


def _stage(step: Step, given: Path) -> dict[str, Any]:
    out = f"steps/{step.name}"
    code = [
        f"code/{step.environment}",
        f"code/{step.environment}.lock",
        "code/contract.py",
        "code/results",
    ]
    return {
        "cmd": f'touch {_STARTED} && test -z "${_STOP}" && mkdir -p {out} && '
        f"cp -r --no-preserve=mode {given}/. {out}",
        "deps": [*code, *(path for each in step.inputs.values() for path in _paths(each))],
        "outs": [out],
    }


def _paths(source: Input) -> Iterator[str]:
    match source:
        case FromHost(source="data"):
            yield from ("data/images", "data/labels", "data/data.yaml")
        case FromHost():
            yield "weights.pt"
        case FromStep(step=step, path=path):
            yield f"steps/{step}/{path}".rstrip("/")
