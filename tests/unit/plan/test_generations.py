"""Generations of a firmware: how a target's file says them, and which one a build is for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kiln.errors import RequestError, UnknownName
from kiln.plan.plan import make_plan
from kiln.plan.request import BuildRequest
from kiln.plan.targets import load_target, target_names
from tests.support.checkout import ROOT

TARGETS = ROOT / "targets"


def _chosen(target: str, **request: str) -> str:
    wanted = BuildRequest(target=target, **request)  # type: ignore[arg-type]
    return make_plan(wanted, load_target(TARGETS, target)).target.firmware.generation


def test_the_default_is_the_oldest_that_has_the_task() -> None:
    assert _chosen("grove-v2") == "2024-03"
    assert _chosen("grove-v2", task="detect") == "2024-10"
    assert _chosen("xiao-esp32s3") == "2024-01"
    assert _chosen("grove-v2", firmware="2025-01") == "2025-01"


def test_the_choice_decides_the_contract() -> None:
    target = load_target(TARGETS, "grove-v2")
    old, new = (
        target.choose("pose", name).contract("pose", 192) for name in ("2024-03", "2025-01")
    )
    assert (old["arena_kib"], new["arena_kib"]) == (1060, 1110)
    assert set(new["operators"]) - set(old["operators"]) >= {"BATCH_MATMUL", "MEAN"}
    assert "2024-03" in old["firmware"]
    main = target.choose("detect", "main-2024-11").contract("detect", 192)
    assert main["exact_outputs"]
    assert main["decoded_max_classes"] is None, "its main line has no such form"
    assert target.contract("detect", 192)["decoded_max_classes"] == 80


def test_an_unknown_one_is_refused_with_the_nearest_and_all() -> None:
    with pytest.raises(UnknownName, match="unknown firmware 'main-2024-1'") as error:
        _chosen("grove-v2", firmware="main-2024-1")
    assert "did you mean 'main-2024-11'?" in error.value.hint
    assert "2023-12, 2024-03" in error.value.hint
    with pytest.raises(RequestError, match="has one firmware"):
        _chosen("grove-v2-himax", firmware="2024-03")


def test_one_without_the_task_says_why_and_which_has_it() -> None:
    with pytest.raises(RequestError, match="draws boxes as if") as error:
        _chosen("grove-v2", task="detect", firmware="2024-05")
    assert "2024-10" in error.value.hint
    with pytest.raises(RequestError, match="cannot do TASK=pose: it reads classify") as error:
        _chosen("grove-v2", firmware="2023-12")
    assert "2024-03" in error.value.hint


def test_class_counts_are_those_of_the_generation() -> None:
    target = load_target(TARGETS, "xiao-esp32s3")
    target.choose("detect", "main-2024-11").check_classes("detect", 4)
    with pytest.raises(Exception, match="4 classes for detect would not be understood"):
        target.choose("detect", "main-2024-12").check_classes("detect", 4)


@pytest.mark.parametrize("name", target_names(TARGETS))
def test_every_generation_is_whole_and_dated_in_order(name: str) -> None:
    target = load_target(TARGETS, name)
    dates = [each.since for each in target.generations if each.since]
    assert dates == sorted(dates)
    for firmware in target.generations:
        assert firmware.operators == tuple(sorted(firmware.operators))
        assert firmware.source.startswith("https://github.com/")
        if len(target.generations) > 1:
            assert bool(firmware.since) != bool(firmware.software), firmware.name
            assert firmware.forms
    assert target.generations[-1].tasks


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('generation = "2024-05"', 'generation = "2024-03"'), "a name of its own"),
        (("since = ", "sinse = "), "did you mean 'since'"),
        (("[tasks.detect]", "[task.detect]"), "unknown key 'task'"),
        (("flaws.detect = ", "flaws = "), "flaws must be a table"),
        (("[tasks.pose]", "[tasks]\npose = 3\n[tasks.other]"), "pose must be a table"),
        (('forms = ["yolov8-pose"]', "forms = 3"), "forms must be a list"),
    ],
)
def test_a_file_that_says_them_wrongly(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    file = tmp_path / "grove-v2.toml"
    shutil.copy(TARGETS / "grove-v2.toml", file)
    file.write_text(file.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(RequestError) as error:
        load_target(tmp_path, "grove-v2")
    assert says in f"{error.value.message} {error.value.hint}"
