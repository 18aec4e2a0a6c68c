"""Resolves every lock and base image digest again and shows what changed: ``make pins``.

Everything is resolved before anything is written, so a failure changes no file.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import docker

from kiln.errors import EngineError, KilnError
from kiln.executors.docker.engine import connect
from kiln.executors.environments import ENVIRONMENT_NAMES
from kiln.executors.uv import UvFailed, installer_variables, run_uv
from kiln.executors.virtualenvs import PYTHON_VERSION

ROOT = Path(__file__).resolve().parent.parent

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<marker>\s*;[^\\]*)?")
_BASE = re.compile(r"^ARG BASE=(?P<tag>[^\s@]+)@(?P<digest>sha256:[0-9a-f]{64})$", re.MULTILINE)
_REGISTRY_TIMEOUT_S = 30
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

#: How every lock is made: hashes for all, and no header, which would hold a path.
_COMPILE = ("pip", "compile", "--generate-hashes", "--no-header", "--quiet")

_OVERRIDES = "docker/overrides.txt"

#: Wheels that only this host can reach must not get into a lock; a mirror of the index may.
_LOCAL_SOURCES = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")


class PinsRefused(Exception):
    """What was resolved must not be taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lock:
    """One lock file and how it is resolved; all paths are relative to the checkout."""

    path: str
    arguments: Sequence[str]


def locks() -> list[Lock]:
    """All locks; one that others follow comes first."""
    stages = [
        Lock(
            path=f"docker/{name}.lock",
            arguments=(
                *(f"docker/{name}.in", "--overrides", _OVERRIDES),
                *("--only-binary", ":all:", "--python-version", PYTHON_VERSION),
                *("--python-platform", "x86_64-manylinux_2_28"),
            ),
        )
        for name in ENVIRONMENT_NAMES
    ]
    # GPL-2.0-or-later: in an environment of its own; what it is built with has another lock.
    esptool = [
        Lock(
            path=f"kiln/device/{name}.lock",
            arguments=(f"kiln/device/{name}.in", "--universal", "--python-version", "3.11"),
        )
        for name in ("esptool", "esptool-build")
    ]
    driver = ("pyproject.toml", "--universal", "--python-version", "3.11")
    return [
        *stages,
        *esptool,
        Lock(path="kiln.lock", arguments=driver),
        Lock(path="dev.lock", arguments=(*driver, "--group", "dev", "--constraints", "kiln.lock")),
    ]


def pins(text: str, name: str) -> dict[str, str]:
    """Package (with its marker, if any) to version; raises PinsRefused unless each has a hash."""
    found: dict[str, str] = {}
    # A requirement goes on over lines that end in a backslash; comments stand on their own.
    for requirement in text.replace("\\\n", " ").splitlines():
        if not requirement.strip() or requirement.lstrip().startswith("#"):
            continue
        pin = _PIN.match(requirement)
        if pin is None:
            raise PinsRefused(f"{name}: not pinned to a version: {requirement.split()[0]}")
        if "--hash=sha256:" not in requirement:
            raise PinsRefused(f"{name}: {pin['name']} has no hash")
        marker = (pin["marker"] or "").split("--hash")[0].strip(" ;")
        found[f"{pin['name']} [{marker}]" if marker else pin["name"]] = pin["version"]
    if not found:
        raise PinsRefused(f"{name} would be empty")
    return found


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """A line for each package that comes, goes or moves."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None:
            lines.append(f"+ {name} {after}")
        elif after is None:
            lines.append(f"- {name} {before}")
        elif before != after:
            lines.append(f"  {name} {before} -> {after}")
    return lines


def with_digest(dockerfile: str, digest_of_tag: Callable[[str], str]) -> str:
    """A Dockerfile's text with its base at the digest that its tag has now."""
    base = _BASE.search(dockerfile)
    if base is None:
        raise PinsRefused("a Dockerfile does not pin its base: ARG BASE=image:tag@sha256:...")
    digest = digest_of_tag(base["tag"])
    if not _DIGEST.fullmatch(digest):
        raise PinsRefused(f"the registry gave no digest for {base['tag']}: {digest!r}")
    return dockerfile.replace(base["digest"], digest)


def _resolve(lock: Lock, folder: Path) -> str:
    variables = installer_variables(os.environ, ROOT)
    for name in _LOCAL_SOURCES:
        variables.pop(name, None)
    run_uv(
        *(*_COMPILE, *lock.arguments, "--output-file", lock.path),
        variables=variables,
        log=folder / "log",
        cwd=folder,
    )
    return (folder / lock.path).read_text(encoding="utf-8")


def copy_sources(folder: Path) -> None:
    """Put what is resolved into ``folder``, and no lock: one that follows another, follows the new.

    An old lock would also hold every package at the version that it has there.
    """
    sources = ("pyproject.toml", "docker/*.in", "kiln/device/*.in", _OVERRIDES)
    for path in (found for pattern in sources for found in ROOT.glob(pattern)):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def _resolve_all() -> dict[str, str]:
    """New texts of all locks that change, after printing what changes in them."""
    texts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy_sources(Path(folder))
        for lock in locks():
            text = _resolve(lock, Path(folder))
            path = ROOT / lock.path
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            new_pins = pins(text, lock.path)
            moved = changes(pins(old, lock.path) if old else {}, new_pins)
            print(f"{lock.path}: {len(new_pins)} packages, {len(moved) or 'none'} changed")
            print(*(f"  {line}" for line in moved), sep="\n", end="\n" if moved else "")
            texts[lock.path] = text
    return texts


def _refresh_bases() -> dict[str, str]:
    """New texts of the Dockerfiles; none where no engine or registry answers."""
    texts = {}
    try:
        client = connect()
        client.api.timeout = _REGISTRY_TIMEOUT_S
        digest_of_tag = functools.cache(lambda tag: str(client.images.get_registry_data(tag).id))
        for name in ENVIRONMENT_NAMES:
            path = f"docker/{name}.Dockerfile"
            old = (ROOT / path).read_text(encoding="utf-8")
            texts[path] = with_digest(old, digest_of_tag)
            print(f"{path}: base {'unchanged' if texts[path] == old else 'moved'}")
    except (docker.errors.DockerException, EngineError) as error:
        print(f"base images are kept, for no registry answers: {error}")
        return {}
    return texts


def main() -> int:
    """Refresh everything; the exit status."""
    try:
        texts = _resolve_all() | _refresh_bases()
    except (PinsRefused, UvFailed, KilnError) as error:
        print(f"nothing was changed: {error}", file=sys.stderr)
        return 1
    for path, text in texts.items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
