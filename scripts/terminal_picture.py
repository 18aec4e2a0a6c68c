"""Draws what a command prints as a picture of a terminal: FILE.svg COMMAND [ARGUMENT ...]

Maintainers make README's picture with it, from a real build.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

from rich.console import Console
from rich.text import Text

COLUMNS = 100
#: A progress bar redraws its line; what is left of it in the end is nothing.
_REDRAWN = re.compile(rb"(?:[^\n]*\r)?(?:[^\n]*\x1b\[(?:\?25[lh]|2K|1A)[^\n]*\r?\n?)")


def main() -> None:
    """Run the command in a terminal of its own and write the picture."""
    picture, *command = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"[bold]$ {' '.join(command)}[/]")
    console.print(Text.from_ansi(terminal_output(command)))
    console.save_svg(picture, title="kiln")


def terminal_output(command: list[str]) -> str:
    """What a command prints to a terminal, with its colours and without its moving parts."""
    ours, theirs = pty.openpty()
    variables = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=variables
    ) as process:
        os.close(theirs)
        chunks = []
        while chunk := _read(ours):
            chunks.append(chunk)
    os.close(ours)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return _REDRAWN.sub(b"", b"".join(chunks)).decode().replace("\r\n", "\n").strip()


def _read(terminal: int) -> bytes:
    """The next bytes; none when the other end has closed, which Linux tells as an error."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


if __name__ == "__main__":
    main()
