"""What a build with a fine-tuning records, and what its report shows of the builds beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import DataError
from kiln.paths import Paths
from kiln.pipeline.build import Build
from kiln.pipeline.collect import MOST_POINTS
from kiln.plan.plan import make_plan
from kiln.plan.request import (
    BuildRequest,
    EvaluationSettings,
    FinetuneSettings,
    Granularity,
    QuantizeSettings,
)
from kiln.plan.targets import load_target
from kiln.report.beside import look_beside
from kiln.report.result import BuildResult, load_build
from tests.support.checkout import ROOT
from tests.support.scripted_executor import CONTENTS, Record, ScriptedExecutor


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(root=ROOT, home=tmp_path / "home", results=tmp_path / "build")


def _run(
    paths: Paths, name: str, quant: Granularity = "finetuned", target: str = "grove-v2", **more: Any
) -> BuildResult:
    """Images to evaluate on are the same whatever else is asked of the step `images`."""
    executor = ScriptedExecutor()
    executor.constant = set() if "evaluation" in more else {"images"}
    request = BuildRequest(name=name, quantize=QuantizeSettings(granularity=quant), **more)
    plan = make_plan(request, load_target(ROOT / "targets", target))
    return Build(plan, paths, lambda: executor).run(Record())


def _page(paths: Paths, name: str) -> str:
    return (paths.results / "grove-v2" / name / "report.html").read_text(encoding="utf-8")


def test_a_fine_tuned_build_records_what_it_is_measured_by(paths: Paths) -> None:
    result = _run(paths, "dog")
    folder = paths.results / "grove-v2/dog"
    document = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    numbers = document["numbers"]
    assert (folder / "dog_learned.npz").is_file()
    plain = (paths.store / "entries" / _key(result, "compile-plain") / "out/vela.tflite").stat()
    assert numbers["plain"] == {
        "flash_kib": plain.st_size / 1024,
        "estimated_ms": 75.0,
        "cycles": 30_000_000,
    }
    assert numbers["cycles"] == 27_000_000
    assert numbers["accuracy"]["artifacts"]["plain"] == {"pose/map50": 0.77}
    assert document["evidence"]["finetuning"] == {
        "update": [1, 2],
        "score": [0.5, 0.25],
        "bits": [7, 6],
    }
    assert load_build(folder).numbers == result.numbers
    assert load_build(folder).evidence == result.evidence


def test_what_misses_its_budget_is_a_warning(paths: Paths) -> None:
    """27 of 30 million cycles, and 2245 KiB."""
    kept = FinetuneSettings(cycles=0.9, flash_kib=2240.0)
    assert not _run(paths, "dog", finetune=kept).warnings
    missed = FinetuneSettings(cycles=0.8, flash_kib=2000.0)
    cycles, flash = _run(paths, "dog", finetune=missed).warnings
    assert cycles.message == (
        "the file takes 0.900 of the plain file's cycles, and [finetune] cycles is 0.8"
    )
    assert flash.message == "the file takes 2,245 KiB, and [finetune] flash_kib is 2000"
    assert "updates in [finetune]" in cycles.hint


def test_images_of_a_folder_are_a_part_of_the_recipe(paths: Paths, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    settings = FinetuneSettings(folder=str(own))
    with pytest.raises(DataError, match="there is no image in"):
        _run(paths, "dog", finetune=settings)
    (own / "a.jpg").write_bytes(b"one")
    (own / "notes.txt").write_bytes(b"no image")
    first = _run(paths, "dog", finetune=settings)
    (own / "notes.txt").write_bytes(b"still no image")
    assert _key(_run(paths, "dog", finetune=settings), "images") == _key(first, "images")
    (own / "a.jpg").write_bytes(b"another")
    assert _key(_run(paths, "dog", finetune=settings), "images") != _key(first, "images")
    assert first.request.finetune.folder == "own", "a result names no folder of this host"


def test_on_a_board_without_an_npu_it_is_measured_by_its_int8_file(paths: Paths) -> None:
    result = _run(paths, "dog", target="xiao-esp32s3")
    int8 = (paths.store / "entries" / _key(result, "quantize-plain") / "out/int8.tflite").stat()
    assert result.numbers.plain is not None
    assert result.numbers.plain.flash_kib == int8.st_size / 1024
    assert result.numbers.plain.cycles is None


def test_a_build_without_one_records_nothing_of_it(paths: Paths) -> None:
    result = _run(paths, "dog", "mixed")
    assert result.numbers.plain is None
    assert result.evidence.finetuning == {}


def test_many_updates_are_few_points(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = 2 * MOST_POINTS + 1
    rows = "".join(f"{number},{number % 2},nan\n" for number in range(1, updates + 1))
    monkeypatch.setitem(CONTENTS, "finetune curves.csv", f"update,score,bits\n{rows}")
    curves = _run(paths, "dog").evidence.finetuning
    assert len(curves["update"]) <= MOST_POINTS
    assert curves["update"][:2] == (3, 6)
    assert curves["update"][-1] == updates
    assert curves["score"][:2] == (0.666667, 0.333333)
    assert set(curves["bits"]) == {None}


def test_a_report_is_renewed_when_the_builds_beside_it_change(paths: Paths) -> None:
    _run(paths, "dog")
    document = (paths.results / "grove-v2/dog/build.json").read_text(encoding="utf-8")
    alone = _page(paths, "dog")
    assert "Accuracy against cycles" not in alone
    _run(paths, "mixed-dog", "mixed")
    _run(paths, "dog")
    together = _page(paths, "dog")
    assert "2. dog" in together
    assert "mixed-dog" in together
    shutil.rmtree(paths.results / "grove-v2/mixed-dog")
    _run(paths, "dog")
    assert _page(paths, "dog") == alone
    assert (paths.results / "grove-v2/dog/build.json").read_text(encoding="utf-8") == document


def test_a_build_with_nothing_to_do_leaves_its_report_alone(paths: Paths) -> None:
    _run(paths, "mixed-dog", "mixed")
    _run(paths, "dog")
    page = paths.results / "grove-v2/dog/report.html"
    before = page.stat()
    _run(paths, "mixed-dog", "mixed")
    _run(paths, "dog")
    assert (page.stat().st_ino, page.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_is_not_comparable_is_left_out(paths: Paths) -> None:
    result = _run(paths, "dog")
    folder = paths.results / "grove-v2/dog"
    _run(paths, "other-images", "mixed", evaluation=EvaluationSettings(images=3))
    _run(paths, "other-size", "mixed", imgsz=256)
    broken = paths.results / "grove-v2/broken"
    broken.mkdir()
    (broken / "build.json").write_text("{", encoding="utf-8")
    assert look_beside(result, folder).ways == ()
    _run(paths, "per-channel", "per-channel")
    assert [way.name for way in look_beside(result, folder).ways] == ["per-channel"]


def _key(result: BuildResult, name: str) -> str:
    step = result.step(name)
    assert step is not None
    return step.key
