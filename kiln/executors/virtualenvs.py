"""Makes the isolated Python environments of the local executor from the locks, by uv."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kiln import process
from kiln.environments import Environment
from kiln.errors import DiskFull, EnvironmentBroken
from kiln.executors import Say
from kiln.executors.installer import installer_variables
from kiln.tree import hash_file

#: Both executors run this version: the locks are resolved for it, and export's wheels end with it.
PYTHON_VERSION = "3.11"
_PYTHON_REQUEST = f"cpython-{PYTHON_VERSION}-linux-x86_64-gnu"
_PYTHON_TAG = "cp311"

#: Written last, so that an interrupted installation is never taken for a whole one.
_MARKER = ".complete"
_LAST_LINES = 15
#: What an environment is worth in bytes and patience.
_SIZES = {"train": "about 6 GB", "export": "about 1.5 GB", "vela": "about 200 MB"}
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_HINTS = (
    ("hash mismatch", "a package differs from the lock: try another index, or run make pins"),
    ("no space left", "make room, or set KILN_HOME to a folder on a larger disk"),
    (
        "no matching distribution|no solution found|not found in the package registry",
        "the package index lacks a pinned version: check UV_DEFAULT_INDEX or pip's index-url",
    ),
    (
        "certificate|unknownissuer|tls",
        "behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle",
    ),
    (
        "dns|connect|timed? ?out|failed to fetch|network|request failed",
        "check the network, or set HTTPS_PROXY or UV_DEFAULT_INDEX; what is already there is kept",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A whole environment's Python and what is known of it."""

    path: Path
    facts: Mapping[str, Any]


class VirtualEnvironments:
    """The environments under ``home/envs``, one a lock and Python version."""

    def __init__(self, *, home: Path, logs: Path) -> None:
        self._home = home
        self._logs = logs

    def find(self, environment: Environment) -> Interpreter | None:
        """The environment's Python if it is whole and nobody has changed its packages since."""
        folder = self._folder(environment)
        try:
            marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
            whole = (folder / "bin" / "python").resolve(strict=True) == Path(
                marker["interpreter"]
            ) and _packages(folder) == marker["packages"]
        except (OSError, ValueError, KeyError):
            return None
        if not whole:
            return None
        facts = {"python": marker["python"], "packages": len(marker["packages"])}
        return Interpreter(path=folder / "bin" / "python", facts=facts)

    def make(self, environment: Environment, say: Say) -> None:
        """Make the environment unless it is there; two drivers make it once.

        Raises EnvironmentBroken and DiskFull.
        """
        if self.find(environment) is not None:
            return
        _refuse_other_hosts()
        folder = self._folder(environment)
        with process.os_errors(f"the {environment.name} environment cannot be made"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._logs.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_suffix(".lock"), environment.name, say):
                if self.find(environment) is None:
                    self._make(environment, folder, say)

    def _make(self, environment: Environment, folder: Path, say: Say) -> None:
        uv = _Uv(home=self._home, log=self._logs / f"environment-{environment.name}.log")
        if folder.exists():
            say(f"the {environment.name} environment is not whole: making it again")
            shutil.rmtree(folder)
        python = uv.python(say)
        size = _SIZES[environment.name]
        say(f"making the {environment.name} environment ({size}, once) in {folder}")
        started = time.monotonic()
        what = f"the {environment.name} environment cannot be made"
        uv.run("venv", "--no-project", "--python", python, folder, what=what)
        uv.run(
            *("pip", "install", "--python", folder / "bin" / "python", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--requirement", environment.lock),
            # The hashes decide what is installed, so any index may offer it.
            *("--index-strategy", "unsafe-best-match"),
            what=what,
        )
        marker = {
            "interpreter": str((folder / "bin" / "python").resolve()),
            "python": uv.version_of(folder / "bin" / "python"),
            "packages": _packages(folder),
        }
        (folder / _MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        say(f"made the {environment.name} environment in {time.monotonic() - started:.0f} s")

    def _folder(self, environment: Environment) -> Path:
        lock = hash_file(environment.lock)[:12]
        return self._home / "envs" / f"{environment.name}-{lock}-{_PYTHON_TAG}"


class _Uv:
    """uv from the driver's own environment, run under the user's index and proxy settings."""

    def __init__(self, *, home: Path, log: Path) -> None:
        self._home = home
        self._log = log
        self._variables = installer_variables(os.environ, home)
        log.write_text("", encoding="utf-8")

    def python(self, say: Say) -> str:
        """A CPython of the right version on this host, downloaded if there is none."""
        found = self._find_python()
        if found is not None:
            return found
        say(f"no Python {PYTHON_VERSION} here: downloading one (about 30 MB, once)")
        self._variables["UV_PYTHON_INSTALL_DIR"] = str(self._home / "python")
        found = self._find_python()
        if found is None:
            with contextlib.suppress(EnvironmentBroken):
                self.run("python", "install", "--no-bin", _PYTHON_REQUEST, what="no Python")
            found = self._find_python()
        if found is None:
            raise EnvironmentBroken(
                f"Python {PYTHON_VERSION} is not on this host and cannot be downloaded",
                hint=f"put python{PYTHON_VERSION} on PATH (your system's packages, pyenv or conda "
                "have it), or use EXECUTOR=docker, which needs none",
                log=self._log,
            )
        return found

    def _find_python(self) -> str | None:
        output: list[bytes] = []
        argv = ("python", "find", "--no-project", "--system", "--no-python-downloads")
        code = self._start((*argv, _PYTHON_REQUEST), output.append, deque())
        return b"".join(output).decode().strip() if code == 0 else None

    def version_of(self, python: Path) -> str:
        """The full version of an interpreter, such as 3.11.7."""
        output: list[bytes] = []
        self._start(("python", "find", "--show-version", python), output.append, deque())
        return b"".join(output).decode().strip()

    def run(self, *arguments: str | Path, what: str) -> None:
        """Run uv; raises EnvironmentBroken or DiskFull with its last lines."""
        last: deque[str] = deque(maxlen=_LAST_LINES)
        code = self._start(arguments, lambda _chunk: None, last)
        if code == 0:
            return
        text = "\n".join(f"  {line}" for line in last)
        kind = DiskFull if "no space left" in text.lower() else EnvironmentBroken
        raise kind(f"{what}: uv ended with {code}\n{text}", hint=_hint(text), log=self._log)

    def _start(
        self, arguments: tuple[str | Path, ...], stdout: process.Sink, last: deque[str]
    ) -> int:
        with self._log.open("a", encoding="utf-8") as log:

            def keep(line: str) -> None:
                clean = _CREDENTIALS.sub("***@", line)
                last.append(clean)
                log.write(clean + "\n")

            return process.run(
                [_uv_binary(), *arguments],
                env=self._variables,
                cwd=self._home,
                on_stdout=stdout,
                on_stderr=keep,
            )


def _uv_binary() -> str:
    # Imported here: a build that finds all in the store starts no installer.
    import uv  # noqa: PLC0415

    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise EnvironmentBroken(
            "the driver's own environment has lost its uv",
            hint="make it again: rm -r .kiln/driver && make",
        ) from error


def _refuse_other_hosts() -> None:
    host = f"{platform.system()} {platform.machine()}"
    musl = sys.platform == "linux" and platform.libc_ver()[0] != "glibc"
    if host == "Linux x86_64" and not musl:
        return
    raise EnvironmentBroken(
        f"the local executor needs Linux on x86-64 with glibc, and this is {host}"
        + (" with another C library" if musl else ""),
        hint="start a Docker engine and use EXECUTOR=docker: its images run here by emulation",
    )


def _packages(folder: Path) -> list[str]:
    """Names and versions of what is installed, as their metadata folders say."""
    site = folder / "lib" / f"python{PYTHON_VERSION}" / "site-packages"
    return sorted(path.stem for path in site.iterdir() if path.suffix == ".dist-info")


def _hint(text: str) -> str:
    for pattern, hint in _HINTS:
        if re.search(pattern, text, re.IGNORECASE):
            return hint
    return ""


@contextlib.contextmanager
def _locked(path: Path, name: str, say: Say) -> Iterator[None]:
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another Kiln is making the {name} environment: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
