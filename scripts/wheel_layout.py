"""Lays out the wheel: the tree of a checkout in a folder of its own, put on Python's path.

Steps have that folder on their path and must find no other package there, and ``docker/`` cannot
lie beside the package of that name. Imported by hatchling, as pyproject.toml says.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = "kiln-source"


class WheelLayout(BuildHookInterface[BuilderConfig]):
    """``files`` of its settings are what Kiln consists of."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable install has the checkout itself on its path, and needs no copy."""
        if version != "editable":
            build_data["force_include"] |= {
                **{name: f"{_FOLDER}/{name}" for name in self.config["files"]},
                "scripts/wheel.pth": "kiln.pth",
            }
