"""The folders of a build."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths:
    """Where definitions, private state and results lie."""

    root: Path
    home: Path
    results: Path

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def result_of(self, target: str, name: str) -> Path:
        """The folder that a build is laid out in."""
        return self.results / target / name

    def log_of(self, step: str, key: str) -> Path:
        return self.logs / f"{step}-{key[:12]}.log"
