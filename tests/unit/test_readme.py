"""What README shows is what Kiln takes."""

from __future__ import annotations

import re
from pathlib import Path

from kiln.cli.main import COMMANDS
from kiln.plan.request import Flags, load_request
from kiln.plan.targets import load_target, target_names
from tests.support.checkout import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_file_that_it_shows_is_valid(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    config = tmp_path / "kiln.toml"
    config.write_text(found[1], encoding="utf-8")
    request = load_request(Flags(), config, tmp_path)
    assert request.train.overrides == {"optimizer": "AdamW", "lr0": 0.002}


def test_it_names_every_command_and_every_board_with_its_limits() -> None:
    for command in COMMANDS:
        assert f"`kiln {command}`" in README
    for name in target_names(ROOT / "targets"):
        target = load_target(ROOT / "targets", name)
        (row,) = (line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"{target.firmware.arena_kib} KiB" in row
        assert all(str(each) in row for each in target.firmware.arena_kib_at.values())
        assert f"{target.flash.model_bytes >> 20} MiB" in row


def test_it_names_every_make_variable() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^SETTINGS := (.*?)\n\n", makefile, re.DOTALL | re.MULTILINE)
    assert found is not None
    for name in found[1].replace("\\\n", " ").split():
        assert re.search(rf"\b{name}\b", README), name


def test_the_files_that_it_links_to_exist() -> None:
    for path in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        assert (ROOT / path).exists(), path
