"""What is installed in an environment, as a CycloneDX 1.6 document (ECMA-424)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from kiln.executors.environments import Environment
from kiln.release.lockfile import Pin, read_lock


def sbom_of(environment: Environment) -> str:
    """The same text for the same lock and base image; raises OSError.

    The serial number is made from the environment's digest, and there is no time in it.
    """
    pins = read_lock(environment.lock)
    name = f"urn:kiln:environment:{environment.digest}"
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, name))
    root = Component(
        name=f"kiln-{environment.name}",
        version=environment.digest,
        type=ComponentType.CONTAINER,
        bom_ref=f"kiln-{environment.name}",
    )
    bom.metadata.component = root
    components = {pin.name: _package(pin) for pin in pins}
    base = _base_image(environment.base)
    bom.components.update((base, *components.values()))
    for wanted, by in _wanted(pins).items():
        bom.register_dependency(components[wanted], [components[name] for name in by])
    bom.register_dependency(root, [base, *(components[pin.name] for pin in _asked_for(pins))])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _package(pin: Pin) -> Component:
    """A lock allows several files of a version, one for each platform."""
    purl = PackageURL("pypi", name=pin.name.lower().replace("_", "-"), version=pin.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(str(purl)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in pin.hashes],
    )
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=pin.name,
        purl=purl,
        external_references=[files],
    )


def _base_image(base: str) -> Component:
    image, _at, digest = base.partition("@")
    name, _colon, tag = image.partition(":")
    return Component(
        name=name,
        version=tag,
        type=ComponentType.CONTAINER,
        bom_ref="base-image",
        purl=PackageURL("oci", name=name, version=digest, qualifiers={"tag": tag}),
    )


def _wanted(pins: Sequence[Pin]) -> Mapping[str, list[str]]:
    """What each package needs, from the lock's notes on who asked for it."""
    needs: dict[str, list[str]] = {pin.name: [] for pin in pins}
    for pin in pins:
        for asking in pin.wanted_by:
            if asking in needs:
                needs[asking].append(pin.name)
    return needs


def _asked_for(pins: Sequence[Pin]) -> list[Pin]:
    """What no other package asked for, but the environment's own list."""
    names = {pin.name for pin in pins}
    return [pin for pin in pins if not names.intersection(pin.wanted_by)]
