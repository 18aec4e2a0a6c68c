"""Runs uv under the user's index, proxies and certificates, and no other of their settings."""

from __future__ import annotations

import configparser
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from kiln.errors import EnvironmentBroken
from kiln.system import process

_KEPT = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC"),
    *("UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL"),
    *("UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_KEYRING_PROVIDER", "UV_INSECURE_HOST"),
    *("UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_OFFLINE"),
    *("UV_PYTHON_INSTALL_DIR", "UV_PYTHON_INSTALL_MIRROR", "UV_CONCURRENT_DOWNLOADS"),
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

#: What pip calls a setting, what uv calls it, and what separates uv's several values.
_PIP = (
    ("index-url", ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), " "),
    ("extra-index-url", ("UV_INDEX", "UV_EXTRA_INDEX_URL"), " "),
    ("find-links", ("UV_FIND_LINKS",), ","),
    ("cert", ("SSL_CERT_FILE",), " "),
    ("trusted-host", ("UV_INSECURE_HOST",), " "),
)

#: A working directory in which no project's settings apply.
_NOWHERE = Path("/")
_LAST_LINES = 15
#: An index may be given with a name of its own, as in name=https://...
INDEX_NAME = re.compile(r"(?<!\S)[\w.-]+=(?=\w+://)")
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_DISK_FULL = "no space left"
_HINTS = (
    (_DISK_FULL, "make room, or set KILN_HOME to a folder on a larger disk"),
    ("hash mismatch", "a package differs from the lock: try another index, or run make pins"),
    (
        "certificate|unknownissuer",
        "behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle",
    ),
    (
        "dns|connect|timed? ?out|failed to fetch|request failed|error sending",
        "check the network, or set HTTPS_PROXY or UV_DEFAULT_INDEX; what has arrived is kept",
    ),
    (
        "no solution found|not found in the package registry|no matching|cannot be used",
        "the package index lacks a pinned version: check UV_DEFAULT_INDEX and pip's index-url",
    ),
)


class UvFailed(Exception):
    """uv ended badly; the text has what it said last, without credentials."""

    def __init__(self, code: int, last_lines: str) -> None:
        super().__init__(f"uv ended with {code}\n{last_lines}")
        self.last_lines = last_lines

    @property
    def disk_full(self) -> bool:
        return _DISK_FULL in self.last_lines.lower()

    @property
    def hint(self) -> str:
        for pattern, hint in _HINTS:
            if re.search(pattern, self.last_lines, re.IGNORECASE):
                return hint
        return ""


def run_uv(
    *arguments: str | Path, variables: Mapping[str, str], log: Path, cwd: Path = _NOWHERE
) -> None:
    """Run uv and add what it says to ``log``; raises UvFailed."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with log.open("a", encoding="utf-8") as stream:

        def keep(line: str) -> None:
            clean = CREDENTIALS.sub("***@", line)
            last.append(f"  {clean}")
            stream.write(clean + "\n")

        code = process.run(
            [_uv_binary(), *arguments],
            env=variables,
            cwd=cwd,
            on_stdout=lambda _chunk: None,
            on_stderr=keep,
        )
    if code != 0:
        raise UvFailed(code, "\n".join(last))


def ask_uv(*arguments: str | Path, variables: Mapping[str, str]) -> str | None:
    """What uv prints, or None if it fails."""
    output: list[bytes] = []
    code = process.run(
        [_uv_binary(), *arguments],
        env=variables,
        cwd=_NOWHERE,
        on_stdout=output.append,
        on_stderr=lambda _line: None,
    )
    return b"".join(output).decode().strip() if code == 0 else None


def _uv_binary() -> str:
    # Imported here: a build that finds everything in the store starts no installer.
    import uv

    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise EnvironmentBroken(
            "the driver's own environment has lost its uv",
            hint="install Kiln again; in a checkout, remove .kiln/driver and run make model",
        ) from error


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables that are set, in both spellings."""
    names = [*_PROXIES, *(name.lower() for name in _PROXIES)]
    return {name: environ[name] for name in names if name in environ}


def installer_variables(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """The variables to run uv under.

    uv reads none of pip's settings, and people behind a company mirror have only those; uv's own
    go first. What else is set for uv (constraints, targets, an active environment) is left out:
    the locks alone decide.
    """
    kept = {name: environ[name] for name in _KEPT if name in environ}
    kept |= {
        name: value
        for name, value in environ.items()
        if name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD"))
    }
    kept |= proxies(environ)
    from_pip = _pip_settings(environ)
    for setting, names, separator in _PIP:
        if setting in from_pip and not any(name in kept for name in names):
            kept[names[0]] = separator.join(from_pip[setting].split())
    if "UV_CACHE_DIR" not in kept and not _shares_disk(environ, home):
        # uv links packages out of its cache; over a disk's border it would copy them.
        kept["UV_CACHE_DIR"] = str(home / "uv-cache")
    return kept


def _shares_disk(environ: Mapping[str, str], home: Path) -> bool:
    """Whether uv's usual cache, which others share, lies on the disk of ``home``."""
    user = Path(environ.get("HOME", "/nonexistent"))
    cache = Path(environ.get("XDG_CACHE_HOME") or user / ".cache")
    # Neither has to be there yet.
    there = next(path for path in (home, *home.parents) if path.exists())
    try:
        return (cache if cache.exists() else user).stat().st_dev == there.stat().st_dev
    except OSError:
        return False


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's own settings: its files, the later the stronger, then its variables."""
    user = Path(environ.get("HOME", "/nonexistent"))
    config = Path(environ.get("XDG_CONFIG_HOME") or user / ".config")
    paths = [Path("/etc/pip.conf"), user / ".pip" / "pip.conf", config / "pip" / "pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(environ["PIP_CONFIG_FILE"]))
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(paths, encoding="utf-8")
    except (configparser.Error, UnicodeError):
        parser.clear()
    settings: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            settings |= dict(parser.items(section))
    variables = {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_")
    }
    return settings | variables
