"""A release: one archive that says how its models were made, and from which they can be again.

Nothing in it depends on the host that made it, so two hosts that build the same request write the
same archive, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from kiln import __version__
from kiln.errors import StoreError, os_errors
from kiln.executors.environments import Environment
from kiln.plan.plan import Plan
from kiln.plan.request import BuildRequest
from kiln.plan.step import FromHost
from kiln.plan.steps import FINETUNE_FOLDER
from kiln.release.archive import SIGNATURE, SUMS, Content, write_archive
from kiln.release.provenance import BuildDefinition, Materials, statement_of
from kiln.release.sbom import sbom_of
from kiln.report.render import render
from kiln.report.result import BUILD_FILE, BuildResult, StepResult
from kiln.store.tree import File, Tree, digest_of, hash_bytes, hash_file, sums_of, tree_of
from stages.results.fetch import FetchResult
from stages.results.finetune import FinetuneResult
from stages.results.host import without_host
from stages.results.train import TrainResult

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PROVENANCE = "provenance.json"
PUBLIC_KEY = "signer.pub"
SOURCE = "source"
#: What a build runs of it: its steps, and their environments.
_RUN = ("compose.yaml", "docker", "kiln.lock", "stages")


def release_file(folder: Path) -> Path:
    """Where the release of a result folder is written."""
    return folder.with_name(f"{folder.name}.release.tar")


def write_release(
    plan: Plan,
    result: BuildResult,
    folder: Path,
    *,
    root: Path,
    environments: Sequence[Environment],
    key: Ed25519PrivateKey | None,
) -> Path:
    """Write the release of what lies in a result folder; raises StoreError, DiskFull.

    ``root`` is the Kiln that made it. The archive is not compressed: what is in it hardly
    gets smaller, and compressors of two versions write different bytes.
    """
    models = {name: folder / name for name in result.files}
    _check_models(models, result)
    portable_result = portable(result)
    with os_errors("cannot read what a release is made of"):
        source = source_files(root)
        definition = _definition(plan, portable_result)
        files: dict[str, Content] = {
            **models,
            **{f"{SOURCE}/{name}": file.path for name, file in source.files.items()},
            **{f"sbom/{each.name}.cdx.json": sbom_of(each).encode() for each in environments},
            BUILD_FILE: _json(portable_result.document()),
            "report.html": render(portable_result).encode("utf-8"),
            "kiln.toml": _request_toml(portable_result.request),
            PROVENANCE: _json(_statement(definition, result, source, environments)),
        }
        if key is not None:
            files |= _signer(key)
        digests = {name: _digest(content) for name, content in files.items()}
    sums = sums_of(digests).encode("utf-8")
    files[SUMS] = sums
    if key is not None:
        files[SIGNATURE] = key.sign(sums)
    path = release_file(folder)
    write_archive(path, result.name, files)
    return path


def portable(result: BuildResult) -> BuildResult:
    """The content of build.json without what it says of the host that made the build."""
    defaults = BuildRequest()
    request = dataclasses.replace(
        result.request,
        executor=defaults.executor,
        limits=defaults.limits,
        registry=defaults.registry,
    )
    steps = [
        dataclasses.replace(step, seconds=None, facts={}, result=without_host(step.result))
        for step in result.steps
    ]
    return dataclasses.replace(result, request=request, steps=tuple(steps))


def source_files(root: Path) -> Tree:
    """Kiln itself, the same from a checkout and from the wheel made of it; raises OSError."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    return _source_tree(root, wheel["hooks"]["custom"]["files"])


def run_by(root: Path) -> str:
    """Digest of what a build runs of a checkout or release; raises OSError."""
    return _source_tree(root, _RUN).digest


def _source_tree(root: Path, names: Iterable[str]) -> Tree:
    """Files and folders below ``root``, without what is hidden and what Python has compiled."""
    files: dict[str, File] = {}
    for place in (root / name for name in names):
        for path in place.rglob("*") if place.is_dir() else [place]:
            inside = path.relative_to(root)
            hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
            if not hidden and not path.is_dir():
                files[inside.as_posix()] = File(
                    path=path, sha256=hash_file(path), size=path.stat().st_size
                )
    return tree_of(files)


def _check_models(models: Mapping[str, Path], result: BuildResult) -> None:
    for name, path in models.items():
        if hash_file(path) != result.files[name].sha256:
            raise StoreError(
                f"{path} is not what the build wrote",
                hint="remove it: the build lays it out again",
            )


def _definition(plan: Plan, result: BuildResult) -> BuildDefinition:
    """What the release is made by, of a result that says nothing of its host."""
    steps = {step.name: step for step in result.steps}
    return BuildDefinition(
        steps=plan.steps,
        files=plan.files,
        inputs=_brought(plan, steps),
        fixed={
            step.name: step.result.why_not or "it does not say that it is reproducible"
            for step in result.steps
            if isinstance(step.result, TrainResult | FinetuneResult)
            and not step.result.reproducible
        },
        request=dataclasses.asdict(result.request),
    )


def _brought(plan: Plan, steps: Mapping[str, StepResult]) -> dict[str, str]:
    """Digests of what the user brought: the data set, and weights of their own."""
    return {
        source.source: steps[step.name].inputs[name]
        for step in plan.steps
        for name, source in step.inputs.items()
        if isinstance(source, FromHost)
    }


def _statement(
    definition: BuildDefinition,
    result: BuildResult,
    source: Tree,
    environments: Sequence[Environment],
) -> dict[str, Any]:
    definitions = [each for env in environments for each in (env.dockerfile, env.lock)]
    names = [f"docker/{path.name}" for path in definitions] + [f"targets/{result.target}.toml"]
    materials = Materials(
        files={f"{SOURCE}/{name}": source.files[name].sha256 for name in names},
        folders={SOURCE: source.digest},
        fetched=_fetched(result, environments),
        outputs={step.name: digest_of(dict(step.outputs)) for step in result.steps},
    )
    subjects = {name: file.sha256 for name, file in result.files.items()}
    return statement_of(definition, subjects, materials, version=__version__)


def _fetched(result: BuildResult, environments: Sequence[Environment]) -> dict[str, str]:
    """sha256 of what came from a network, by its address."""
    images = (each.base.partition("@sha256:") for each in environments)
    fetched = (step.result for step in result.steps if isinstance(step.result, FetchResult))
    return {
        **{f"docker://{image}": digest for image, _at, digest in images},
        **{each.url: each.sha256 for each in fetched},
    }


def _request_toml(request: BuildRequest) -> bytes:
    """The request as a settings file. Who builds by it passes their own data, weights, folder."""
    brought = {
        "data": request.data,
        "weights": request.weights,
        FINETUNE_FOLDER: request.finetune.folder,
    }
    table = _without_none(dataclasses.asdict(request))
    for name in ("data", "weights"):
        table.pop(name, None)
    table["finetune"].pop("folder", None)
    table["train"] |= table["train"].pop("overrides", {})
    named = "".join(f"# {name}: {value}\n" for name, value in brought.items() if value)
    return (named + tomli_w.dumps(table)).encode("utf-8")


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
        if value is not None
    }


def _signer(key: Ed25519PrivateKey) -> dict[str, Content]:
    from kiln.release.signing import public_pem

    return {PUBLIC_KEY: public_pem(key.public_key())}


def _digest(content: Content) -> str:
    return hash_file(content) if isinstance(content, Path) else hash_bytes(content)


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
