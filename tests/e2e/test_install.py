"""The wheel, installed as a user does it, is all that a build needs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import uv

from kiln import __version__
from kiln.executors.uv import installer_variables
from kiln.release.write import source_files
from kiln.store.tree import hash_file
from tests.support.checkout import HOME, ROOT

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A Kiln at the command line, with ``home`` for its private state."""

    argv: tuple[str, ...]
    home: Path
    variables: Mapping[str, str]

    def types(self, folder: Path, *arguments: str) -> str:
        """Run it in a folder, made if need be; what it wrote to stdout."""
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [*self.argv, *arguments],
            cwd=folder,
            env={"PATH": os.defpath, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that `uv tool install` makes for the wheel."""
    folder = tmp_path_factory.mktemp("tools")
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        folder,
    ]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    options = ("--python", sys.executable, "--constraints", ROOT / "kiln.lock")
    subprocess.run(
        [uv.find_uv_bin(), "tool", "install", "--from", wheel, "kiln", *options],
        env={
            **installer_variables(os.environ, HOME),
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_TOOL_DIR": str(folder),
            "UV_TOOL_BIN_DIR": str(folder / "bin"),
        },
        check=True,
    )
    return folder / "kiln"


@pytest.fixture(scope="module")
def installed(site: Path, tmp_path_factory: pytest.TempPathFactory, environments: Path) -> Command:
    """The installed Kiln of a user who has no settings; the stage environments are shared."""
    user = tmp_path_factory.mktemp("user")
    home = user / ".cache" / "kiln"
    home.mkdir(parents=True)
    (home / "envs").symlink_to(environments)
    return Command(
        argv=(str(site.parent / "bin" / "kiln"),), home=home, variables={"HOME": str(user)}
    )


@pytest.fixture(scope="module")
def request_flags(detect_data: Path, detect_weights: Path) -> tuple[str, ...]:
    """Own data and weights, so that nothing has to be trained."""
    weights = detect_weights / "weights.safetensors"
    brings = ("--data", str(detect_data / "data"), "--weights", str(weights))
    return (*brings, "--task", "detect", "--imgsz", "64", "--executor", "local", "--name", "own")


def test_it_builds_in_an_empty_folder_and_leaves_only_results_there(
    installed: Command, request_flags: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    assert __version__ in installed.types(folder, "--version")
    assert "grove-v2" in installed.types(folder, "targets")
    built = json.loads(installed.types(folder, "build", "--json", *request_flags))
    assert built["verdict"]["accepted"]
    assert [path.name for path in folder.iterdir()] == ["build"]
    assert [path.name for path in installed.home.parents[1].iterdir()] == [".cache"]


def test_the_checkout_gives_the_same_steps_files_and_release(
    site: Path, installed: Command, request_flags: tuple[str, ...], tmp_path: Path
) -> None:
    """Steps of the one are found in the store by the other: their keys are equal."""
    (packages,) = site.glob("lib/python*/site-packages")
    assert source_files(packages / "kiln-source").digest == source_files(ROOT).digest
    checkout = Command(
        argv=(sys.executable, "-m", "kiln"),
        home=installed.home,
        variables={"KILN_HOME": str(installed.home), "PYTHONPATH": str(ROOT)},
    )
    installed.types(tmp_path / "installed", "release", *request_flags)
    explained = json.loads(checkout.types(tmp_path, "explain", "--json", *request_flags))
    assert not any(step["runs"] for step in explained["grove-v2"])
    checkout.types(tmp_path / "checkout", "release", *request_flags)
    first, second = (
        hash_file(tmp_path / name / "build/grove-v2/own.release.tar")
        for name in ("installed", "checkout")
    )
    assert first == second
