"""The isolated Python environments of the local executor, made from the locks."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kiln.errors import DiskFull, EnvironmentBroken, os_errors
from kiln.executors.environments import PACKAGES_TAKE, Environment
from kiln.executors.protocol import Say
from kiln.executors.uv import UvFailed, ask_uv, installer_variables, run_uv
from kiln.store.tree import hash_file
from kiln.system.files import locked
from kiln.system.workers import stop_if_asked

#: Both executors run this version: the locks are resolved for it.
PYTHON_VERSION = "3.11"
_PYTHON_REQUEST = f"cpython-{PYTHON_VERSION}-linux-x86_64-gnu"
_PYTHON_TAG = "cp311"

#: Written last, so that an interrupted installation is never taken for a whole one.
_MARKER = ".complete"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A whole environment's Python and what is known of it."""

    path: Path
    facts: Mapping[str, Any]


class VirtualEnvironments:
    """The environments under ``home/envs``, one for each lock and Python version."""

    def __init__(self, *, home: Path, logs: Path) -> None:
        self._home = home.absolute()
        self._logs = logs
        # Environments are made at the same time, and need one Python.
        self._python_lock = threading.Lock()

    def find(self, environment: Environment) -> Interpreter | None:
        """The environment's Python if it is whole and its packages have not changed since."""
        return find_whole(self._folder(environment))

    def make(self, environment: Environment, say: Say) -> None:
        """Make the environment unless it is there; two drivers make it once.

        Raises EnvironmentBroken and DiskFull.
        """
        if self.find(environment) is not None:
            return
        _refuse_other_hosts()
        log = self._logs / f"environment-{environment.name}.log"
        folder = self._folder(environment)
        size = PACKAGES_TAKE[environment.name]

        def fill() -> None:
            with self._python_lock:
                stop_if_asked()
                base = find_python(self._home) or _download_python(self._home, log, say)
            say(f"making the {environment.name} environment ({size}, once)")
            _install(environment.lock, base, folder, variables=_variables(self._home), log=log)

        make_whole(folder, environment.name, fill, log=log, say=say)

    def _folder(self, environment: Environment) -> Path:
        return self._home / "envs" / folder_name(environment)


def find_whole(folder: Path) -> Interpreter | None:
    """The Python of an environment if it is whole and its packages have not changed since."""
    python = folder / "bin" / "python"
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        interpreter, packages = Path(marker["interpreter"]), marker["packages"]
        if python.resolve(strict=True) != interpreter or _packages(folder) != packages:
            return None
        return Interpreter(path=python, facts={"python": marker["python"], "lock": marker["lock"]})
    except (OSError, ValueError, KeyError):
        return None


def make_whole(folder: Path, name: str, fill: Callable[[], None], *, log: Path, say: Say) -> None:
    """Have ``fill`` make an environment unless it is there; two drivers make it once.

    Raises EnvironmentBroken and DiskFull.
    """
    with os_errors(f"the {name} environment cannot be made", EnvironmentBroken):
        folder.parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        waits = f"another Kiln is making the {name} environment: waiting for it"
        with locked(folder.with_suffix(".lock"), lambda: say(waits)):
            if find_whole(folder) is None:
                _make_whole(folder, name, fill, log=log, say=say)


def _make_whole(folder: Path, name: str, fill: Callable[[], None], *, log: Path, say: Say) -> None:
    log.write_text("", encoding="utf-8")
    if folder.exists():
        say(f"the {name} environment is not whole: making it again")
        shutil.rmtree(folder)
    started = time.monotonic()
    try:
        fill()
    except UvFailed as error:
        text = f"the {name} environment cannot be made: {error}"
        kind = DiskFull if error.disk_full else EnvironmentBroken
        raise kind(text, hint=error.hint, log=log) from error
    say(f"made the {name} environment in {time.monotonic() - started:.0f} s")


def folder_name(environment: Environment) -> str:
    """What an environment's folder is called: after its lock and Python version."""
    return f"{environment.name}-{hash_file(environment.lock)[:12]}-{_PYTHON_TAG}"


def find_python(home: Path) -> Path | None:
    """A CPython of the right version and kind: this host's, or one downloaded earlier."""
    for variables in (_variables(home), _with_own_pythons(home)):
        options = ("--no-project", "--system", "--no-python-downloads")
        found = ask_uv("python", "find", *options, _PYTHON_REQUEST, variables=variables)
        if found is not None:
            return Path(found)
    return None


def _download_python(home: Path, log: Path, say: Say) -> Path:
    say(f"no Python {PYTHON_VERSION} on this host: downloading one (about 30 MB, once)")
    problem = f"Python {PYTHON_VERSION} is not on this host and cannot be downloaded"
    try:
        arguments = ("python", "install", "--no-bin", _PYTHON_REQUEST)
        run_uv(*arguments, variables=_with_own_pythons(home), log=log)
        found = find_python(home)
    except UvFailed as error:
        found = None
        problem += f": {error}"
    if found is None:
        raise EnvironmentBroken(
            problem,
            hint=f"put python{PYTHON_VERSION} on PATH (your system's packages, pyenv or conda "
            "have it), or use EXECUTOR=docker, which needs none",
            log=log,
        )
    return found


def _variables(home: Path) -> dict[str, str]:
    return installer_variables(os.environ, home)


def _with_own_pythons(home: Path) -> dict[str, str]:
    return {**_variables(home), "UV_PYTHON_INSTALL_DIR": str(home / "python")}


def _install(
    lock: Path, base: Path, folder: Path, *, variables: Mapping[str, str], log: Path
) -> None:
    """Fill ``folder``, the marker last; raises UvFailed and OSError."""
    make_empty(base, folder, variables=variables, log=log)
    install_locked(lock, folder, "--only-binary", ":all:", variables=variables, log=log)
    mark_whole(folder, lock, variables=variables)


def make_empty(base: Path, folder: Path, *, variables: Mapping[str, str], log: Path) -> None:
    """Make an environment of the Python ``base``, with nothing in it; raises UvFailed."""
    run_uv("venv", "--no-project", "--python", base, folder, variables=variables, log=log)


def install_locked(
    lock: Path, folder: Path, *options: str, variables: Mapping[str, str], log: Path
) -> None:
    """Add all packages of a lock, each with one of the hashes there; raises UvFailed."""
    run_uv(
        *("pip", "install", "--no-deps", "--require-hashes", *options),
        *("--python", folder / "bin" / "python", "--requirement", lock.absolute()),
        # The hashes decide what is installed, so any index may offer it.
        *("--index-strategy", "unsafe-best-match"),
        variables=variables,
        log=log,
    )


def mark_whole(folder: Path, lock: Path, *, variables: Mapping[str, str]) -> None:
    """Say that an environment is complete, and what is in it; raises OSError."""
    python = folder / "bin" / "python"
    marker = {
        "interpreter": str(python.resolve()),
        "python": ask_uv("python", "find", "--show-version", python, variables=variables),
        "lock": hash_file(lock),
        "packages": _packages(folder),
    }
    (folder / _MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")


def _packages(folder: Path) -> list[str]:
    """Names and versions of what is installed, as their metadata folders say."""
    return sorted(path.stem for path in folder.glob("lib/python*/site-packages/*.dist-info"))


def _refuse_other_hosts() -> None:
    host = f"{platform.system()} on {platform.machine()}"
    musl = "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE"))
    if host == "Linux on x86_64" and not musl:
        return
    raise EnvironmentBroken(
        "the local executor needs Linux on x86-64 with glibc, and this is "
        f"{host}{' with musl' if musl else ''}",
        hint="start a container engine and use EXECUTOR=docker: it emulates if it must",
    )
