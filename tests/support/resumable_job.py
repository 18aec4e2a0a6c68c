"""A job of the train environment that is ended on its way and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.executors.protocol import STEP_VARIABLES
from kiln.plan.step_results import read_result
from tests.support.checkout import ROOT


class ResumableJob:
    """A job folder of a step that keeps its state."""

    def __init__(
        self,
        python: Path,
        folder: Path,
        step: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Path],
    ) -> None:
        self.python, self.folder, self.step = python, folder, step
        (folder / "in").mkdir(parents=True)
        for name, path in inputs.items():
            (folder / "in" / name).symlink_to(path)
        document = {"contract": 1, "step": step, "params": dict(params)}
        (folder / "job.json").write_text(json.dumps(document))

    def run(self, *, end_with: signal.Signals | None = None, after: float = 0) -> Ended:
        """Run; send a signal when more than so many epochs or updates are done."""
        environment = {**STEP_VARIABLES, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        environment |= {"HOME": str(self.folder), "TMPDIR": str(self.folder)}
        events = []
        with (
            (self.folder / "log").open("wb") as log,
            subprocess.Popen(
                [self.python, "-m", f"stages.train.{self.step}", self.folder],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self.folder,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                events.append(json.loads(line))
                if end_with is not None and events[-1].get("done", 0) > after:
                    process.send_signal(end_with)
                    end_with = None
        return Ended(process.returncode, self.step, events)


class Ended:
    """How a run ended, and what it said."""

    def __init__(self, code: int, step: str, events: list[dict[str, Any]]) -> None:
        self.code, self.step, self.events = code, step, events

    @property
    def result(self) -> Any:
        assert self.events[-1]["event"] == "finished", self.events[-1]
        return read_result(self.step, self.events[-1]["result"], f"the step {self.step}")
