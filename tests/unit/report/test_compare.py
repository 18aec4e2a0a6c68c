"""Two builds side by side."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import RequestError
from kiln.report.compare import compare
from kiln.report.result import load_build
from stages.results.check import CheckResult
from tests.support import build_documents
from tests.support.build_documents import built


def _base() -> dict[str, Any]:
    document = build_documents.pose()
    check = CheckResult(
        task="pose",
        nc=1,
        names=("person",),
        kpt_shape=(17, 3),
        flip_idx=None,
        images={"train": 1, "val": 1},
        objects={"train": 1, "val": 1},
        versions={"pillow": "11.0"},
    )
    steps = {step["name"]: step for step in document["steps"]}
    document["steps"] = [
        build_documents.step("check", "check the data set", check, {"task": "pose"}, 1.0),
        steps["quantize"],
    ]
    document["steps"][0]["inputs"]["data"] = "a" * 64
    document["steps"][1]["params"] = {"granularity": "per-tensor"}
    document["steps"][1]["inputs"]["model.onnx"] = "b" * 64
    document["numbers"] |= {"cycles": 33_500_000, "estimated_ms": 83.8}
    document["numbers"]["flash"]["used_kib"] = 3000.0
    document["numbers"]["accuracy"] |= {
        "artifacts": {"float32": {"box/map50_95": 0.6}, "int8": {"box/map50_95": 0.59}},
        "drop": {"box/map50_95": 1.0},
    }
    return document


BUILD = _base()


def _other() -> dict[str, Any]:
    return copy.deepcopy(BUILD)


def _changes(left: dict[str, Any], right: dict[str, Any]) -> dict[str, str]:
    return {
        row.name: row.change for row in compare(built(left), built(right)).figures if row.change
    }


def test_figures_are_subtracted() -> None:
    other = _other()
    other["numbers"]["flash"]["used_kib"] = 3300.0
    other["numbers"]["cycles"] = 35_800_000
    other["numbers"]["accuracy"]["artifacts"]["int8"]["box/map50_95"] = 0.598
    assert _changes(BUILD, other) == {
        "flash": "+300.0 KiB (+10.0%)",
        "cycles": "+2,300,000",
        "box mAP50-95, int8": "+0.8",
    }


def test_what_was_executed_is_one_line() -> None:
    other = _other()
    other["numbers"]["accuracy"]["equal_to_int8"] = False
    rows = {row.name: row for row in compare(built(BUILD), built(other)).figures}
    row = rows["compiled file, executed"]
    assert (row.left, row.right) == ("the bytes of int8", "other bytes than int8")


def test_estimates_of_two_performance_models_are_shown_and_never_subtracted() -> None:
    other = _other()
    other["numbers"] |= {"performance_model": "Vela 5", "cycles": 17_000_000, "estimated_ms": 44.9}
    why = "not comparable: Vela 3-4 against Vela 5"
    assert _changes(BUILD, other) == {"estimated": why, "cycles": why}
    rows = {row.name: row for row in compare(built(BUILD), built(other)).figures}
    assert (rows["cycles"].left, rows["cycles"].right) == ("33,500,000", "17,000,000")


def test_a_board_without_an_npu_has_nothing_to_compare_cycles_with() -> None:
    other = _other()
    other["numbers"] |= {"performance_model": None, "cycles": None, "estimated_ms": None}
    assert _changes(BUILD, other) == {}


def test_only_what_differs_in_the_recipes_is_listed() -> None:
    other = _other()
    other["steps"][1]["params"]["granularity"] = "per-channel"
    other["steps"][0]["inputs"]["data"] = "d" * 64
    other["steps"][1]["inputs"]["model.onnx"] = "e" * 64
    del other["steps"][0]["result"]["versions"]["pillow"]
    rows = [
        (row.name, row.left, row.right) for row in compare(built(BUILD), built(other)).differences
    ]
    assert rows == [
        ("check: version of pillow", "11.0", "absent"),
        ("check: data", "a" * 12, "d" * 12),
        ("quantize: granularity", "per-tensor", "per-channel"),
    ]
    assert compare(built(BUILD), built(_other())).differences == ()


def test_a_fine_tuned_build_is_no_per_tensor_one() -> None:
    other = _other()
    other["request"]["quantize"]["granularity"] = "finetuned"
    rows = [
        (row.name, row.left, row.right) for row in compare(built(BUILD), built(other)).differences
    ]
    assert rows == [("quantize: granularity", "per-tensor", "finetuned")]


def test_accuracy_on_two_data_sets_is_never_subtracted() -> None:
    other = _other()
    other["steps"][0]["inputs"]["data"] = "d" * 64
    other["numbers"]["accuracy"]["artifacts"]["int8"]["box/map50_95"] = 0.7
    why = "not comparable: measured on another data set"
    assert _changes(BUILD, other)["box mAP50-95, int8"] == why


def test_a_step_of_one_build_alone_is_one_line() -> None:
    other = _other()
    (train,) = (step for step in build_documents.pose()["steps"] if step["name"] == "train")
    other["steps"].append(train)
    rows = [
        (row.name, row.left, row.right) for row in compare(built(BUILD), built(other)).differences
    ]
    assert rows == [("step train", "absent", "run")]


def test_a_refused_build_says_so() -> None:
    other = _other()
    other["verdict"]["accepted"] = False
    row = compare(built(BUILD), built(other)).figures[0]
    assert row.right == "NOT accepted by SSCMA-Micro 1.0.x"


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "there is no build"), ("{", "cannot be read"), ('{"format": 1}', "this version")],
)
def test_what_is_no_build(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "build.json").write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=words):
        load_build(tmp_path)


def test_a_folder_or_its_file(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(json.dumps(BUILD), encoding="utf-8")
    assert load_build(tmp_path) == load_build(tmp_path / "build.json") == built(BUILD)


def test_a_build_that_nests_deeper_than_it_can_be_read_is_one_sentence(tmp_path: Path) -> None:
    """Shallow enough for the parser of JSON, and too deep for the records."""
    nested: Any = []
    for _ in range(600):
        nested = [nested]
    document = copy.deepcopy(BUILD)
    document["steps"][0]["params"]["task"] = nested
    (tmp_path / "build.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(RequestError, match="was changed since Kiln wrote it"):
        load_build(tmp_path)
