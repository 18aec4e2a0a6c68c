"""A step's own code decides its key, another step's does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.store.sources import sources_digest


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two steps that share one module; one of them names it in a bracketed import."""
    files = {
        "__init__": "",
        "contract": "",
        "train/__init__": "",
        "train/shared": "import os\n",
        "train/one": "from stages.contract import main\n"
        "from stages.train import (\n    shared,\n)\n",
        "train/two": "from stages.contract import (\n    main,\n)\n\n\ndef f():\n"
        "    from stages.train.shared import x\n",
        "train/alone": "from stages.contract import main\n",
    }
    for name, text in files.items():
        path = tmp_path / "stages" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def _digests(checkout: Path, tmp_path_factory: pytest.TempPathFactory, changed: str) -> set[str]:
    """The steps whose digest changes with a file."""
    steps = ("one", "two", "alone")
    before = {step: sources_digest(checkout, f"stages.train.{step}") for step in steps}
    copy = tmp_path_factory.mktemp("changed") / "checkout"
    checkout.rename(copy)
    path = copy / "stages" / f"{changed}.py"
    path.write_text(path.read_text() + "\n# changed\n", encoding="utf-8")
    after = {step: sources_digest(copy, f"stages.train.{step}") for step in steps}
    return {step for step in steps if before[step] != after[step]}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("contract", {"one", "two", "alone"}),
        ("train/shared", {"one", "two"}),
        ("train/one", {"one"}),
        ("train/alone", {"alone"}),
    ],
)
def test_a_changed_file_changes_the_steps_that_import_it(
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
    changed: str,
    expected: set[str],
) -> None:
    assert _digests(checkout, tmp_path_factory, changed) == expected
