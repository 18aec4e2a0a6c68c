"""Reads the names of images and volumes from compose.yaml, the only place that has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from kiln.errors import EnvironmentBroken
from kiln.executors.environments import ENVIRONMENT_NAMES, EnvironmentName

FILE_NAME = "compose.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """What things are called in the engine. ``images`` are without a tag, ``base`` has one."""

    images: Mapping[EnvironmentName, str]
    base: str
    inputs_volume: str


def load_names(root: Path) -> Names:
    """Read the names; raises EnvironmentBroken."""
    # Imported here: it takes 40 ms, and a build that has nothing to do needs no names.
    import yaml

    path = root / FILE_NAME
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        services = document["services"]
        return Names(
            images={
                name: str(services[name]["image"]).rpartition(":")[0] for name in ENVIRONMENT_NAMES
            },
            base=str(document["x-kiln"]["base"]),
            inputs_volume=str(document["volumes"]["inputs"]["name"]),
        )
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise EnvironmentBroken(
            f"{FILE_NAME} does not name the images and the volume: {type(error).__name__} {error}",
            hint=f"install Kiln again; in a checkout, git checkout {FILE_NAME}",
        ) from error
