"""What doctor finds, what it calls a fault, and that it says what to do about each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kiln.cli.doctor import (
    Finding,
    gpu_finding,
    index_finding,
    registry_finding,
    store_finding,
    taken_finding,
)
from kiln.executors.docker.facts import EngineFacts
from kiln.executors.package_index import index_problem, package_index
from kiln.paths import Paths
from kiln.store.store import Recipe, Store
from kiln.system.files import size_of

FACTS = EngineFacts(
    data=None,
    offers_gpu=True,
    image_bytes=0,
    missing=(),
    registry="docker.io",
    registry_problem="",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one finished step of 4000 bytes."""
    store = Store(tmp_path / "home" / "store")
    store.open()
    recipe = Recipe(step="demo", contract=1, sources="", environment="", params={}, inputs={})
    with store.workspace() as workspace:
        (workspace / "out" / "file").write_bytes(b"kiln" * 1000)
        store.publish(workspace, recipe, result={}, warnings=(), seconds=1.0, facts={})
    return store


def _output(store: Store) -> Path:
    return next(store.folder.glob("entries/*/out/file"))


def test_a_healthy_store_is_read_again_and_left_as_it_was(store: Store) -> None:
    before = size_of(store.folder)
    finding = store_finding(store.folder, deep=True)
    assert (finding.well, finding.advice) == (True, "")
    assert "1 finished steps; 4 KiB of 4 KiB read again" in finding.found
    assert size_of(store.folder) == before


def test_a_bit_that_a_disk_flipped_is_found_by_a_deep_look(store: Store) -> None:
    """Its size and times are the same, so no lookup reads the file again."""
    path = _output(store)
    path.chmod(0o644)
    path.write_bytes(b"kilm" + b"kiln" * 999)
    finding = store_finding(store.folder, deep=True)
    assert not finding.well
    assert "out/file has changed" in finding.found
    assert "the next build makes these steps again" in finding.advice


def test_a_look_without_deep_stops_at_a_sample(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiln.cli.doctor._SAMPLE_BYTES", 3999)
    _output(store).unlink()
    assert store_finding(store.folder, deep=False).well
    assert not store_finding(store.folder, deep=True).well


def test_an_entry_that_cannot_be_read_is_named(store: Store) -> None:
    document = _output(store).parents[1] / "entry.json"
    document.chmod(0o644)
    document.write_text("{", encoding="utf-8")
    finding = store_finding(store.folder, deep=False)
    assert not finding.well
    assert f"{document.parent.name} cannot be read" in finding.found


def test_a_store_that_is_not_there_yet_is_well(tmp_path: Path) -> None:
    assert store_finding(tmp_path / "none", deep=True).well


@pytest.mark.usefixtures("store")
def test_what_is_taken_is_listed_with_the_most_first(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path, home=tmp_path / "home", results=tmp_path / "build")
    (paths.home / "envs").mkdir()
    (paths.home / "envs" / "package").write_bytes(bytes(1 << 20))
    found = taken_finding(paths, image_bytes=3 << 30).found
    assert found.startswith("images 3.0 GiB, environments 1 MiB, store ")


@pytest.mark.parametrize(
    ("there", "facts", "words"),
    [
        (False, FACTS, "training runs on the CPU"),
        (True, None, "an NVIDIA driver is loaded"),
        (True, FACTS, "the engine offers it"),
        (True, dataclasses.replace(FACTS, offers_gpu=False), "containers train on the CPU"),
    ],
)
def test_a_gpu_is_looked_for_here_and_in_the_engine(
    there: bool, facts: EngineFacts | None, words: str
) -> None:
    finding = gpu_finding(there, facts)
    assert words in finding.found
    assert finding.well
    assert bool(finding.advice) == ("containers" in words)


def test_being_offline_is_a_fault_only_while_something_must_be_fetched() -> None:
    problem = "Name or service not known"
    offline = index_finding("pypi.org", problem, ready=False)
    assert not offline.well
    assert "HTTPS_PROXY" in offline.advice
    ready = index_finding("pypi.org", problem, ready=True)
    assert ready.well
    assert "published weights" in ready.advice
    assert index_finding("pypi.org", "", ready=False) == Finding(
        name="package index", well=True, found="pypi.org answers"
    )


def test_no_registry_is_told_with_what_helps_where_images_are_missing() -> None:
    facts = dataclasses.replace(FACTS, registry_problem="no such host")
    assert "are here" in registry_finding(facts).found
    assert "debootstrap" in registry_finding(dataclasses.replace(facts, missing=("vela",))).advice
    assert registry_finding(FACTS).found == "docker.io answers"


def test_the_index_is_the_one_that_an_installation_would_ask(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PIP_INDEX_URL": "https://me:secret@mirror.example/simple"}
    index = package_index(environ, tmp_path)
    assert (index.shown, index.address) == ("mirror.example", "https://mirror.example/simple")
    named = {**environ, "UV_DEFAULT_INDEX": "mine=https://uv.example/simple"}
    assert package_index(named, tmp_path).shown == "uv.example"


def test_an_index_that_is_a_folder_or_is_switched_off_needs_no_network(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "UV_DEFAULT_INDEX": tmp_path.as_uri()}
    assert index_problem(package_index(environ, tmp_path)) == ""
    environ["UV_DEFAULT_INDEX"] += "/gone"
    assert index_problem(package_index(environ, tmp_path)) == "there is no such folder"
    environ["UV_OFFLINE"] = "1"
    assert index_problem(package_index(environ, tmp_path)) == "UV_OFFLINE is set"
