"""The three stage environments, as data: a Dockerfile, a lock and a base image."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from kiln.errors import EnvironmentBroken
from kiln.store.tree import digest_of

EnvironmentName = Literal["train", "export", "vela"]
ENVIRONMENT_NAMES: tuple[EnvironmentName, ...] = get_args(EnvironmentName)

#: What the packages of an environment take, so that nobody wonders why it takes so long to make.
PACKAGES_TAKE: Mapping[EnvironmentName, str] = {
    "train": "about 6 GB",
    "export": "about 1.5 GB",
    "vela": "about 100 MB",
}

_BASE = re.compile(r"^ARG BASE=(?P<base>\S+@sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """What defines an environment in both executors; ``digest`` covers all of it."""

    name: EnvironmentName
    dockerfile: Path
    lock: Path
    base: str
    digest: str


def load_environment(root: Path, name: EnvironmentName) -> Environment:
    """Read one environment's definition from ``docker/``; raises EnvironmentBroken."""
    dockerfile = root / "docker" / f"{name}.Dockerfile"
    lock = root / "docker" / f"{name}.lock"
    try:
        recipe, pins = dockerfile.read_bytes(), lock.read_bytes()
    except OSError as error:
        raise EnvironmentBroken(
            f"the {name} environment has no definition: {error}",
            hint="install Kiln again; in a checkout, git status says what is missing",
        ) from error
    base = _BASE.search(recipe.decode("utf-8"))
    if base is None:
        raise EnvironmentBroken(
            f"{dockerfile.name} does not pin its base image by digest",
            hint="write ARG BASE=image@sha256:... as its first line, or run make pins",
        )
    parts = [hashlib.sha256(part).hexdigest() for part in (recipe, pins)]
    return Environment(
        name=name,
        dockerfile=dockerfile,
        lock=lock,
        base=base["base"],
        digest=digest_of({"dockerfile": parts[0], "lock": parts[1]}),
    )
