"""Writes a model to a board with an ESP32, through Espressif's esptool.

esptool (https://github.com/espressif/esptool, GPL-2.0-or-later) has many dependencies and is needed
for these boards only. So it has its own environment, made from a lock when it is first needed, and
runs in its own process: ``esp_worker.py``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kiln.device.flash import FlashPlan
from kiln.device.link import check_port
from kiln.errors import EnvironmentBroken, FlashFailed, RequestError, os_errors
from kiln.executors.protocol import Say
from kiln.executors.uv import installer_variables
from kiln.executors.virtualenvs import (
    find_whole,
    install_locked,
    make_empty,
    make_whole,
    mark_whole,
)
from kiln.paths import Paths
from kiln.store.tree import digest_of, hash_file
from kiln.system import process

NAME = "esptool"
_HERE = Path(__file__).resolve().parent
_LOCK = _HERE / "esptool.lock"
#: esptool is published as source only; this is what it is built with.
_BUILD_LOCK = _HERE / "esptool-build.lock"
_WORKER = _HERE / "esp_worker.py"
#: To write and read back a whole partition takes about two minutes over the slowest USB port.
_TIMEOUT_S = 600.0
_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


def folder_name() -> str:
    """The name of esptool's environment, from its locks and this Python."""
    digest = digest_of([hash_file(lock) for lock in (_LOCK, _BUILD_LOCK)])
    return f"{NAME}-{digest[:12]}-cp{sys.version_info.major}{sys.version_info.minor}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Esptool:
    """The Python of an environment with esptool, and the log of its output."""

    python: Path
    log: Path

    @staticmethod
    def prepare(paths: Paths, say: Say) -> Esptool:
        """Make the environment if it is missing; raises EnvironmentBroken and DiskFull."""
        folder = paths.home / "envs" / folder_name()
        log = paths.logs / "environment-esptool.log"
        if find_whole(folder) is None:
            make_whole(folder, NAME, lambda: _fill(folder, paths.home, log, say), log=log, say=say)
        found = find_whole(folder)
        if found is None:
            raise EnvironmentBroken(
                "esptool's environment is not whole", hint="kiln clean --environments", log=log
            )
        return Esptool(python=found.path, log=paths.logs / "flash-esptool.log")

    def write(
        self,
        plan: FlashPlan,
        port: str,
        begin: Callable[[str], object],
        progress: Callable[[int, int], object],
    ) -> None:
        """Write a plan and read it back.

        ``begin`` gets the title of each phase, ``progress`` its bytes done and in all. Raises
        BoardError if the port cannot be used, and FlashFailed.
        """
        if plan.target.device.chip is None:
            raise RequestError(f"targets/{plan.target.name}.toml lacks the key 'chip' in [device]")
        check_port(port)
        run = _Run(len(plan.model), begin, progress)
        with tempfile.TemporaryDirectory() as folder, os_errors("esptool cannot be run"):
            # A copy: the file in the result folder may have changed since it was checked.
            model = Path(folder) / "model.tflite"
            model.write_bytes(plan.model)
            arguments = ("--port", port, "--chip", plan.target.device.chip)
            self._run([*arguments, "--address", hex(plan.address), model], run)
        if run.failure or not run.done:
            raise FlashFailed(
                run.failure or f"esptool ended without a result; its log is {self.log}",
                done=run.written,
                total=len(plan.model),
            )

    def _run(self, arguments: list[str | Path], run: _Run) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        lines = process.Lines(run.take)

        def keep(line: str) -> None:
            log.write(line + "\n")

        with self.log.open("w", encoding="utf-8") as log:
            try:
                process.run(
                    # -P: the worker must not import the modules of Kiln beside it.
                    [self.python, "-P", _WORKER, *arguments],
                    env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
                    cwd=self.log.parent,
                    on_stdout=lines.feed,
                    on_stderr=keep,
                    timeout_s=_TIMEOUT_S,
                )
            except process.TimedOut:
                run.failure = f"esptool was not done after {_TIMEOUT_S:.0f} s"


class _Run:
    """The state of a run, from the worker's events."""

    def __init__(
        self,
        size: int,
        begin: Callable[[str], object],
        progress: Callable[[int, int], object],
    ) -> None:
        self._size = size
        self._begin = begin
        self._progress = progress
        self._phase = 0
        self.written = 0
        self.failure = ""
        self.done = False

    def take(self, line: str) -> None:
        """Handle one line of the worker's output, which is an event."""
        event: Mapping[str, Any] = json.loads(line)
        match event["event"]:
            case "phase":
                self._phase += 1
                self._begin(event["title"])
            case "progress" if event["total"]:
                # In bytes of the model, though esptool counts compressed ones.
                share = min(1.0, event["done"] / event["total"])
                if self._phase == 1:
                    self.written = round(share * self._size)
                self._progress(round(share * self._size), self._size)
            case "failed":
                self.failure = event["why"]
            case "done":
                self.done = True


def _fill(folder: Path, home: Path, log: Path, say: Say) -> None:
    """Raises UvFailed and OSError."""
    variables = installer_variables(os.environ, home)
    say("making an environment for esptool (about 50 MB, once)")
    make_empty(Path(sys.executable), folder, variables=variables, log=log)
    # uv checks no hashes of build requirements; without isolation esptool is built with these only.
    install_locked(_BUILD_LOCK, folder, "--only-binary", ":all:", variables=variables, log=log)
    options = ("--only-binary", ":all:", "--no-binary", NAME, "--no-build-isolation")
    install_locked(_LOCK, folder, *options, variables=variables, log=log)
    mark_whole(folder, _LOCK, variables=variables)
