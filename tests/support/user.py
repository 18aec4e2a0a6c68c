"""A person at the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.checkout import HOME, ROOT

LOCAL = ("--executor", "local", "--imgsz", "64")
TINY = (*LOCAL, "--epochs", "1")


class User:
    """Types commands in a folder of their own, with a store of their own.

    The environments are those of the checkout, if not others are named; Kiln makes what is missing
    there.
    """

    def __init__(self, folder: Path, environments: Path = HOME / "envs") -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        environments.mkdir(parents=True, exist_ok=True)
        (self.home / "envs").symlink_to(environments)

    def starts(self, *arguments: str, under: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start the command, as an argument of the command ``under`` if that is given."""
        clean = {name: value for name, value in os.environ.items() if "KILN" not in name}
        return subprocess.Popen(
            [*under, sys.executable, "-m", "kiln", *arguments],
            cwd=self.folder,
            env=clean | {"PYTHONPATH": str(ROOT), "KILN_HOME": str(self.home)} | self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def types(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        with self.starts(*arguments) as process:
            out, err = process.communicate(timeout=900)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out, err

    def builds(self, *arguments: str) -> Any:
        """The content of build.json, as it is printed."""
        return json.loads(self.types("build", "--json", *arguments)[0])
