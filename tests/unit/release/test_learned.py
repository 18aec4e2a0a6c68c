"""A release holds what was learned; what cannot be learned the same again is taken from it."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.paths import Paths
from kiln.pipeline.build import Build
from kiln.plan.plan import make_plan
from kiln.plan.request import BuildRequest, QuantizeSettings
from kiln.plan.targets import load_target
from kiln.release.archive import SUMS
from kiln.release.verify import Verification, Verifier, open_release
from kiln.release.write import write_release
from kiln.store.tree import hash_file, sums_of
from stages.results.difference import DifferenceResult
from tests.support.checkout import ROOT
from tests.support.scripted_executor import RESULTS, Record, ScriptedExecutor

REQUEST = BuildRequest(name="dog", quantize=QuantizeSettings(granularity="finetuned"))
ALL_STEPS = (
    *("demo", "check", "frames", "train", "images", "onnx", "quantize"),
    *(
        "quantize-plain",
        "compile-plain",
        "compile-start",
        "graph",
        "finetune",
        "requantize",
        "compile",
        "check-firmware",
        "outputs",
        "evaluate",
    ),
)
_DIFFERENCE = DifferenceResult(offset=0, sizes=(1, 1))


class Maker:
    """Somebody who releases a fine-tuned model, on a GPU or not, and another who verifies it."""

    def __init__(self, folder: Path, why_not: Mapping[str, str]) -> None:
        self._folder = folder
        self._paths = Paths(root=ROOT, home=folder / "home", results=folder / "build")
        self._results = {
            name: dataclasses.replace(RESULTS[name], reproducible=False, why_not=why)
            for name, why in why_not.items()
        }

    def release(self) -> Path:
        plan = make_plan(REQUEST, load_target(ROOT / "targets", "grove-v2"))
        executor = ScriptedExecutor()
        executor.results |= self._results
        build = Build(plan, self._paths, lambda: executor)
        result = build.run(Record())
        return write_release(
            plan, result, build.folder, root=ROOT, environments=build.environments, key=None
        )

    def verify(self, bundle: Path, executor: ScriptedExecutor) -> Verification:
        executor.results |= self._results
        paths = Paths(root=ROOT, home=self._folder / "other", results=self._folder / "other")
        opened = open_release(bundle, paths, None)
        verifier = Verifier(opened, BuildRequest(), paths, lambda _root: executor, trusted=False)
        return verifier.verify(Record())


@pytest.mark.parametrize(
    ("why_not", "spared"),
    [
        ({}, ()),
        ({"finetune": "device cuda"}, ("compile-plain", "compile-start", "graph", "finetune")),
        (
            {"train": "device cuda", "finetune": "device cuda"},
            ("frames", "train", "compile-plain", "compile-start", "graph", "finetune"),
        ),
    ],
    ids=["reproducible", "fine-tuned on a GPU", "trained and fine-tuned on a GPU"],
)
def test_verifying_starts_at_what_would_not_be_learned_again(
    tmp_path: Path, why_not: Mapping[str, str], spared: tuple[str, ...]
) -> None:
    maker = Maker(tmp_path, why_not)
    bundle = maker.release()
    with tarfile.open(bundle) as archive:
        stream = archive.extractfile("dog/provenance.json")
        assert stream is not None
        definition = json.load(stream)["predicate"]["buildDefinition"]
        page = archive.extractfile("dog/report.html")
        assert page is not None
        assert b"kiln-beside" not in page.read(), "it is of this build alone"
    assert definition["internalParameters"]["fixed"] == why_not
    executor = ScriptedExecutor()
    found = maker.verify(bundle, executor)
    assert sorted(executor.ran) == sorted({*ALL_STEPS} - {*spared})
    assert found.reproduced
    assert found.figures == ()
    files = {"train": "dog.safetensors", "finetune": "dog_learned.npz"}
    taken = {each.name: each.taken for each in found.files if each.taken}
    assert taken == {files[name]: why for name, why in why_not.items()}


def test_other_learned_weights_are_named_as_what_differs(tmp_path: Path) -> None:
    maker = Maker(tmp_path, {})
    bundle = maker.release()
    executor = ScriptedExecutor()
    executor.constant = {"finetune"}
    executor.results["difference"] = _DIFFERENCE
    found = maker.verify(bundle, executor)
    steps = {each.name: each.step for each in found.files if not each.same}
    assert steps["dog_learned.npz"] == steps["dog_full_integer_quant_vela.tflite"] == "finetune"


def test_no_release_can_say_that_other_steps_need_not_be_made_again(tmp_path: Path) -> None:
    """What compiles is no step that learns."""
    maker = Maker(tmp_path, {})
    bundle = maker.release()
    folder = tmp_path / "unpacked"
    with tarfile.open(bundle) as archive:
        archive.extractall(folder, filter="data")
    _claim(folder / "dog", {"compile": "it is not needed"})
    with tarfile.open(bundle, "w") as archive:
        for path in sorted((folder / "dog").rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(folder).as_posix())
    executor = ScriptedExecutor()
    found = maker.verify(bundle, executor)
    assert sorted(executor.ran) == sorted(ALL_STEPS)
    assert not any(each.taken for each in found.files)


def _claim(folder: Path, fixed: Mapping[str, str]) -> None:
    """Change what the provenance says, with sums that are right."""
    path = folder / "provenance.json"
    statement: dict[str, Any] = json.loads(path.read_text("utf-8"))
    statement["predicate"]["buildDefinition"]["internalParameters"]["fixed"] = dict(fixed)
    path.write_text(json.dumps(statement), encoding="utf-8")
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != SUMS]
    sums = {each.relative_to(folder).as_posix(): hash_file(each) for each in files}
    (folder / SUMS).write_text(sums_of(sums), encoding="utf-8")
