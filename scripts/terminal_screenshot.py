"""Draws what a command prints as an image of a terminal: FILE.svg COMMAND [ARGUMENT ...]

Maintainers make the image in docs/ with it, from a real build.

    .kiln/dev/bin/python -m scripts.terminal_screenshot docs/build.svg make model TARGET=grove-v2
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100
#: Cursor on and off, and to the beginning of the line above.
_CURSOR = re.compile(r"\x1b\[\?25[lh]")
#: rich's SVG fetches a font from the net; any monospaced one will do.
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_ERASE, _UP = "\x1b[2K", "\x1b[1A"


def main() -> None:
    """Run the command in a terminal of its own and write the image."""
    image, *command = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(f"[bold]$ {' '.join(command)}[/]")
    console.print(Text.from_ansi(terminal_output(command)))
    svg = console.export_svg(title="kiln")
    Path(image).write_text(_FONT.sub("", svg), encoding="utf-8")


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
    return "\n".join(_settled(b"".join(chunks).decode()))


def _settled(text: str) -> list[str]:
    """The lines that are left when a progress bar has drawn, erased and moved over them."""
    lines: list[str] = []
    for line in _CURSOR.sub("", text).split("\n"):
        shown = line.rstrip("\r")
        ups = shown.count(_UP)
        del lines[len(lines) - ups :]
        lines.append(shown.split(_ERASE)[-1].split(_UP)[-1].split("\r")[-1])
    return lines


def _read(terminal: int) -> bytes:
    """The next bytes; none when the other end has closed, which Linux tells as an error."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


if __name__ == "__main__":
    main()
