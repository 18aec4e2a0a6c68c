"""What gc takes, what it leaves, and what it says: nothing that a recorded build needs goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kiln.cli import gc as sweeping
from kiln.cli.gc import Rules, Stored, bytes_of, carry_out, plan_sweep, seconds_of, select
from kiln.errors import RequestError, StoreError
from kiln.executors.docker.clean import EngineImage, unnamed
from kiln.paths import Paths
from kiln.pipeline.build import Build
from kiln.plan.plan import make_plan
from kiln.plan.request import BuildRequest
from kiln.plan.targets import load_target
from kiln.store.store import Entry, Recipe, Store
from kiln.store.usage import Ledger, exclusive_lock, shared_lock
from kiln.system.files import size_of
from tests.support.checkout import ROOT
from tests.support.scripted_executor import Record, ScriptedExecutor

DAY_S = 86400.0
NOW = 100 * DAY_S
WEEK = Rules(unused_s=7 * DAY_S)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(sweeping, "stale_images", lambda _root: [])
    paths = Paths(root=ROOT, home=tmp_path / "home", results=tmp_path / "build")
    Store(paths.store).open()
    return paths


def _keep(paths: Paths, step: str, *, days: float = 0) -> str:
    """Put a finished step into the store, last used so many days ago; its key."""
    store = Store(paths.store)
    recipe = Recipe(
        step=f"stages.train.{step}", contract=1, sources="", environment="", params={}, inputs={}
    )
    with store.workspace() as workspace:
        (workspace / "out" / "file").write_text(step * 100, encoding="utf-8")
        store.publish(workspace, recipe, result={}, warnings=(), seconds=1.0, facts={})
    used = time.time() - days * DAY_S
    os.utime(paths.store / "entries" / recipe.key, (used, used))
    return recipe.key


def _built(paths: Paths, name: str, *keys: str) -> Path:
    """Record a build whose result folder is there."""
    folder = paths.results / "grove-v2" / name
    folder.mkdir(parents=True)
    (folder / "build.json").write_text("{}", encoding="utf-8")
    Ledger(paths.store).record(folder, keys)
    return folder


def _collect(paths: Paths, rules: Rules = WEEK) -> tuple[list[str], tuple[str, ...]]:
    """What went, by the beginning of its name, and what was said of what stays."""
    planned = plan_sweep(paths, rules)
    assert all(carry_out(removal) for removal in planned.removals)
    return [removal.what for removal in planned.removals], planned.notes


def _entries(paths: Paths) -> set[str]:
    return {path.name for path in (paths.store / "entries").iterdir()}


def test_what_a_build_is_made_of_stays_however_old_and_from_whatever_folder(
    paths: Paths, tmp_path: Path
) -> None:
    here, there, free = (_keep(paths, step, days=90) for step in ("demo", "train", "onnx"))
    _built(paths, "one", here)
    elsewhere = Paths(root=ROOT, home=paths.home, results=tmp_path / "another" / "build")
    _built(elsewhere, "two", there)
    gone, notes = _collect(paths)
    assert _entries(paths) == {here, there}
    assert [name.split()[0] for name in gone if free[:12] in name] == ["onnx"]
    assert "one" in notes[0]
    assert str(tmp_path / "another") in notes[0]
    assert "--force" in notes[0]


def test_a_step_of_an_unfinished_build_stays_for_a_week_and_is_told_of(paths: Paths) -> None:
    key = _keep(paths, "train", days=6)
    gone, notes = _collect(paths)
    assert (gone, _entries(paths)) == ([], {key})
    assert "--older 0d" in notes[0]
    _collect(paths, Rules(unused_s=0))
    assert _entries(paths) == set()


def test_a_result_folder_that_is_gone_needs_nothing_any_more(paths: Paths) -> None:
    key = _keep(paths, "train", days=8)
    (_built(paths, "one", key) / "build.json").unlink()
    gone, _notes = _collect(paths)
    assert _entries(paths) == set()
    assert any("records of builds" in name for name in gone)
    assert not list(Ledger(paths.store).builds_folder.iterdir())


def test_force_takes_what_builds_are_made_of_and_leaves_their_results(paths: Paths) -> None:
    folder = _built(paths, "one", _keep(paths, "train", days=8))
    planned = plan_sweep(paths, Rules(unused_s=7 * DAY_S, force=True))
    assert str(folder) in planned.removals[0].why
    assert all(carry_out(removal) for removal in planned.removals)
    assert _entries(paths) == set()
    assert (folder / "build.json").is_file()


def test_what_goes_is_counted_and_deciding_changes_nothing(paths: Paths) -> None:
    _keep(paths, "train", days=8)
    before = size_of(paths.store)
    planned = plan_sweep(paths, WEEK)
    assert size_of(paths.store) == before
    assert all(carry_out(removal) for removal in planned.removals)
    assert before - size_of(paths.store) == sum(removal.bytes for removal in planned.removals)


def test_a_swept_store_goes_on_and_the_next_sweep_finds_nothing(paths: Paths) -> None:
    _keep(paths, "train", days=8)
    _collect(paths)
    assert _collect(paths) == ([], ())
    _keep(paths, "train")
    assert len(_entries(paths)) == 1


def test_leftovers_of_dead_drivers_and_stale_indexes_go_and_live_ones_stay(
    paths: Paths, tmp_path: Path
) -> None:
    key = _keep(paths, "train")
    (paths.store / "tmp" / "left").mkdir()
    picture = tmp_path / "a.png"
    picture.touch()
    live, stale = (paths.store / "index" / name for name in ("data-1.json", "data-2.json"))
    live.write_text(f'{{"{picture}": [0, 0, 0, 0, ""], "/gone/b.png": [0, 0, 0, 0, ""]}}')
    stale.write_text('{"/gone/a.png": [0, 0, 0, 0, ""]}')
    (paths.store / "locks" / f"{key}.lock").touch()
    (paths.store / "locks" / "gone.lock").touch()
    _collect(paths)
    assert not list((paths.store / "tmp").iterdir())
    assert live.exists()
    assert not stale.exists()
    assert [path.stem for path in (paths.store / "locks").iterdir()] == [key]


def test_an_entry_that_cannot_be_read_goes_at_once(paths: Paths) -> None:
    key = _keep(paths, "train")
    document = paths.store / "entries" / key / "entry.json"
    document.chmod(0o644)
    document.write_text("{", encoding="utf-8")
    _collect(paths)
    assert _entries(paths) == set()


def test_environments_of_other_locks_go_and_this_checkouts_stay(paths: Paths) -> None:
    from kiln.device import esp
    from kiln.executors.environments import load_environment
    from kiln.executors.virtualenvs import folder_name

    current = {folder_name(load_environment(ROOT, "vela")), esp.folder_name()}
    envs = paths.home / "envs"
    for name in (*current, "vela-000000000000-cp311", "esptool-000000000000-cp311", "mine"):
        (envs / name / "bin").mkdir(parents=True)
        (envs / f"{name}.lock").touch()
    _collect(paths)
    kept = {*current, "mine"}
    assert {path.name for path in envs.iterdir()} == kept | {f"{name}.lock" for name in kept}


def _build(paths: Paths) -> Build:
    plan = make_plan(BuildRequest(), load_target(ROOT / "targets", "grove-v2"))
    return Build(plan, paths, ScriptedExecutor)


def _age(paths: Paths, days: float) -> None:
    used = time.time() - days * DAY_S
    for path in (paths.store / "entries").iterdir():
        os.utime(path, (used, used))


def test_a_build_is_recorded_by_its_result_folder(paths: Paths) -> None:
    build = _build(paths)
    build.run(Record())
    made = _entries(paths)
    _age(paths, days=90)
    gone, notes = _collect(paths)
    assert (gone, _entries(paths)) == ([], made)
    assert str(build.folder) in notes[0]
    shutil.rmtree(build.folder)
    _collect(paths)
    assert _entries(paths) == set()


def test_a_step_that_is_found_counts_as_used(paths: Paths) -> None:
    _build(paths).run(Record())
    _age(paths, days=90)
    record = Record()
    shutil.rmtree(paths.results)
    _build(paths).run(record)
    shutil.rmtree(paths.results)
    _collect(paths)
    assert len(_entries(paths)) == len(record.reused)


def _stored(name: str, *, days: float, size: int = 10, needed: bool = False) -> Stored:
    builds = (Path("/work/build/grove-v2/demo"),) if needed else ()
    return Stored(
        path=Path(name), step=name, bytes=size, used_at=NOW - days * DAY_S, needed_by=builds
    )


def _selected(*stored: Stored, **rules: object) -> tuple[list[str], list[str]]:
    gone, notes = select(stored, Rules(unused_s=7 * DAY_S, **rules), now=NOW)  # type: ignore[arg-type]
    return [each.path.name for each in gone], notes


def test_beyond_a_size_those_used_longest_ago_go_first() -> None:
    stored = [_stored(f"s{days}", days=days) for days in (1, 5, 3, 30)]
    assert _selected(*stored)[0] == ["s30"]
    assert _selected(*stored, keep_bytes=20)[0] == ["s30", "s5"]
    assert _selected(*stored, keep_bytes=0)[0] == ["s30", "s5", "s3", "s1"]


def test_a_size_that_only_needed_steps_stand_against_is_told_with_the_builds() -> None:
    stored = [_stored("free", days=1), _stored("needed", days=2, needed=True)]
    gone, notes = _selected(*stored, keep_bytes=5)
    assert gone == ["free"]
    assert "/work/build/grove-v2/demo" in notes[0]
    assert "--force" in notes[0]
    assert _selected(*stored, keep_bytes=5, force=True)[0] == ["needed", "free"]


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (seconds_of, "30d", 30 * DAY_S),
        (seconds_of, "12h", 43200),
        (seconds_of, "2w", 14 * DAY_S),
        (bytes_of, "5GiB", 5 << 30),
        (bytes_of, "1.5 G", 3 << 29),
        (bytes_of, "500M", 500 << 20),
    ],
)
def test_ages_and_sizes_are_written_as_people_do(
    read: Callable[[str], float], text: str, value: float
) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"), [(seconds_of, "soon"), (seconds_of, "30"), (bytes_of, "5"), (bytes_of, "-1G")]
)
def test_what_is_none_is_refused_with_an_example(read: Callable[[str], float], text: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(text)
    assert "--" in refused.value.hint


def test_nothing_is_swept_beside_a_build_and_two_builds_do_not_wait(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        shared_lock(tmp_path, said.append),
        shared_lock(tmp_path, said.append),
        pytest.raises(StoreError, match="a build that runs now"),
        exclusive_lock(tmp_path, "kiln gc"),
    ):
        pytest.fail("both had it")
    with exclusive_lock(tmp_path, "kiln gc"):
        assert said == []


def test_marking_an_entry_as_used_leaves_its_files_trusted(paths: Paths) -> None:
    """The index goes by a file's ctime, which must not move."""
    key = _keep(paths, "train", days=8)
    file = paths.store / "entries" / key / "out" / "file"
    before = file.stat()
    Ledger(paths.store).mark_used(key)
    assert time.time() - Ledger(paths.store).used_at(key) < DAY_S
    assert file.stat() == before
    recipe = Recipe(
        step="stages.train.train", contract=1, sources="", environment="", params={}, inputs={}
    )
    assert isinstance(Store(paths.store).lookup(recipe), Entry)


def _image(name: str, *layers: str, size: int) -> EngineImage:
    return EngineImage(id=f"sha256:{name}", tags=(f"kiln-{name}",), layers=layers, bytes=size)


def test_images_that_no_environment_names_go_from_the_top_down_and_count_once() -> None:
    base = _image("base", "base", size=100)
    old = _image("train:environment-1", "base", "packages", size=1100)
    old_code = _image("train:1", "base", "packages", "code", size=1101)
    new = _image("train:environment-2", "base", "new packages", size=1200)
    stale = unnamed([base, old, old_code, new], {"sha256:base", "kiln-train:environment-2"})
    assert [(image.name, image.bytes) for image in stale] == [
        ("image kiln-train:1", 1),
        ("image kiln-train:environment-1", 1000),
    ]


def _types(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, where no engine answers."""
    variables = {"KILN_HOME": str(home), "DOCKER_HOST": "unix:///nowhere", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "kiln", *arguments],
        env=os.environ | variables,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_what_goes_and_how_much_and_dry_run_only_says(paths: Paths) -> None:
    key = _keep(paths, "train", days=8)
    said = _types(paths.home, "gc", "--dry-run")
    assert (said.returncode, _entries(paths)) == (0, {key}), said.stderr
    assert f"would remove train {key[:12]}" in said.stdout
    done = _types(paths.home, "gc")
    assert (done.returncode, _entries(paths)) == (0, set()), done.stderr
    assert f"removed train {key[:12]}" in done.stdout
    assert "freed" in done.stdout
    assert "nothing to remove" in _types(paths.home, "gc").stdout


@pytest.mark.parametrize("command", [("gc",), ("clean", "--store")])
def test_beside_a_build_the_command_removes_nothing_and_says_why(
    paths: Paths, command: tuple[str, ...]
) -> None:
    _keep(paths, "train", days=8)
    with shared_lock(paths.home, print):
        done = _types(paths.home, *command)
    assert done.returncode == StoreError.exit_code
    assert f"kiln {command[0]} would take away what a build that runs now" in done.stderr
    assert len(_entries(paths)) == 1


def test_a_build_that_begins_while_gc_is_at_work_waits_and_says_so(tmp_path: Path) -> None:
    waiting, went_on = threading.Event(), threading.Event()

    def build() -> None:
        with shared_lock(tmp_path, lambda _message: waiting.set()):
            went_on.set()

    thread = threading.Thread(target=build)
    with exclusive_lock(tmp_path, "kiln gc"):
        thread.start()
        assert waiting.wait(timeout=60)
        assert not went_on.is_set()
    thread.join(timeout=60)
    assert went_on.is_set()
