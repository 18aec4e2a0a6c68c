"""What the docs show exists: commands, settings, files, exit codes. Nothing is run."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from kiln import errors
from kiln.cli.main import kiln
from kiln.pipeline.dataset import load_dataset
from kiln.plan.request import FLAG_PLACES, BuildRequest, Flags, load_request
from kiln.plan.targets import load_target, target_names
from tests.support.checkout import ROOT
from tests.support.docs import (
    ASSIGNMENT,
    PAGES,
    README,
    TEXT,
    Shown,
    blocks_of,
    commands_of,
    prose_of,
    shown_commands,
    table_rows,
)
from tests.unit.test_imports import TIERS

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
#: Of make alone: the logs of steps, and where Kiln keeps what is its own.
MAKE_ONLY = {"V", "KILN_HOME"}
_PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
#: Of this repository.
_FILE = re.compile(r"\b(?:docker|docs|kiln|scripts|stages|targets|tests)/[\w./-]+\.[a-z]+\b")
_MODULE = re.compile(r"\b(?:scripts|stages\.(?:export|train|vela))\.\w+")
_CODE = (".py", ".sh")


SHOWN = shown_commands()


def _group(command: click.Command) -> click.Group | None:
    return command if isinstance(command, click.Group) else None


def _leaves(command: click.Command, path: str = "kiln") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by all of its name."""
    group = _group(command)
    if group is None:
        yield path, command
        return
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        inner = group.get_command(context, name)
        assert inner is not None
        yield from _leaves(inner, f"{path} {name}")


LEAVES = dict(_leaves(kiln))


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


def _settings() -> dict[str, click.Parameter]:
    """What a make variable may set, by the variable's name."""
    return {
        str(each.envvar).removeprefix("KILN_"): each
        for command in LEAVES.values()
        for each in command.params
        if each.envvar
    }


SETTINGS = _settings()


def _check_value(parameter: click.Parameter, value: object, context: click.Context) -> None:
    """Raises click.UsageError for a value of another type; paths need not be there."""
    if not isinstance(parameter.type, click.Path) and value is not None:
        parameter.type_cast_value(context, value)


def _check_kiln(command: click.Command, words: list[str], *, whole: bool) -> None:
    """Raises click.UsageError for what click would not take."""
    context = click.Context(command, info_name=command.name)
    values, rest, _order = command.make_parser(context).parse_args(words)
    for parameter in command.params:
        value = values.get(str(parameter.name))
        given = isinstance(value, str | int | list | tuple)
        if given:
            _check_value(parameter, value, context)
        elif whole and isinstance(parameter, click.Argument) and parameter.required:
            raise click.UsageError(f"{command.name} needs {parameter.name}")
    group = _group(command)
    if group is None:
        assert not rest, rest
    elif rest:
        inner = group.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"there is no command {rest[0]}")
        _check_kiln(inner, rest[1:], whole=whole)


def _check_make(words: list[str]) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets is not None
    if words[:1] == ["-C"]:
        words = words[2:]
    for word in words:
        assignment = ASSIGNMENT.fullmatch(word)
        if assignment is None:
            assert word in targets[1].split(), f"there is no target {word}"
        elif assignment["name"] not in MAKE_ONLY:
            assert assignment["name"] in SETTINGS, f"there is no setting {assignment['name']}"
            parameter = SETTINGS[assignment["name"]]
            _check_value(parameter, assignment["value"], click.Context(kiln))


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_a_command_that_is_shown_exists(shown: Shown) -> None:
    program, *words = shown.words
    if program == "make":
        _check_make(words)
    elif words != ["COMMAND", "--help"]:  # which stands for all of them
        _check_kiln(kiln, [word for word in words if word != "COMMAND"], whole=shown.whole)


def test_commands_are_found_at_all() -> None:
    assert {each.words[0] for each in SHOWN if each.whole} == {"kiln", "make"}
    assert len(SHOWN) > 100
    with pytest.raises(click.UsageError):
        _check_kiln(kiln, ["build", "--colour", "blue"], whole=True)
    with pytest.raises(click.UsageError):
        _check_kiln(kiln, ["build", "--task", "segment"], whole=True)
    with pytest.raises(click.UsageError):
        _check_kiln(kiln, ["device", "dance"], whole=False)
    with pytest.raises(AssertionError):
        _check_make(["model", "COLOUR=blue"])
    assert list(commands_of("A=1 make x && kiln 'b c'  # d")) == [["make", "x"], ["kiln", "b c"]]


@pytest.mark.parametrize("page", TEXT)
def test_a_file_or_module_that_is_named_exists(page: str) -> None:
    named = set(_FILE.findall(TEXT[page]))
    modules = {ROOT / each.replace(".", "/") for each in _MODULE.findall(TEXT[page])}
    paths = {ROOT / each for each in named}
    paths |= {each if each.is_dir() else each.with_suffix(".py") for each in modules}
    assert [each for each in sorted(paths) if not each.exists()] == []


@pytest.mark.parametrize("page", TEXT)
def test_a_settings_file_or_target_that_is_shown_loads(page: str, tmp_path: Path) -> None:
    for text in blocks_of(page, "toml"):
        table = tomllib.loads(text)
        if "firmware" in table:
            (tmp_path / f"{table['name']}.toml").write_text(text, encoding="utf-8")
            assert load_target(tmp_path, table["name"]).name not in target_names(ROOT / "targets")
        else:
            config = tmp_path / "kiln.toml"
            config.write_text(text, encoding="utf-8")
            load_request(Flags(), config, tmp_path)


def test_a_data_set_that_is_shown_is_understood(tmp_path: Path) -> None:
    (text,) = (each for each in blocks_of("data.md", "yaml") if "names:" in each)
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    for split in ("train", "val"):
        image = tmp_path / "images" / split / "1.jpg"
        image.parent.mkdir(parents=True)
        image.touch()
    found = load_dataset(tmp_path, index=tmp_path / "index.json", scratch=tmp_path / "scratch")
    assert found.images == {"train": 1, "val": 1}


def test_actions_of_a_workflow_are_pinned_to_commits() -> None:
    used = [line for text in blocks_of("ci.md", "yaml") for line in text.splitlines()]
    used = [line.strip(" -") for line in used if "uses:" in line]
    assert used
    assert [line for line in used if not _PINNED.fullmatch(line)] == []


def _anchors(page: Path) -> set[str]:
    """Headings as a code host links to them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page.name), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    prose = prose_of(page.name)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        path, _hash, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), link
        assert not anchor or anchor in _anchors(file), link


def test_every_page_is_linked_to_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[page.name])
    }
    assert {page for page in PAGES if page not in linked} == {README}


def test_exit_codes_are_those_of_the_classes() -> None:
    told = {row[1].strip("`"): int(row[0]) for row in table_rows("troubleshooting.md", "code")}
    known = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.KilnError)
        and "exit_code" in vars(kind)
    }
    assert told == known


def test_messages_are_those_of_the_code() -> None:
    folders = (ROOT / "kiln", ROOT / "stages", ROOT / "scripts")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in _CODE]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    quoted = [row[0] for row in table_rows("troubleshooting.md", "what you see")]
    quoted = [text.strip("`") for text in quoted if text.startswith("`")]
    assert len(quoted) > 10
    # An ellipsis stands for what differs from time to time.
    parts = [part.strip() for text in quoted for part in text.split("…")]
    assert [part for part in parts if part not in code] == []


def _fields(cls: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting of kiln.toml by its dotted name, and its default."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            yield from _fields(type(field.default), f"{field.name}.")
        elif field.name != "overrides":
            yield f"{prefix}{field.name}", field.default


def test_every_setting_is_listed_with_its_default() -> None:
    rows = {row[0].strip("`"): row for row in table_rows("configuration.md", "`kiln.toml`")}
    defaults = dict(_fields(BuildRequest))
    assert list(rows) == list(defaults)
    for name, default in defaults.items():
        if default is not None:
            assert rows[name][4] == f"`{_as_toml(default)}`", name


def _as_toml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_every_flag_and_make_variable_of_a_build_is_listed_beside_its_setting() -> None:
    flags = {f"{table}.{key}": flag for flag, (table, key) in FLAG_PLACES.items()}
    told = {
        flags.get(row[0].strip("`"), row[0].strip("`")): (row[1].strip("`"), row[2].strip("`"))
        for row in table_rows("configuration.md", "`kiln.toml`")
    }
    options = [each for each in _options(LEAVES["kiln build"]) if each.envvar]
    known = {
        str(each.name): (each.opts[-1], str(each.envvar).removeprefix("KILN_")) for each in options
    }
    assert known.pop("config") == ("--config", "CONFIG")
    assert {name: pair for name, pair in told.items() if pair != ("", "")} == known


def test_every_command_is_listed_with_its_own_options() -> None:
    rows = {row[0].strip("`"): row for row in table_rows("configuration.md", "command")}
    assert rows.keys() == LEAVES.keys()
    settings = table_rows("configuration.md", "`kiln.toml`")
    shared = {row[1].strip("`") for row in settings} | {"--config"}
    for name, command in LEAVES.items():
        for option in _options(command):
            names = {*option.opts, *option.secondary_opts}
            assert names & shared or any(f"`{each}" in rows[name][3] for each in names), option
            told = f"(`{str(option.envvar).removeprefix('KILN_')}`)"
            if option.envvar and not names & shared:
                assert told in rows[name][3], option


def test_every_make_variable_is_listed() -> None:
    found = re.findall(r"^\w*SETTINGS := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    names = " ".join(found).replace("\\\n", " ").split()
    assert names
    missing = [name for name in names if not re.search(rf"`{name}\b", TEXT["configuration.md"])]
    assert not missing


@pytest.mark.parametrize("page", ["README.md", "boards.md"])
def test_every_board_is_listed_with_its_limits(page: str) -> None:
    rows = {row[0].strip("`"): row for row in table_rows(page, "`TARGET`")}
    assert rows.keys() == set(target_names(ROOT / "targets"))
    for name, row in rows.items():
        target = load_target(ROOT / "targets", name)
        assert row[2].lower() == (target.vela.accelerator if target.vela else "none")
        assert f"{target.firmware.arena_kib} KiB" in row[3]
        assert all(str(each) in row[3] for each in target.firmware.arena_kib_at.values())
        assert row[4] == f"{target.flash.model_bytes >> 20} MiB"
        assert row[5] == ", ".join(target.tasks)


def test_generations_are_listed_with_their_boards_and_tasks() -> None:
    boards = {"Grove": "grove-v2", "XIAO": "xiao-esp32s3"}
    boards |= {"Watcher": "sensecap-watcher", "A1102": "sensecap-a1102"}
    told = {
        (boards[board], row[0].strip("`")): [row[2], row[3]]
        for row in table_rows("boards.md", "`FIRMWARE`")
        for board in row[1].split(", ")
    }
    found = {
        (name, firmware.generation): [
            "yes" if task in firmware.tasks else "no" for task in ("pose", "detect")
        ]
        for name in boards.values()
        for firmware in load_target(ROOT / "targets", name).generations
    }
    assert told == found


def test_the_rooms_are_those_that_imports_are_held_to() -> None:
    told: dict[int, set[str]] = {}
    for number, names, _what in table_rows("architecture.md", "row"):
        told.setdefault(int(number), set()).update(re.findall(r"`(\w+)`", names))
    assert told == {number: set(row) for number, row in enumerate(TIERS, start=1)}


def test_licences_are_those_of_the_drivers_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.split("[<>=~ ]", each)[0].lower() for each in project["dependencies"]}
    lock = (ROOT / "kiln.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w-]+)==", lock, re.MULTILINE))
    rows = table_rows("licences.md", "in the driver")
    told = {name.strip().lower() for row in rows for name in row[0].split(",")}
    assert asked <= told <= locked


def test_the_steps_are_those_of_the_catalogue() -> None:
    source = "".join(
        (ROOT / "kiln" / "plan" / name).read_text(encoding="utf-8")
        for name in ("steps.py", "finetuning.py")
    )
    found = re.findall(r'name=f?"([^"]+)",\n\s+title=.*\n\s+environment="(\w+)"', source)
    assert len(found) == source.count("return Step(")
    known = dict(found)
    environment = known.pop("fetch-{kind}")
    known |= {"fetch-data": environment, "fetch-weights": environment}
    # Made from the step of the same work.
    known |= {f"{name}-plain": known[name] for name in ("quantize", "compile")}
    known["compile-start"] = known["compile"]
    told = {
        name: each
        for names, each, _what in table_rows("architecture.md", "step")
        for name in re.findall(r"`([\w-]+)`", names)
    }
    assert told == known


def test_the_newcomers_walk_has_at_most_ten_files() -> None:
    _before, walk = TEXT["architecture.md"].split("## A newcomer's walk\n")
    walk = walk.split("\n## ")[0]
    files = re.findall(r"^\d+\. \[`([^`]+)`\]\(\.\./([^)]+)\): ", walk, re.MULTILINE)
    assert 0 < len(files) <= 10
    assert all(shown == linked for shown, linked in files)
    assert len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) == len(files)


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_readme_has_one_test_command() -> None:
    told: Mapping[str, int] = {
        each: blocks_of("README.md", "sh")[0].count(each) for each in ("make model", "make test")
    }
    assert told == {"make model": 1, "make test": 1}
