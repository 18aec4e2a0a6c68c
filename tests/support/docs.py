"""The docs as tests read them: pages, their blocks and tables, and the commands they show."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator

import yaml

from tests.support.checkout import ROOT

README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}

#: A variable set for a command, or given to make.
ASSIGNMENT = re.compile(r"(?P<name>[A-Z][A-Z_]*)=(?P<value>.*)", re.DOTALL)
#: What a shell puts between two commands.
_SEPARATORS = {"&&", "||", ";", "|"}
_SHOWN = re.compile(r"`((?:kiln|make) [^`]+)`")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A command as a page shows it; ``whole`` if it is there to be typed, not only named."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks_of(page: str, language: str) -> list[str]:
    """What stands in a page's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT[page], re.DOTALL | re.MULTILINE)


def prose_of(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", TEXT[page], flags=re.DOTALL | re.MULTILINE)


def commands_of(script: str) -> Iterator[list[str]]:
    """The commands of a shell script, without comments and variables set before them."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _SEPARATORS:
                command.append(word)
                continue
            while command and ASSIGNMENT.fullmatch(command[0]):
                command.pop(0)
            if command:
                yield command
            command = []


def _workflow_scripts(page: str) -> list[str]:
    workflows = [yaml.safe_load(text) for text in blocks_of(page, "yaml") if "jobs:" in text]
    jobs = [job for workflow in workflows for job in workflow["jobs"].values()]
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def shown_commands() -> list[Shown]:
    """Every command of kiln and make, in blocks, in workflows and in the text."""
    found = []
    for page in TEXT:
        for script in [*blocks_of(page, "sh"), *_workflow_scripts(page)]:
            found += [Shown(page=page, words=(*each,), whole=True) for each in commands_of(script)]
        for text in _SHOWN.findall(prose_of(page)):
            found.append(Shown(page=page, words=(*text.split(),), whole=False))
    return [each for each in found if each.words[0] in ("kiln", "make")]


def table_rows(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose head line begins so."""
    lines = TEXT[page].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
