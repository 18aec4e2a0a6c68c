"""The store: what steps gave, named by everything that decided it.

Plain folders::

    entries/<key>/entry.json   the recipe, what came out, what the step said, a digest of it all
    entries/<key>/out/         the files, read-only
    tmp/                       outputs being made; nothing here is ever taken for whole
    locks/<key>.lock           one driver makes a step, others wait and then hit
    index/                     spares re-reading files that have not moved
    builds/                    which result folders are made of which entries; see usage.py

An entry appears by one rename, after its files and folders are hashed and on disk. A lookup reads
entry.json whole and every file whose size, times or inode have moved. A bit that a disk flips
moves none of these. It is found when the file is used: a file that is handed to a step or copied
into a result is hashed on the way, which raises Changed. The index is then forgotten, so the next
build reads every file and makes again what is damaged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kiln.errors import Changed, StoreError, os_errors
from kiln.store.statindex import StatIndex
from kiln.store.tree import File, Tree, canonical_json, digest_of, tree_of
from kiln.system.files import UNFINISHED, held_folder, locked, remove_unless_held

FORMAT = 2

_READ_ONLY = 0o444
_CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# Kiln's store: everything here can be made again. See https://bford.info/cachedir/\n"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a step's bytes; ``key`` is the digest of it."""

    step: str
    contract: int
    sources: str
    environment: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        return digest_of(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished step, found in the store. ``said`` is outside the hashed outputs."""

    key: str
    step: str
    files: Mapping[str, File]
    result: Mapping[str, Any]
    warnings: tuple[Mapping[str, str], ...]
    seconds: float
    facts: Mapping[str, Any]

    def tree(self, path: str) -> Tree:
        """One output file, a folder of outputs, or all of them (""); raises StoreError."""
        if path in self.files:
            return tree_of({"": self.files[path]})
        prefix = f"{path}/" if path else ""
        files = {
            name.removeprefix(prefix): file
            for name, file in self.files.items()
            if name.startswith(prefix)
        }
        if not files:
            raise StoreError(f"the step {self.step} gave no {path!r}")
        return tree_of(files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Miss:
    """Why a step must run. ``damaged`` says that an entry was there and can't be used."""

    reason: str
    damaged: bool = False


class Store:
    """One folder of entries; several drivers may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries = folder / "entries"
        self._tmp = folder / "tmp"
        self._locks = folder / "locks"
        self.index_folder = folder / "index"

    def open(self) -> None:
        """Make the folders; raises StoreError if that cannot be."""
        with os_errors("cannot make the store"):
            for folder in (self._entries, self._tmp, self._locks, self.index_folder):
                folder.mkdir(parents=True, exist_ok=True)
            tag = self.folder / "CACHEDIR.TAG"
            if not tag.exists():
                tag.write_text(_CACHEDIR_TAG, encoding="utf-8")
            for left in (*self._tmp.iterdir(), *self.index_folder.glob(f"*{UNFINISHED}")):
                remove_unless_held(left)

    def lookup(self, recipe: Recipe) -> Entry | Miss:
        """Find a step's outputs, re-hashed if they moved; changes nothing."""
        folder = self._entries / recipe.key
        try:
            document = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Miss(reason=self._why_missed(recipe))
        except (OSError, ValueError) as error:
            return Miss(reason=f"its entry cannot be read ({error})", damaged=True)
        try:
            return self._check(folder, document)
        except _Damaged as damage:
            return Miss(reason=f"its entry is damaged: {damage}", damaged=True)

    @contextlib.contextmanager
    def making(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a step's lock; ``waiting`` is called if another driver holds it now."""
        with contextlib.ExitStack() as held:
            with os_errors("cannot lock the store"):
                held.enter_context(locked(self._locks / f"{key}.lock", waiting))
            yield

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder in the store's own file system, gone at the end unless published."""
        with contextlib.ExitStack() as held:
            with os_errors("cannot write to the store"):
                self._tmp.mkdir(parents=True, exist_ok=True)
                folder = held.enter_context(held_folder(self._tmp))
                (folder / "out").mkdir()
            held.enter_context(self.trusting())
            yield folder

    @contextlib.contextmanager
    def trusting(self) -> Iterator[None]:
        """Around the use of files: one that has changed unseen ends all trust in the index."""
        try:
            yield
        except Changed:
            shutil.rmtree(self.index_folder, ignore_errors=True)
            raise

    def publish(
        self,
        workspace: Path,
        recipe: Recipe,
        *,
        result: Mapping[str, Any],
        warnings: tuple[Mapping[str, str], ...],
        seconds: float,
        facts: Mapping[str, Any],
    ) -> Entry:
        """Hash what lies in ``workspace/out``, then put it under its key by one rename."""
        with os_errors("cannot write to the store"):
            paths = _files_below(workspace / "out")
            for path in paths.values():
                path.chmod(_READ_ONLY)
            files = StatIndex(workspace / "unused").files(paths)
            document = {
                "format": FORMAT,
                "recipe": dataclasses.asdict(recipe),
                "files": {name: [file.sha256, file.size] for name, file in sorted(files.items())},
                "result": result,
                "warnings": list(warnings),
                "seconds": seconds,
                "facts": facts,
            }
            sealed = {**document, "digest": digest_of(document)}
            (workspace / "entry.json").write_bytes(canonical_json(sealed))
            _flush(workspace)
            self._move_in(workspace, self._entries / recipe.key)
        found = self.lookup(recipe)
        if isinstance(found, Miss):
            raise StoreError(f"what was just written cannot be read: {found.reason}")
        return found

    def sizes(self) -> dict[str, int]:
        """Bytes by entry key."""
        return {
            entry.name: sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
            for entry in (self._entries.iterdir() if self._entries.exists() else ())
        }

    def clear(self) -> None:
        """Remove every entry."""
        with os_errors("cannot clear the store"):
            shutil.rmtree(self.folder, ignore_errors=False)

    def _move_in(self, workspace: Path, place: Path) -> None:
        """An entry that is there already is damaged, or another driver's equal one."""
        if place.exists():
            old = Path(tempfile.mkdtemp(dir=self._tmp))
            place.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        workspace.rename(place)
        _sync(place.parent)

    def _check(self, folder: Path, document: Mapping[str, Any]) -> Entry:
        try:
            _check_seal(document)
            recipe, listed = document["recipe"], document["files"]
            paths = {name: folder / "out" / name for name in listed}
            with StatIndex(self.index_folder / f"{folder.name}.json") as index:
                files = index.files(paths)
            for name, (sha256, _size) in listed.items():
                if files[name].sha256 != sha256:
                    raise _Damaged(f"{name} has changed")
            return Entry(
                key=folder.name,
                step=recipe["step"],
                files=files,
                result=document["result"],
                warnings=tuple(document["warnings"]),
                seconds=document["seconds"],
                facts=document["facts"],
            )
        except OSError as error:
            raise _Damaged(f"{Path(error.filename or '').name}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise _Damaged(f"entry.json: {error}") from error

    def _why_missed(self, recipe: Recipe) -> str:
        """Compare with the nearest recipe of the same step."""
        others = [other for other in self._recipes() if other.get("step") == recipe.step]
        if not others:
            return "it has not run before"
        wanted = json.loads(canonical_json(dataclasses.asdict(recipe)))
        return min((_differences(wanted, other) for other in others), key=len)

    def _recipes(self) -> Iterator[Mapping[str, Any]]:
        if not self._entries.exists():
            return
        for entry in sorted(self._entries.iterdir()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                yield json.loads((entry / "entry.json").read_text(encoding="utf-8"))["recipe"]


class _Damaged(Exception):
    pass


def _check_seal(document: Mapping[str, Any]) -> None:
    """entry.json vouches for the files; this is what vouches for entry.json."""
    if document["format"] != FORMAT:
        raise _Damaged(f"entry.json is of format {document['format']}, not {FORMAT}")
    content = {name: value for name, value in document.items() if name != "digest"}
    if document["digest"] != digest_of(content):
        raise _Damaged("entry.json has changed")


def _differences(wanted: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs between two recipes, in a user's words."""
    found = [
        f"{name} changed from {_short(other['params'].get(name))} to {_short(value)}"
        for name, value in wanted["params"].items()
        if other["params"].get(name) != value
    ]
    found += [
        f"its input {name} changed"
        for name, digest in wanted["inputs"].items()
        if other["inputs"].get(name) != digest
    ]
    words = {"sources": "its code", "environment": "its environment", "contract": "the contract"}
    found += [f"{words[name]} changed" for name in words if other.get(name) != wanted[name]]
    return ", ".join(found) or "it has not run with these settings"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _files_below(folder: Path) -> dict[str, Path]:
    """Regular files of a step's outputs; raises StoreError for anything else."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise StoreError(f"the step left {path.name}, which is no regular file")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
    return found


def _flush(folder: Path) -> None:
    """Bring an entry's bytes and names to the disk before its own name exists."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
