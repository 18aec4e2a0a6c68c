"""A folder for each class, in the form that the steps take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kiln.errors import DataError
from kiln.pipeline.class_folders import load_class_folders
from kiln.pipeline.dataset import DataSet

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A folder with these files, each with its own name as its content."""

    def write(*names: str) -> Path:
        folder = tmp_path / "set"
        folder.mkdir()
        for name in names:
            path = folder / name
            if name.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
        return folder

    return write


def _load(folder: Path) -> DataSet:
    beside = folder.parent
    return load_class_folders(folder, index=beside / "index.json", scratch=beside / "scratch")


def test_a_class_is_a_folder_and_its_number_is_its_place_by_name(make: Make) -> None:
    data = _load(make("train/b/1.jpg", "train/a/x/2.png", "val/b/3.jpg", "val/a/notes.txt"))
    assert sorted(data.tree.files) == [
        "data.yaml",
        "images/train/a/x/2.png",
        "images/train/b/1.jpg",
        "images/val/b/3.jpg",
    ]
    description = yaml.safe_load(data.tree.files["data.yaml"].path.read_text())
    assert description["names"] == {0: "a", 1: "b"}
    assert data.images == {"train": 2, "val": 1}


def test_an_empty_class_keeps_its_number_for_the_check_to_report(make: Make) -> None:
    data = _load(make("train/a/", "train/b/1.jpg", "val/b/2.jpg"))
    description = yaml.safe_load(data.tree.files["data.yaml"].path.read_text())
    assert description["names"] == {0: "a", 1: "b"}


def test_a_class_called_images_is_a_class_like_others(make: Make) -> None:
    data = _load(make("train/images/1.jpg", "train/b/1.jpg", "val/images/1.jpg"))
    assert "images/train/images/1.jpg" in data.tree.files


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
def test_val_may_be_called_as_ultralytics_allows(name: str, make: Make) -> None:
    data = _load(make("train/a/1.jpg", "train/b/1.jpg", f"{name}/a/1.jpg"))
    assert "images/val/a/1.jpg" in data.tree.files


def test_val_is_preferred_to_test(make: Make) -> None:
    data = _load(make("train/a/1.jpg", "val/a/2.jpg", "test/a/3.jpg"))
    assert "images/val/a/2.jpg" in data.tree.files
    assert data.images["val"] == 1


def test_hidden_folders_are_no_classes(make: Make) -> None:
    data = _load(make("train/a/1.jpg", "train/.ipynb_checkpoints/1.jpg", "val/a/1.jpg"))
    assert data.images == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/1.jpg",), "has no folder train/"),
        (("train/a/1.jpg",), "has no folder val/ or test/"),
        (("train/1.jpg", "val/a/1.jpg"), "holds no folders: each class is one"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    names: tuple[str, ...], message: str, make: Make
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        _load(make(*names))
    assert raised.value.hint


def test_a_description_of_objects_is_no_folder_of_classes(make: Make) -> None:
    with pytest.raises(DataError, match="is a file, and TASK=classify takes a folder"):
        _load(make("data.yaml") / "data.yaml")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        _load(tmp_path / "nowhere")
