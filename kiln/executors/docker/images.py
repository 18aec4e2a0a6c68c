"""The images of the docker executor: found by their content, else pulled, else built."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

from kiln.errors import EnvironmentBroken, os_errors
from kiln.executors.docker.build import (
    BuildNetwork,
    ImageRecipe,
    build_image,
    labels_of,
    pull_image,
)
from kiln.executors.docker.compose import load_names
from kiln.executors.docker.engine import LABEL, engine_errors
from kiln.executors.environments import PACKAGES_TAKE, Environment
from kiln.executors.protocol import Say
from kiln.store.tree import digest_of, hash_file
from kiln.system import process
from kiln.system.files import locked
from kiln.system.workers import stop_if_asked

ENVIRONMENT_LABEL = f"{LABEL}.environment"
#: What an image was built from; a tag has its beginning.
CONTENT_LABEL = f"{LABEL}.content"
_RECIPE_LABEL = f"{LABEL}.recipe"
#: On the builder stage; see the Dockerfiles.
_BUILD_LABEL = f"{LABEL}.build"

_TAG_DIGITS = 16
_LATEST = "latest"
#: The stage of every Dockerfile that has all packages and no code, and how the last one begins.
_TARGET = "environment"
_LAST_STAGE = f"\nFROM {_TARGET}\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """An image of this engine that is what the checkout says."""

    id: str
    tag: str
    base: str


class Images:
    """One checkout's images in one engine."""

    def __init__(
        self, *, root: Path, logs: Path, network: BuildNetwork, registry: str | None
    ) -> None:
        self._root = root
        self._logs = logs
        self._network = network
        self._registry = registry
        self._names = load_names(root)
        # The images are made at the same time, on one base.
        self._base_lock = threading.Lock()

    def find(self, client: docker.DockerClient, environment: Environment) -> Image | None:
        """The image for this environment and this code, if it is there."""
        with engine_errors("look for an image"):
            for base in self._known_bases(client, environment):
                content = self._content(environment, base)
                tag = self._tag(environment, content)
                labels = labels_of(client, tag)
                if labels is not None and labels.get(CONTENT_LABEL) == content:
                    image = client.images.get(tag)
                    return Image(id=str(image.id), tag=tag, base=base)
        return None

    def tags(self, client: docker.DockerClient, environment: Environment) -> set[str]:
        """All names that this checkout has for an environment's images, whether they are or not."""
        return {
            tag
            for base in self._known_bases(client, environment)
            for tag in (
                base,
                self._packages_tag(environment, base),
                self._tag(environment, self._content(environment, base)),
            )
        }

    def make(self, client: docker.DockerClient, environment: Environment, say: Say) -> Image:
        """Find, pull or build an image; ``latest`` names it then, for people who use Compose.

        Raises EnvironmentBroken, EngineError and DiskFull.
        """
        image = self.find(client, environment)
        if image is None:
            with self._log(environment, say) as log:
                image = self.find(client, environment)
                if image is None:
                    self._make(client, environment, log, say)
                    image = self.find(client, environment)
        if image is None:
            raise EnvironmentBroken(
                f"the {environment.name} image was made, and is not there any more",
                hint="does something clean up this engine? run the same command again",
            )
        with engine_errors("tag an image"):
            client.api.tag(image.id, self._names.images[environment.name], _LATEST)
        return image

    def _make(
        self, client: docker.DockerClient, environment: Environment, log: Path, say: Say
    ) -> None:
        if self._pull(client, environment, say):
            return
        started = time.monotonic()
        with self._base_lock:
            stop_if_asked()
            base = self._base(client, environment, log, say)
        packages = self._build_packages(client, environment, base, log, say)
        self._build(client, environment, base, packages, log, say)
        say(f"made the {environment.name} image in {time.monotonic() - started:.0f} s")

    def _pull(self, client: docker.DockerClient, environment: Environment, say: Say) -> bool:
        """Take the image from the registry, if one is set and has it."""
        if self._registry is None:
            return False
        name = self._names.images[environment.name]
        content = self._content(environment, environment.base)
        tag = content[:_TAG_DIGITS]
        remote = f"{self._registry.rstrip('/')}/{name}:{tag}"
        say(f"pulling {remote}")
        with engine_errors(f"pull {remote}"):
            problem = pull_image(client, remote)
            if not problem and (labels_of(client, remote) or {}).get(CONTENT_LABEL) != content:
                problem = "what is there was not built from this checkout"
            if problem:
                say(f"{remote} cannot be used ({problem}): building it here")
                return False
            return bool(client.api.tag(remote, name, tag))

    def _build_packages(
        self, client: docker.DockerClient, environment: Environment, base: str, log: Path, say: Say
    ) -> str:
        """The image with all packages and no code: what takes minutes and gigabytes."""
        tag = self._packages_tag(environment, base)
        with engine_errors("look for an image"):
            if labels_of(client, tag) is not None:
                return tag
        name, build = environment.name, uuid.uuid4().hex
        say(f"building the {name} image ({PACKAGES_TAKE[name]} of packages, once)")
        recipe = ImageRecipe(
            title=f"the {name} image",
            tag=tag,
            target=_TARGET,
            arguments={"BASE": base, "BUILD": build},
            labels={LABEL: "image", ENVIRONMENT_LABEL: name},
            files={
                "Dockerfile": environment.dockerfile.read_bytes(),
                "kiln.lock": (self._root / "kiln.lock").read_bytes(),
                f"docker/{name}.lock": environment.lock.read_bytes(),
                **self._network.files(),
            },
        )
        try:
            build_image(client, recipe, network=self._network, log=log, say=say)
        finally:
            # It doubles what the image takes, and holds the network's settings.
            _remove_builder(client, build)
        return tag

    def _build(
        self,
        client: docker.DockerClient,
        environment: Environment,
        base: str,
        packages: str,
        log: Path,
        say: Say,
    ) -> None:
        """Put the code on top. By itself: the whole Dockerfile would install everything again."""
        name = environment.name
        content = self._content(environment, base)
        _before, found, last_stage = environment.dockerfile.read_text("utf-8").rpartition(
            _LAST_STAGE
        )
        if not found:
            raise EnvironmentBroken(
                f"{environment.dockerfile.name} has no line {_LAST_STAGE.strip()!r}",
                hint="packages and code are in two stages: see the other Dockerfiles",
            )
        recipe = ImageRecipe(
            title=f"the {name} image",
            tag=self._tag(environment, content),
            labels={LABEL: "image", ENVIRONMENT_LABEL: name, CONTENT_LABEL: content},
            files={
                "Dockerfile": f"FROM {packages}\n{last_stage}".encode(),
                **{path: (self._root / path).read_bytes() for path in self._code(environment)},
            },
        )
        build_image(client, recipe, network=self._network, log=log, say=say)

    def _tag(self, environment: Environment, content: str) -> str:
        return f"{self._names.images[environment.name]}:{content[:_TAG_DIGITS]}"

    def _packages_tag(self, environment: Environment, base: str) -> str:
        content = digest_of({"environment": environment.digest, "base": base})
        name = self._names.images[environment.name]
        return f"{name}:{_TARGET}-{content[:_TAG_DIGITS]}"

    def _content(self, environment: Environment, base: str) -> str:
        code = {path: hash_file(self._root / path) for path in self._code(environment)}
        return digest_of({"environment": environment.digest, "base": base, "code": code})

    def _code(self, environment: Environment) -> list[str]:
        """What the last stage of a Dockerfile copies, relative to the checkout."""
        stages = self._root / "stages"
        folders = [stages / name for name in ("results", environment.name)]
        paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        code = [path for path in paths if "__pycache__" not in path.parts]
        return sorted(
            path.relative_to(self._root).as_posix() for path in (*code, *stages.glob("*.py"))
        )

    def _known_bases(self, client: docker.DockerClient, environment: Environment) -> Iterator[str]:
        """The pinned base, and the one from Debian's packages if it was built here."""
        yield environment.base
        fallback = self._fallback(client)
        if fallback is not None:
            yield fallback

    def _fallback(self, client: docker.DockerClient) -> str | None:
        labels = labels_of(client, self._names.base)
        if labels is None or labels.get(_RECIPE_LABEL) != hash_file(self._base_script):
            return None
        return str(client.images.get(self._names.base).id)

    @property
    def _base_script(self) -> Path:
        return self._root / "scripts" / "build_base.sh"

    def _base(
        self, client: docker.DockerClient, environment: Environment, log: Path, say: Say
    ) -> str:
        """What to build on: the pinned image, else one from Debian's packages."""
        with engine_errors("look for the base image"):
            if labels_of(client, environment.base) is not None:
                return environment.base
            fallback = self._fallback(client)
            if fallback is not None:
                return fallback
            say(f"pulling {environment.base.partition('@')[0]}")
            problem = pull_image(client, environment.base)
        if not problem:
            return environment.base
        say(f"it cannot be pulled ({problem}): building a base from Debian's packages (once)")
        return self._build_base(client, log)

    def _build_base(self, client: docker.DockerClient, log: Path) -> str:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "base.tar"
            last = _run_script([self._base_script, archive], log)
            if last is not None:
                raise EnvironmentBroken(
                    f"no base image can be pulled, nor built here: {last}",
                    hint="give the engine a registry, do that, or use EXECUTOR=local",
                    log=log,
                )
            with engine_errors("import the base image"):
                return _import(client, archive, self._names.base, hash_file(self._base_script))

    @contextlib.contextmanager
    def _log(self, environment: Environment, say: Say) -> Iterator[Path]:
        """A fresh log, held so that two drivers of one checkout build an image once."""
        path = self._logs / f"image-{environment.name}.log"
        waits = f"another Kiln is making the {environment.name} image: waiting for it"
        with os_errors("an image cannot be built", EnvironmentBroken):
            self._logs.mkdir(parents=True, exist_ok=True)
            with locked(path, lambda: say(waits)):
                path.write_bytes(b"")
                yield path


def _run_script(argv: list[Path], log: Path) -> str | None:
    """Run a script with its stderr in the log; its last line if it fails."""
    last = "it said nothing"
    with log.open("a", encoding="utf-8") as stream:

        def keep(line: str) -> None:
            nonlocal last
            last = line
            stream.write(line + "\n")

        code = process.run(
            argv,
            env=dict(os.environ),
            cwd=Path("/"),
            on_stdout=lambda _chunk: None,
            on_stderr=keep,
        )
    return last if code else None


def _import(client: docker.DockerClient, archive: Path, name: str, recipe: str) -> str:
    repository, _colon, tag = name.partition(":")
    labels = f"LABEL {LABEL}=base {_RECIPE_LABEL}={recipe}"
    client.api.import_image_from_file(
        str(archive),
        repository=repository,
        tag=tag,
        changes=[labels, "ENV PATH=/usr/bin:/bin"],
    )
    return str(client.images.get(name).id)


def _remove_builder(client: docker.DockerClient, build: str) -> None:
    filters: dict[str, Any] = {"dangling": True, "label": f"{_BUILD_LABEL}={build}"}
    # After a build that failed because the engine went away nothing can be done.
    with contextlib.suppress(docker.errors.DockerException, OSError):
        for image in client.images.list(filters=filters):
            client.images.remove(str(image.id))
