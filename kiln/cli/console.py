"""Everything that Kiln prints: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.markup import escape

from kiln.cli.progress import BuildProgress
from kiln.errors import KilnError, RequestError

_STYLES: Mapping[str, str] = {"✓": "green", "✕": "red", "=": "dim", "!": "yellow", "▸": "bold"}


class Terminal:
    """The one place that writes to the terminal."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        # A pipe has no width: lines stay whole for the program that reads them.
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
        self._err = Console(
            stderr=True, highlight=False, width=None if sys.stderr.isatty() else 1000
        )
        self._warned: set[str] = set()

    @property
    def progress_console(self) -> Console:
        """Where a command draws how far it is."""
        return self._err

    # Results

    def json(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def line(self, value: object) -> None:
        """One of many, as JSON on a line of its own, at once."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def result(self, text: str) -> None:
        """A line of text, as it is."""
        self._out.print(escape(_plain(text)))

    def print(self, shown: RenderableType) -> None:
        """Markup or a table; what comes from a user in it must be escaped."""
        self._out.print(shown)

    def ask_secret(self, what: str) -> str:
        """A passphrase from the terminal, never shown; raises RequestError without one."""
        if not sys.stdin.isatty():
            raise RequestError(
                f"the {what} is needed, and there is no terminal to ask on",
                hint="use a key without a passphrase here",
            )
        return self._err.input(f"{what}: ", password=True)

    # Errors

    def error(self, error: KilnError) -> None:
        self.mark("✕", error.message)
        if error.hint:
            self._err.print(f"  {escape(error.hint)}")
        if error.log is not None:
            self._err.print(f"  log: {escape(str(error.log))}")

    # A build, live

    def say(self, message: str, /) -> None:
        self.mark("▸", message)

    def progress(self) -> BuildProgress:
        """What shows a build live."""
        return BuildProgress(self._err, verbose=self._verbose, mark=self.mark, warn=self.warn)

    def done(self, message: str) -> None:
        """What was asked for is done."""
        self.mark("✓", message, out=True)

    def warn(self, message: str, hint: str = "") -> None:
        """Once each, though a step says it live and the result repeats it."""
        if message not in self._warned:
            self._warned.add(message)
            self.mark("!", message + (f" ({hint})" if hint else ""))

    def mark(self, sign: str, message: str, *, out: bool = False) -> None:
        console = self._out if out else self._err
        console.print(f"[{_STYLES[sign]}]{sign}[/] {escape(_plain(message))}")


def _plain(text: str) -> str:
    """Names come from data sets and files: what would steer the terminal is shown as a code."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )
