"""The folders of a build."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

#: What Python calls a folder of installed packages; the latter in Debian's own Python.
_PACKAGES = ("site-packages", "dist-packages")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths:
    """Where Kiln's own files (``root``), its private state and results lie.

    ``root`` is a checkout, an unpacked release's ``source`` or the same tree from the wheel.
    """

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


def home_of(root: Path, environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where private state lies: ``$KILN_HOME``, else ``.kiln`` in a checkout.

    An installed Kiln has it among the user's caches, as the XDG Base Directory Specification or
    macOS has it: all of it can be made again.
    """
    if environ.get("KILN_HOME"):
        return Path(environ["KILN_HOME"]).absolute()
    if root.parent.name not in _PACKAGES:
        return root / ".kiln"
    caches = Path(environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = Path.home() / ("Library/Caches" if platform == "darwin" else ".cache")
    return caches / "kiln"
