"""Data sets as users have them, to the one layout that steps see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from kiln.errors import Changed, DataError
from kiln.pipeline.dataset import DataSet, load_dataset


def _make(folder: Path, description: Mapping[str, object], files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(dict(description)), encoding="utf-8")
    return path


def _load(source: Path, tmp_path: Path) -> DataSet:
    return load_dataset(source, index=tmp_path / "index.json", scratch=tmp_path / "scratch")


PLAIN = {
    "images/train/a.png": b"a",
    "labels/train/a.txt": b"0 .5 .5 1 1",
    "images/val/b.jpg": b"b",
    "notes.txt": b"mine",
}
NAMES = {"train": "images/train", "val": "images/val", "names": ["dog"]}


def test_layout_names_and_digest_do_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    one = _load(_make(tmp_path / "one", NAMES, PLAIN), tmp_path)
    two = _load(_make(tmp_path / "two", {"path": ".", **NAMES}, PLAIN), tmp_path)
    assert one.tree.digest == two.tree.digest
    assert sorted(one.tree.files) == [
        "data.yaml",
        "images/train/a.png",
        "images/val/b.jpg",
        "labels/train/a.txt",
    ]
    table = yaml.safe_load(one.tree.files["data.yaml"].path.read_text())
    assert table["names"] == {0: "dog"}
    assert table["train"] == "images/train"


def test_roboflow_layout_with_its_odd_paths(tmp_path: Path) -> None:
    files = {
        "train/images/a.png": b"a",
        "train/labels/a.txt": b"0 .5 .5 1 1",
        "valid/images/b.png": b"b",
        "valid/labels/b.txt": b"0 .5 .5 1 1",
    }
    description = {"train": "../train/images", "val": "../valid/images", "names": ["dog"]}
    data = _load(_make(tmp_path / "set", description, files), tmp_path)
    assert "labels/val/b.txt" in data.tree.files
    assert data.images == {"train": 1, "val": 1}


def test_a_split_that_holds_images_and_labels(tmp_path: Path) -> None:
    files = {
        f"{split}/{name}": b"0 .5 .5 1 1"
        for split in ("train", "val")
        for name in ("images/a.png", "labels/a.txt")
    }
    description = {"train": "train", "val": "val", "names": ["dog"]}
    data = _load(_make(tmp_path / "set", description, files), tmp_path)
    assert "images/val/a.png" in data.tree.files
    assert "labels/val/a.txt" in data.tree.files


def test_images_that_would_share_a_name_are_refused(tmp_path: Path) -> None:
    files = {**PLAIN, "images/train/images/a.png": b"another"}
    with pytest.raises(DataError, match="would be one image of train"):
        _load(_make(tmp_path / "set", NAMES, files), tmp_path)


def test_lists_of_pictures_and_of_folders(tmp_path: Path) -> None:
    files = {
        "images/day/a.png": b"a",
        "images/night/a.png": b"n",
        "labels/night/a.txt": b"0 .5 .5 1 1",
        "val.txt": b"images/day/a.png\n\n./images/night/a.png\n",
    }
    description = {"train": ["images/day", "images/night"], "val": "val.txt", "names": ["dog"]}
    data = _load(_make(tmp_path / "set", description, files), tmp_path)
    assert data.images == {"train": 2, "val": 2}
    assert "labels/train/1/a.txt" in data.tree.files


def test_one_changed_label_changes_the_digest(tmp_path: Path) -> None:
    source = _make(tmp_path / "set", NAMES, PLAIN)
    before = _load(source, tmp_path).tree.digest
    (tmp_path / "set/labels/train/a.txt").write_bytes(b"0 .5 .5 1 2")
    assert _load(source, tmp_path).tree.digest != before


def test_nothing_is_written_into_the_data_set(tmp_path: Path) -> None:
    source = _make(tmp_path / "set", NAMES, PLAIN)
    before = sorted((tmp_path / "set").rglob("*"))
    _load(source, tmp_path)
    assert sorted((tmp_path / "set").rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": None}, "has no 'val'"),
        ({"names": None}, "has no 'names'"),
        ({"train": "images/nowhere"}, "names images/nowhere, which does not exist"),
        ({"val": "labels/train"}, "holds no images"),
        ({"names": {0: "a", 2: "b"}}, "without a gap"),
        ({"nc": 3}, "says nc: 3 but names 1"),
    ],
)
def test_broken_descriptions(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _load(_make(tmp_path / "set", NAMES | change, PLAIN), tmp_path)


def test_a_missing_data_set_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as error:
        _load(tmp_path / "nowhere" / "data.yaml", tmp_path)
    assert "DATA=" in error.value.hint


def test_a_set_that_has_not_moved_is_known_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are young; to the index they count as old enough to be trusted."""
    monkeypatch.setattr("kiln.store.statindex._TICK_NS", -(10**12))
    source = _make(tmp_path / "one", NAMES, PLAIN)
    first = _load(source, tmp_path).tree
    again = _load(source, tmp_path).tree
    assert again.digest == first.digest
    assert "files" not in vars(again), "nobody has asked for them"
    assert again.files == first.files

    known = _load(source, tmp_path).tree
    (tmp_path / "one/labels/train/a.txt").write_bytes(b"0 .5 .5 1 2")
    with pytest.raises(Changed):
        _ = known.files
    changed = _load(source, tmp_path).tree
    assert changed.digest != first.digest
    (tmp_path / "one/images/train/c.png").write_bytes(b"c")
    assert _load(source, tmp_path).tree.digest != changed.digest
