"""``kiln doctor``: what a build needs of this host, and what to do if it is missing."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from kiln.cli.session import Session
from kiln.errors import KilnError
from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment
from kiln.paths import Paths
from kiln.store.health import examine_store
from kiln.system.files import shown_bytes, size_of

if TYPE_CHECKING:
    from kiln.executors.docker.facts import EngineFacts

#: Environments or images (8 GB), caches and a data set; less than this fails in the middle.
NEEDED_BYTES = 20 << 30
#: What a step may write before it fails, if all environments are there.
LEAST_BYTES = 2 << 30

_GPU_DEVICE = Path("/dev/nvidiactl")
#: Bytes of the store that are read unless all are asked for; about a second's work.
_SAMPLE_BYTES = 128 << 20
_NAMED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: is it well, what was found, what to do."""

    name: str
    well: bool
    found: str
    advice: str = ""


@click.command()
@click.option("--deep", is_flag=True, help="Read all that the store holds, not a sample.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(deep: bool, as_json: bool) -> None:
    """Check the host: engine, Python, GPU, disk, network, store; say what to do."""
    session = Session.start()
    findings = examine_host(session.paths, deep=deep)
    if as_json:
        session.terminal.json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            sign = "✓" if finding.well else "✕"
            session.terminal.mark(sign, f"{finding.name}: {finding.found}", out=True)
            if finding.advice:
                session.terminal.print(f"  {escape(finding.advice)}")
    if not all(finding.well for finding in findings):
        sys.exit(1)


def examine_host(paths: Paths, *, deep: bool = False) -> list[Finding]:
    """Check everything, the store's files whole if ``deep``; changes nothing, fetches nothing."""
    engine, facts = _engine(paths)
    python, unmade = _python(paths)
    one = engine.well or python.well
    ready = not unmade or (facts is not None and not facts.missing)
    # One executor is enough: the other's absence is no fault, only a fact.
    return [
        dataclasses.replace(engine, well=one),
        dataclasses.replace(python, well=one),
        gpu_finding(_GPU_DEVICE.exists(), facts),
        *(_disk(name, folder, ready) for name, folder in _disks(paths, facts)),
        *_network(paths, facts, ready),
        store_finding(paths.store, deep=deep),
        taken_finding(paths, facts.image_bytes if facts is not None else 0),
    ]


def _engine(paths: Paths) -> tuple[Finding, EngineFacts | None]:
    from kiln.executors.docker.executor import engine_status
    from kiln.executors.docker.facts import engine_facts

    status = engine_status()
    if not status.reachable:
        advice = "builds use EXECUTOR=local; start an engine if you want containers"
        return Finding(
            name="container engine",
            well=False,
            found=f"none ({status.detail})",
            advice=advice,
        ), None
    try:
        facts = engine_facts(paths.root)
    except KilnError as error:
        return Finding(
            name="container engine", well=False, found=error.message, advice=error.hint
        ), None
    missing = f"; images to be made: {', '.join(facts.missing)}" if facts.missing else ""
    return Finding(name="container engine", well=True, found=status.version + missing), facts


def _python(paths: Paths) -> tuple[Finding, list[str]]:
    """The local executor, and which of its environments are still to be made."""
    from kiln.executors.virtualenvs import VirtualEnvironments, find_python

    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return Finding(
            name="local executor",
            well=False,
            found=f"the locks are for Linux on x86-64, this is {platform.system()} "
            f"on {platform.machine()}",
            advice="use EXECUTOR=docker",
        ), list(ENVIRONMENT_NAMES)
    environments = VirtualEnvironments(home=paths.home, logs=paths.logs)
    unmade = [
        str(name)
        for name in ENVIRONMENT_NAMES
        if environments.find(load_environment(paths.root, name)) is None
    ]
    python = find_python(paths.home)
    if python is None:
        return Finding(
            name="local executor",
            well=not unmade,
            found="no Python 3.11",
            advice="uv fetches one when a build needs it; offline, install python3.11",
        ), unmade
    missing = f"; environments to be made: {', '.join(unmade)}" if unmade else ""
    found = f"Python 3.11 at {python}{missing}"
    return Finding(name="local executor", well=True, found=found), unmade


def gpu_finding(there: bool, facts: EngineFacts | None) -> Finding:
    """Whether training would find a GPU here, and in the engine."""
    if not there:
        return Finding(name="GPU", well=True, found="none: training runs on the CPU")
    found = "an NVIDIA driver is loaded"
    if facts is None or facts.offers_gpu:
        return Finding(
            name="GPU", well=True, found=found + ("" if facts is None else "; the engine offers it")
        )
    return Finding(
        name="GPU",
        well=True,
        found=f"{found}, but the engine has no GPU runtime: containers train on the CPU",
        advice="install NVIDIA's container toolkit and restart the engine, or use EXECUTOR=local",
    )


def _disks(paths: Paths, facts: EngineFacts | None) -> list[tuple[str, Path]]:
    """The disk that Kiln writes to, and the engine's if that is another one that can be seen."""
    home = next(path for path in (paths.home, *paths.home.parents) if path.exists())
    disks = [("disk", home)]
    data = facts.data if facts is not None else None
    if data is not None and data.stat().st_dev != home.stat().st_dev:
        disks.append(("the engine's disk", data))
    return disks


def _disk(name: str, folder: Path, ready: bool) -> Finding:
    """``ready`` says that no environment needs to be made any more."""
    free = shutil.disk_usage(folder).free
    needed = LEAST_BYTES if ready else NEEDED_BYTES
    what = "a build" if ready else "a first build"
    advice = f"{what} takes up to {needed >> 30} GiB: free some, for example by kiln gc"
    writable = name != "disk" or os.access(folder, os.W_OK)
    if not writable:
        advice = "set KILN_HOME to a folder that you may write to"
    return Finding(
        name=name,
        well=free >= needed and writable,
        found=f"{free / 2**30:.0f} GiB free in {folder}" + ("" if writable else ", not writable"),
        advice="" if free >= needed and writable else advice,
    )


def _network(paths: Paths, facts: EngineFacts | None, ready: bool) -> list[Finding]:
    from kiln.executors.package_index import index_problem, package_index

    index = package_index(os.environ, paths.home)
    found = index_finding(index.shown, index_problem(index), ready=ready)
    return [found] if facts is None else [found, registry_finding(facts)]


def index_finding(address: str, problem: str, *, ready: bool) -> Finding:
    """Being offline is a fault only if packages must still be fetched."""
    if not problem:
        return Finding(name="package index", well=True, found=f"{address} answers")
    found = f"{address} cannot be reached ({problem})"
    if ready:
        found += "; builds go on with the environments that are here"
        return Finding(
            name="package index",
            well=True,
            found=found,
            advice="without a network, published weights and data sets cannot be fetched either",
        )
    return Finding(
        name="package index",
        well=False,
        found=found,
        advice="environments are still to be made: check the network, or set HTTPS_PROXY, "
        "SSL_CERT_FILE or UV_DEFAULT_INDEX",
    )


def registry_finding(facts: EngineFacts) -> Finding:
    """No registry is no fault: a base image can be built from Debian's packages."""
    if not facts.registry_problem:
        return Finding(name="image registry", well=True, found=f"{facts.registry} answers")
    found = f"the engine cannot reach {facts.registry} ({facts.registry_problem})"
    if not facts.missing:
        return Finding(
            name="image registry", well=True, found=f"{found}; the images that it needs are here"
        )
    return Finding(
        name="image registry",
        well=True,
        found=found,
        advice="missing images are built on a base from Debian's packages if none is here; for "
        "that run as root, with debootstrap installed, or give the engine a mirror",
    )


def store_finding(folder: Path, *, deep: bool) -> Finding:
    """Whether finished steps can be read, and whether their files are still what they were."""
    health = examine_store(folder, sample_bytes=None if deep else _SAMPLE_BYTES)
    found = (
        f"{folder} has {health.entries} finished steps; {shown_bytes(health.checked_bytes)} of "
        f"{shown_bytes(health.bytes)} read again"
    )
    wrong = [
        *(f"{path} cannot be read" for path in health.unreadable),
        *(f"{path} has changed" for path in health.damaged),
    ]
    if not wrong:
        return Finding(name="store", well=True, found=f"{found}, all well")
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return Finding(
        name="store",
        well=False,
        found=f"{found}; {'; '.join(wrong[:_NAMED])}{more}",
        advice="remove those folders of entries/: the next build makes these steps again; "
        "if files change by themselves, check the disk",
    )


def taken_finding(paths: Paths, image_bytes: int) -> Finding:
    """What Kiln has on the disks, the most first."""
    sizes = {
        "environments": size_of(paths.home / "envs"),
        "images": image_bytes,
        "store": size_of(paths.store),
        "logs": size_of(paths.logs),
        "unfinished work": size_of(paths.home / "jobs") + size_of(paths.home / "verify"),
        "packages": size_of(paths.home / "uv-cache") + size_of(paths.home / "python"),
    }
    most = sorted(((size, name) for name, size in sizes.items() if size), reverse=True)
    listed = ", ".join(f"{name} {shown_bytes(size)}" for size, name in most)
    return Finding(name="taken", well=True, found=listed or "nothing yet")
