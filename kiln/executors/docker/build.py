"""Builds one image with the engine's own builder, under the user's network settings."""

from __future__ import annotations

import collections
import dataclasses
import io
import re
import shlex
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import docker

from kiln.errors import DiskFull, EnvironmentBroken
from kiln.executors.docker.engine import PLATFORM, engine_errors
from kiln.executors.protocol import Say
from kiln.executors.uv import CREDENTIALS, UvFailed, installer_variables
from kiln.system.workers import stop_if_asked

_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: Where hosts keep theirs; a company puts its own certificate in there.
_CERTIFICATE_FILES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
#: Of what uv reads on this host, all that means the same in another place.
_PORTABLE = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX\w*|EXTRA_INDEX_URL|INSECURE_HOST|HTTP_TIMEOUT)|\w+_(PROXY|proxy)"
)
#: What pip, which brings uv into the builder, calls uv's settings.
_FOR_PIP = (
    ("PIP_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
    ("PIP_EXTRA_INDEX_URL", ("UV_INDEX", "UV_EXTRA_INDEX_URL")),
    ("PIP_TRUSTED_HOST", ("UV_INSECURE_HOST",)),
)
_INDEX_NAME = re.compile(r"(?<!\S)[\w.-]+=(?=\w+://)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

#: The builder's folder in the Dockerfiles, into which ``network/`` is copied.
_BUILDER_CERTIFICATES = "/build/ca.pem"
_LAST_LINES = 15
_HEARTBEAT_S = 15.0
_SHOWN_CHARACTERS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildNetwork:
    """How packages are reached; may hold passwords, so no text of it is ever shown."""

    settings: Mapping[str, str] = dataclasses.field(repr=False)
    certificates: Path | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> BuildNetwork:
        """Take the indexes, proxies and certificates that the installers on this host use."""
        known = installer_variables(environ, Path("/"))
        settings = {name: value for name, value in known.items() if _PORTABLE.fullmatch(name)}
        for pip, names in _FOR_PIP:
            value = next((settings[name] for name in names if name in settings), None)
            if value is not None:
                settings[pip] = _INDEX_NAME.sub("", value)
        named = [*(environ.get(name) for name in _CERTIFICATE_VARIABLES)]
        chosen = known.get("SSL_CERT_FILE") or next((path for path in named if path), None)
        if chosen:
            return cls(settings=settings, certificates=Path(chosen))
        there = (path for path in _CERTIFICATE_FILES if path.is_file())
        return cls(settings=settings, certificates=next(there, None))

    def files(self) -> dict[str, bytes]:
        """What the builder stage finds in ``network/``; raises EnvironmentBroken."""
        settings = dict(self.settings)
        files = {f"network/{name}": data for name, data in self.certificate_files().items()}
        if files:
            for name in ("SSL_CERT_FILE", "PIP_CERT"):
                settings[name] = _BUILDER_CERTIFICATES
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in sorted(settings.items())]
        files["network/settings.sh"] = "".join(lines).encode()
        return files

    def certificate_files(self) -> dict[str, bytes]:
        """The CA bundle as ca.pem, if there is one; raises EnvironmentBroken."""
        if self.certificates is None:
            return {}
        try:
            return {"ca.pem": self.certificates.read_bytes()}
        except OSError as error:
            raise EnvironmentBroken(
                f"the CA bundle {self.certificates} cannot be read: {error.strerror}",
                hint="SSL_CERT_FILE names it; correct or unset it",
            ) from error

    def proxies(self) -> dict[str, str]:
        """The proxies' variables, for a step that may use the network."""
        return {
            name: value for name, value in self.settings.items() if name.lower().endswith("_proxy")
        }

    def redact(self, text: str) -> str:
        """A text without the passwords that may have got into it."""
        for name, value in self.settings.items():
            if name.endswith("_PASSWORD") and value:
                text = text.replace(value, "***")
        return CREDENTIALS.sub("***@", text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """One image to build: the files of its context (``Dockerfile`` among them) and its name."""

    title: str
    tag: str
    files: Mapping[str, bytes]
    labels: Mapping[str, str]
    target: str | None = None
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)


def build_image(
    client: docker.DockerClient,
    recipe: ImageRecipe,
    *,
    network: BuildNetwork,
    log: Path,
    say: Say,
) -> None:
    """Build and tag one image, adding to ``log``; raises EnvironmentBroken, EngineError."""
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    said_at = time.monotonic()
    broken = False
    with log.open("a", encoding="utf-8") as stream, engine_errors(f"build {recipe.title}"):
        for line, failed in _messages(client, recipe):
            stop_if_asked()
            clean = network.redact(line)
            stream.write(clean + "\n")
            last.append(f"  {clean}")
            # Heard to its end all the same, or the connection would stay open.
            broken = broken or failed
            if time.monotonic() - said_at > _HEARTBEAT_S:
                said_at = time.monotonic()
                say(f"{recipe.title}: {clean[:_SHOWN_CHARACTERS]}")
    if broken:
        raise _failure(recipe, last, log)


def _messages(client: docker.DockerClient, recipe: ImageRecipe) -> Iterator[tuple[str, bool]]:
    """Lines of the build as they come, and whether one says that it failed."""
    with _context(recipe.files) as context:
        answers = client.api.build(
            fileobj=context,
            custom_context=True,
            encoding=None,
            tag=recipe.tag,
            target=recipe.target,
            buildargs=dict(recipe.arguments),
            labels=dict(recipe.labels),
            platform=PLATFORM,
            rm=True,
            forcerm=True,
            decode=True,
        )
        rest = ""
        for answer in answers:
            if "error" in answer:
                yield str(answer["error"]), True
            # uv writes a word at a time; only whole lines are worth a line of the log.
            *lines, rest = (rest + _COLOUR.sub("", answer.get("stream", ""))).split("\n")
            yield from ((line.strip(), False) for line in lines if line.strip())


def _failure(
    recipe: ImageRecipe, last: collections.deque[str], log: Path
) -> EnvironmentBroken | DiskFull:
    # The same installer, so the same ways to fail and the same things to do about them.
    uv = UvFailed(1, "\n".join(last))
    kind = DiskFull if uv.disk_full else EnvironmentBroken
    return kind(f"{recipe.title} cannot be built:\n{uv.last_lines}", hint=uv.hint, log=log)


def _context(files: Mapping[str, bytes]) -> IO[bytes]:
    """A build context that depends on names and bytes alone, so that the builder's cache hits."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
    stream.seek(0)
    return stream


def pull_image(client: docker.DockerClient, name: str) -> str:
    """Pull an image; returns why it cannot be had, or nothing if it is there now."""
    try:
        client.images.pull(name, platform=PLATFORM)
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    return ""


def labels_of(client: docker.DockerClient, name: str) -> Mapping[str, Any] | None:
    """The labels of an image of this engine, or None if it is not there."""
    try:
        return dict(client.images.get(name).labels or {})
    except docker.errors.ImageNotFound:
        return None
