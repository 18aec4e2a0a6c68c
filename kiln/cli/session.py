"""One command at work: its terminal and folders, the lock on them, and an executor if needed."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import click

from kiln.cli.console import Terminal
from kiln.cli.options import default_paths
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.plan.request import BuildRequest
from kiln.store.usage import shared_lock


@dataclasses.dataclass(frozen=True)
class Session:
    """What a command works with."""

    paths: Paths
    terminal: Terminal

    @staticmethod
    def start() -> Session:
        """The checkout or installation that this is, and this terminal, as verbose as -v says."""
        settings = click.get_current_context().obj or {}
        return Session(
            paths=default_paths(), terminal=Terminal(verbose=settings.get("verbose", False))
        )

    def working(self) -> AbstractContextManager[None]:
        """Hold the home against ``kiln gc`` and ``kiln clean``; waits for them."""
        return shared_lock(self.paths.home, self.terminal.say)

    def executor(
        self, request: BuildRequest, *, root: Path | None = None
    ) -> Callable[[], Executor]:
        """What chooses the executor that a request asks for, when it is first called.

        ``root`` is where the code of the steps lies, if not here.
        """

        @functools.cache
        def choose() -> Executor:
            # A build with nothing to do needs none of it.
            from kiln.executors.choose import choose_executor

            return choose_executor(
                request.executor,
                registry=request.registry,
                root=root or self.paths.root,
                home=self.paths.home,
                variables=os.environ,
                say=self.terminal.say,
            )

        return choose


def shown_path(path: Path) -> str:
    """A path as short as it can be typed."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
