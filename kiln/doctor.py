"""What a build needs of this host, and what to do where it is missing."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from pathlib import Path

from kiln.store import Store
from kiln.workplace import Workplace

#: Environments or images (8 GB), caches and a data set; less than this fails in the middle.
NEEDED_BYTES = 20 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: is it well, what was found, what to do."""

    name: str
    well: bool
    found: str
    advice: str = ""


def examine_host(place: Workplace) -> list[Finding]:
    """Check everything; nothing is changed and nothing is fetched."""
    engine = _engine()
    python = _python(place)
    one = engine.well or python.well
    # One executor is enough: the other's absence is no fault, only a fact.
    return [
        dataclasses.replace(engine, well=one),
        dataclasses.replace(python, well=one),
        _gpu(),
        _disk(place),
        _store(place),
    ]


def _engine() -> Finding:
    from kiln.executors.docker import engine_status

    status = engine_status()
    if status.reachable:
        return Finding(name="container engine", well=True, found=status.version)
    return Finding(
        name="container engine",
        well=False,
        found=f"none ({status.detail})",
        advice="builds use EXECUTOR=local; start an engine if you want containers",
    )


def _python(place: Workplace) -> Finding:
    from kiln.executors.virtualenvs import find_python

    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return Finding(
            name="local executor",
            well=False,
            found=f"the locks are for Linux on x86-64, this is {platform.system()} "
            f"on {platform.machine()}",
            advice="use EXECUTOR=docker",
        )
    found = find_python(place.home)
    if found is None:
        return Finding(
            name="local executor",
            well=False,
            found="no Python 3.11",
            advice="uv fetches one when a build needs it; offline, install python3.11",
        )
    return Finding(name="local executor", well=True, found=f"Python 3.11 at {found}")


def _gpu() -> Finding:
    there = Path("/dev/nvidiactl").exists()
    return Finding(
        name="GPU",
        well=True,
        found="an NVIDIA driver is loaded" if there else "none: training runs on the CPU",
    )


def _disk(place: Workplace) -> Finding:
    folder = next(path for path in (place.home, *place.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    enough = free >= NEEDED_BYTES
    writable = os.access(folder, os.W_OK)
    return Finding(
        name="disk",
        well=enough and writable,
        found=f"{free / 2**30:.0f} GiB free in {folder}" + ("" if writable else ", not writable"),
        advice="" if enough else f"a first build takes up to {NEEDED_BYTES >> 30} GiB: free some",
    )


def _store(place: Workplace) -> Finding:
    sizes = Store(place.store).sizes()
    total = sum(sizes.values()) / 2**20
    return Finding(name="store", well=True, found=f"{len(sizes)} finished steps, {total:,.0f} MiB")
