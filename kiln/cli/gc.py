"""``kiln gc`` and ``kiln clean``: what can go from this host, decided first, then removed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from rich.markup import escape

from kiln.cli.session import Session, shown_path
from kiln.device import esp
from kiln.errors import RequestError, os_errors
from kiln.executors.docker.clean import EngineImage, clean_engine, remove_image, stale_images
from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment
from kiln.executors.virtualenvs import folder_name
from kiln.paths import Paths
from kiln.store.store import Store
from kiln.store.usage import Ledger, exclusive_lock
from kiln.system.files import remove_tree, shown_bytes, size_of

_AGE = re.compile(r"(?P<count>\d+)(?P<unit>[mhdw])")
_AGE_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"(?P<count>\d+(\.\d+)?) ?(?P<unit>[KMGT])(iB)?")
_SIZE_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_ENVIRONMENT = re.compile(rf"({'|'.join((*ENVIRONMENT_NAMES, esp.NAME))})-[0-9a-f]{{12}}-cp\d+")
_BUILDS_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What may go: steps unused for ``unused_s``, then the least recently used beyond a size.

    Steps that a recorded build needs go by ``force`` alone.
    """

    unused_s: float
    keep_bytes: int | None = None
    force: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A finished step in the store; ``needed_by`` are result folders."""

    path: Path
    step: str | None
    bytes: int
    used_at: float
    needed_by: tuple[Path, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """What goes together: paths of this host, or an image of the engine."""

    what: str
    why: str
    bytes: int
    paths: tuple[Path, ...] = ()
    image: EngineImage | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is removed, and notes on what stays."""

    removals: tuple[Removal, ...]
    notes: tuple[str, ...]


@click.command()
@click.option("--older", metavar="AGE", default="7d", help="Unused for so long: 30d, 12h; 7d.")
@click.option("--keep", metavar="SIZE", help="Then those used longest ago, down to 5GiB, 500M.")
@click.option("--force", is_flag=True, help="Also steps that recorded builds are made of.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(older: str, keep: str | None, force: bool, dry_run: bool) -> None:
    """Remove finished steps, environments and images that no recorded build needs."""
    session = Session.start()
    rules = Rules(
        unused_s=seconds_of(older), keep_bytes=None if keep is None else bytes_of(keep), force=force
    )
    freed = 0
    with exclusive_lock(session.paths.home, "kiln gc"):
        sweep = plan_sweep(session.paths, rules)
        for removal in sweep.removals:
            if dry_run or carry_out(removal):
                freed += removal.bytes
                doing = "would remove" if dry_run else "removed"
                line = f"{doing} {removal.what} ({shown_bytes(removal.bytes)}): {removal.why}"
                session.terminal.print(escape(line))
    for note in sweep.notes:
        session.terminal.say(note)
    doing = "would free" if dry_run else "freed"
    done = f"{doing} {shown_bytes(freed)}" if freed else "nothing to remove"
    session.terminal.mark("✓", done, out=True)


@click.command()
@click.option("--store", is_flag=True, help="Also every finished step: builds start from nothing.")
@click.option("--environments", is_flag=True, help="Also stage environments and images.")
def clean(store: bool, environments: bool) -> None:
    """Remove unfinished work, logs, volumes; results under build/ stay."""
    session = Session.start()
    paths = session.paths
    folders = [paths.home / "jobs", paths.home / "verify", paths.logs]
    if store:
        folders += [paths.store, paths.home / "descriptions"]
    if environments:
        folders.append(paths.home / "envs")
    with exclusive_lock(paths.home, "kiln clean"):
        for folder in folders:
            if folder.exists():
                size = size_of(folder)
                with os_errors("cannot remove files"):
                    shutil.rmtree(folder)
                session.terminal.say(f"removed {shown_path(folder)} ({shown_bytes(size)})")
        for removed in clean_engine(images=environments):
            session.terminal.say(f"removed {removed}")


def seconds_of(text: str) -> float:
    """The age that a text like 30d, 12h or 2w means; raises RequestError."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise RequestError(f"{text!r} is no age", hint="write it as in --older 30d (m, h, d, w)")
    return float(found["count"]) * _AGE_S[found["unit"]]


def bytes_of(text: str) -> int:
    """The size that a text like 5GiB or 500M means; raises RequestError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise RequestError(f"{text!r} is no size", hint="write it as in --keep 5GiB (K, M, G, T)")
    return int(float(found["count"]) * _SIZE_BYTES[found["unit"]])


def plan_sweep(paths: Paths, rules: Rules) -> Sweep:
    """Decide what goes; changes nothing. Raises EnvironmentBroken, EngineError, StoreError."""
    ledger = Ledger(paths.store)
    with os_errors("cannot read the store"):
        stored = list(_stored(paths.store, ledger))
    gone, notes = select(stored, rules, now=time.time())
    gone += [each for each in stored if each.step is None]
    removals = [
        *(_step_removal(each) for each in gone),
        *_leftovers(paths, ledger, [each.path for each in gone]),
        *_environments(paths),
        *(
            Removal(what=image.name, why="not of this Kiln", bytes=image.bytes, image=image)
            for image in stale_images(paths.root)
        ),
    ]
    return Sweep(removals=tuple(removals), notes=tuple(notes))


def select(stored: Sequence[Stored], rules: Rules, *, now: float) -> tuple[list[Stored], list[str]]:
    """The steps that go, least recently used first, and what to say of those that stay."""
    ordered = sorted((s for s in stored if s.step is not None), key=lambda each: each.used_at)
    free = [each for each in ordered if rules.force or not each.needed_by]
    gone = [each for each in free if now - each.used_at >= rules.unused_s]
    left = sum(each.bytes for each in ordered) - sum(each.bytes for each in gone)
    for each in free[len(gone) :]:
        if rules.keep_bytes is None or left <= rules.keep_bytes:
            break
        gone.append(each)
        left -= each.bytes
    kept = [each for each in ordered if each not in gone]
    wanted = [each for each in kept if each.needed_by and now - each.used_at >= rules.unused_s]
    if rules.keep_bytes is not None and left > rules.keep_bytes:
        wanted = kept
    return gone, [*_needed_note(wanted), *_recent_note(kept)]


def carry_out(removal: Removal) -> bool:
    """Remove; False if an engine still needs the image. Raises StoreError, EngineError."""
    with os_errors(f"cannot remove {removal.what}"):
        for path in removal.paths:
            remove_tree(path)
    return removal.image is None or remove_image(removal.image)


def _stored(store: Path, ledger: Ledger) -> Iterator[Stored]:
    builds = ledger.builds()
    for key, size in Store(store).sizes().items():
        folder = store / "entries" / key
        yield Stored(
            path=folder,
            step=_step_of(folder),
            bytes=size,
            used_at=ledger.used_at(key),
            needed_by=tuple(build.folder for build in builds if key in build.keys),
        )


def _step_of(entry: Path) -> str | None:
    """The step that an entry is of; None if it can't be read, so that no build can use it."""
    try:
        document = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        return str(document["recipe"]["step"]).rpartition(".")[2]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _step_removal(stored: Stored) -> Removal:
    key = stored.path.name[:12]
    if stored.step is None:
        what, why = f"step {key}", "its entry.json cannot be read"
    else:
        days = (time.time() - stored.used_at) / _AGE_S["d"]
        of = f"{_named(stored.needed_by)} is" if stored.needed_by else "no recorded build is"
        what, why = f"{stored.step} {key}", f"{of} made of it; unused for {days:.0f} days"
    return Removal(what=what, why=why, bytes=stored.bytes, paths=(stored.path,))


def _leftovers(paths: Paths, ledger: Ledger, gone: Sequence[Path]) -> Iterator[Removal]:
    """What dead drivers have left, and what was written of steps and results that are no more."""
    store = Store(paths.store)
    known = {ledger.path_of(build.folder) for build in ledger.builds()}
    there = {path.name for path in _in(paths.store / "entries") if path not in gone}
    yield from _together("unfinished outputs", "their drivers have ended", _in(paths.store / "tmp"))
    records = [path for path in _in(ledger.builds_folder) if path not in known]
    yield from _together("records of builds", "their result folders are gone", records)
    indexes = [path for path in _in(store.index_folder) if not _is_live(path, gone)]
    yield from _together("indexes", "what they remember is gone", indexes)
    # gc holds the home exclusively, so no lock is in use.
    locks = [path for path in _in(paths.store / "locks") if path.stem not in there]
    yield from _together("locks", "what they were for is gone or not in use", locks)


def _is_live(index: Path, gone: Sequence[Path]) -> bool:
    """Whether one file that an index remembers will still be there."""
    try:
        # Beside the index of a whole set of files lies what is known of it as one.
        remembered = json.loads(index.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    lost = set(gone)
    return any(Path(name).exists() and lost.isdisjoint(Path(name).parents) for name in remembered)


def _together(what: str, why: str, paths: Sequence[Path]) -> Iterator[Removal]:
    if paths:
        size = sum(size_of(path) for path in paths)
        yield Removal(what=f"{len(paths)} of the {what}", why=why, bytes=size, paths=tuple(paths))


def _environments(paths: Paths) -> Iterator[Removal]:
    """Environments of other locks than the checkout's; a lock file beside one goes with it."""
    current = [folder_name(load_environment(paths.root, name)) for name in ENVIRONMENT_NAMES]
    current.append(esp.folder_name())
    for path in _in(paths.home / "envs"):
        if _ENVIRONMENT.fullmatch(path.name) and path.name not in current:
            yield Removal(
                what=f"environment {path.name}",
                why="of another lock than this Kiln's",
                bytes=size_of(path),
                paths=(path, path.with_suffix(".lock")),
            )


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _needed_note(stored: Sequence[Stored]) -> Iterator[str]:
    if stored:
        builds = sorted({build for each in stored for build in each.needed_by})
        yield (
            f"kept {_total(stored)}, which {_named(builds)} {_are(builds)} made of; --force "
            "removes them too: results stay, and the next such build makes its steps again"
        )


def _recent_note(stored: Iterable[Stored]) -> Iterator[str]:
    recent = [each for each in stored if not each.needed_by]
    if recent:
        yield (
            f"kept {_total(recent)} that no finished build is made of, for they were used lately "
            "and a build that was broken off goes on from there; --older 0d removes them too"
        )


def _total(stored: Sequence[Stored]) -> str:
    steps = "step" if len(stored) == 1 else "steps"
    return f"{len(stored)} finished {steps} ({shown_bytes(sum(each.bytes for each in stored))})"


def _are(builds: Sequence[Path]) -> str:
    return "is" if len(builds) == 1 else "are"


def _named(builds: Sequence[Path]) -> str:
    names = [str(build) for build in builds[:_BUILDS_NAMED]]
    more = len(builds) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
