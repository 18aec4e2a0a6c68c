"""A release's provenance: an in-toto statement (v1) with a SLSA provenance predicate (v1).

It is not only a record. ``internalParameters`` holds the plan of the build, and a release is
built again from that plan and nothing else. Formats: https://github.com/in-toto/attestation and
https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from kiln.errors import BundleError
from kiln.executors.environments import ENVIRONMENT_NAMES
from kiln.executors.protocol import Gpu
from kiln.plan.step import FromHost, FromStep, Input, Step

BUILD_TYPE = "urn:kiln:build:1"
_STEP = re.compile(r"[a-z]+(-[a-z]+)*")
_INPUT = re.compile(r"[a-z0-9_]+(\.[a-z0-9]+)?")
_BUILDER = "urn:kiln:driver"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
#: sha256 over the names, digests and sizes of a folder's files; see ``kiln.store.tree``.
TREE_DIGEST = "kilnTree"
#: sha256 over the names and digests of what a step gave, as build.json lists them.
_OUTPUTS_DIGEST = "kilnOutputs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildDefinition:
    """All that a release is made by.

    ``steps`` in their order; ``files``: the released models by name; ``inputs``: digests of what
    the user brought (data, weights); ``fixed``: steps that would not give the same bytes again,
    and why; ``request``: as in build.json.
    """

    steps: tuple[Step, ...]
    files: Mapping[str, FromStep]
    inputs: Mapping[str, str]
    fixed: Mapping[str, str]
    request: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Materials:
    """What else went into a release, and what came out on the way.

    ``files`` and ``folders`` of the archive and ``outputs`` of steps: digests by name;
    ``fetched``: sha256 by address, of base images and downloads.
    """

    files: Mapping[str, str]
    folders: Mapping[str, str]
    fetched: Mapping[str, str]
    outputs: Mapping[str, str]


def statement_of(
    definition: BuildDefinition, subjects: Mapping[str, str], materials: Materials, *, version: str
) -> dict[str, Any]:
    """The statement on ``subjects`` (released files, sha256 by name); the same for the same."""
    statement = {
        "_type": _STATEMENT,
        "subject": [_file(name, sha256) for name, sha256 in sorted(subjects.items())],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"request": dict(definition.request)},
                "internalParameters": {
                    "steps": [_step_document(step) for step in definition.steps],
                    "files": {
                        name: dataclasses.asdict(ref) for name, ref in definition.files.items()
                    },
                    "fixed": dict(definition.fixed),
                },
                "resolvedDependencies": [
                    *(_tree(f"input:{name}", tree) for name, tree in definition.inputs.items()),
                    *(
                        {"uri": address, "digest": {"sha256": sha256}}
                        for address, sha256 in sorted(materials.fetched.items())
                    ),
                    *(_file(name, sha256) for name, sha256 in sorted(materials.files.items())),
                    *(_tree(name, tree) for name, tree in materials.folders.items()),
                ],
            },
            "runDetails": {
                "builder": {"id": _BUILDER, "version": {"kiln": version}},
                "byproducts": [
                    {"name": f"step:{name}", "digest": {_OUTPUTS_DIGEST: digest}}
                    for name, digest in materials.outputs.items()
                ],
            },
        },
    }
    _validate(statement)
    return statement


def read_definition(text: str) -> BuildDefinition:
    """Read a statement; raises BundleError for one that is none, or of another version."""
    try:
        statement = json.loads(text)
        _validate(statement)
        definition = statement["predicate"]["buildDefinition"]
        if definition["buildType"] != BUILD_TYPE:
            raise ValueError(f"it is of the type {definition['buildType']}")
        inner = definition["internalParameters"]
        brought = {
            each["name"].removeprefix("input:"): each["digest"][TREE_DIGEST]
            for each in definition["resolvedDependencies"]
            if str(each.get("name")).startswith("input:")
        }
        return BuildDefinition(
            steps=tuple(_step(each) for each in inner["steps"]),
            files={name: FromStep(**ref) for name, ref in inner["files"].items()},
            inputs=brought,
            fixed=inner["fixed"],
            request=definition["externalParameters"]["request"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"the release's provenance cannot be used: {error}",
            hint="it was made by another version of Kiln: use the one in its folder source/",
        ) from error


def _validate(statement: Mapping[str, Any]) -> None:
    """Hold it against the schemas of in-toto and SLSA; raises ValueError."""
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    try:
        message = ParseDict(statement, statement_pb2.Statement())
        ParseDict(statement["predicate"], Provenance())
    except ParseError as error:
        raise ValueError(str(error)) from error
    Statement.copy_from_pb(message).validate()


def _step_document(step: Step) -> dict[str, Any]:
    document = dataclasses.asdict(step)
    document["inputs"] = {name: dataclasses.asdict(each) for name, each in step.inputs.items()}
    return document


def _step(document: Mapping[str, Any]) -> Step:
    """Its names become those of files, so they are held to what Kiln's own look like."""
    step = Step(**{**document, "inputs": _inputs(document["inputs"])})
    if (
        step.environment not in ENVIRONMENT_NAMES
        or step.gpu not in get_args(Gpu)
        or not _STEP.fullmatch(step.name)
        or not re.fullmatch(rf"stages\.{step.environment}\.[a-z_]+", step.module)
        or not all(_INPUT.fullmatch(name) for name in step.inputs)
    ):
        raise ValueError(f"{step.name[:40]!r} is no step of Kiln")
    return step


def _inputs(documents: Mapping[str, Mapping[str, str]]) -> dict[str, Input]:
    return {
        name: FromHost(**each) if "source" in each else FromStep(**each)
        for name, each in documents.items()
    }


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}


def _tree(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {TREE_DIGEST: digest}}
