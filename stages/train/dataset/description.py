"""Reads data.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MAX_BYTES = 1 << 20


class _NoAliases(yaml.SafeLoader):
    """Plain values without references: ten lines of aliases to aliases are a terabyte as text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name): write the value out")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; raises ValueError with the reason if it cannot be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES >> 10} KiB")
        return yaml.load(path.read_text(encoding="utf-8"), _NoAliases)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError((str(error).splitlines() or [repr(error)])[0]) from error
