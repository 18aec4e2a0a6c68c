"""What the store's entries are there for: which builds need them, and when each was last used.

Drivers hold the home together while they work. A command that removes what others may be about to
use must have it alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kiln.errors import StoreError, os_errors
from kiln.store.tree import digest_of
from kiln.system.files import locked, write_atomically

_LOCK = "in-use.lock"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedBuild:
    """A result folder and the keys of the steps that it was laid out from."""

    folder: Path
    keys: frozenset[str]


class Ledger:
    """Records beside a store's entries, of builds from any working directory."""

    def __init__(self, store: Path) -> None:
        self._entries = store / "entries"
        self.builds_folder = store / "builds"

    def mark_used(self, key: str) -> None:
        """Let an entry count as used now; its files, which the index watches, are not touched."""
        # A store that can't be written to is told when something must be written.
        with contextlib.suppress(OSError):
            os.utime(self._entries / key)

    def used_at(self, key: str) -> float:
        """When an entry was last used, in seconds since 1970; raises OSError."""
        return (self._entries / key).stat().st_mtime

    def record(self, folder: Path, keys: Iterable[str]) -> None:
        """Remember which entries a result folder was laid out from; raises StoreError.

        Only for a driver that holds that folder against others.
        """
        path = self.path_of(folder)
        text = json.dumps({"folder": str(folder), "keys": sorted(keys)})
        with os_errors("cannot write to the store"):
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)

    def path_of(self, folder: Path) -> Path:
        """Where the record of a result folder lies."""
        return self.builds_folder / f"{digest_of(str(folder))[:16]}.json"

    def builds(self) -> list[RecordedBuild]:
        """Every recorded build whose result is still there, in order of its folder."""
        found = []
        for path in self.builds_folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_text(encoding="utf-8"))
                build = RecordedBuild(folder=Path(record["folder"]), keys=frozenset(record["keys"]))
                if (build.folder / "build.json").is_file():
                    found.append(build)
        return sorted(found, key=lambda build: build.folder)


@contextlib.contextmanager
def shared_lock(home: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the home together with other drivers; waits if one has it alone."""
    text = "kiln gc or kiln clean is at work here; waiting for it"
    with _locked(home, lambda: say(text), shared=True):
        yield


@contextlib.contextmanager
def exclusive_lock(home: Path, doing: str) -> Iterator[None]:
    """Hold the home against all others; raises StoreError if one is at work in it."""

    def refuse() -> None:
        raise StoreError(
            f"{doing} would take away what a build that runs now is about to use",
            hint="run it again when that has ended; it alone is why nothing was removed",
        )

    with _locked(home, refuse, shared=False):
        yield


@contextlib.contextmanager
def _locked(home: Path, waiting: Callable[[], object], *, shared: bool) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        with os_errors(f"cannot use {home}"):
            home.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(home / _LOCK, waiting, shared=shared))
        yield
