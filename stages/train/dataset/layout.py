"""Copies an unpacked data set into the layout that all steps take."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.contract import StepFailed
from stages.train.dataset.description import read_yaml
from stages.train.dataset.image_files import list_images
from stages.yolo import KEYPOINT_KEYS, SPLITS, data_yaml, image_name, label_path


def normalise(source: Path, target: Path, description: Mapping[str, Any] | None) -> None:
    """Copy images and labels to images/<split> and labels/<split> below ``target``.

    ``description`` is the content of the data set's data.yaml; without one the file is searched in
    ``source``. Raises StepFailed("data").
    """
    folder = source
    if description is None:
        file = _find_description(source)
        folder, description = file.parent, _read(file)
    images = {split: _images(description, split, folder, source) for split in SPLITS}
    for split in SPLITS:
        for name, image in images[split].items():
            _copy(image, target / "images" / split / name)
            label = source / label_path(image.relative_to(source).as_posix())
            if label.is_file():
                _copy(label, (target / "labels" / split / name).with_suffix(".txt"))
    names = description["names"]
    table = data_yaml(
        dict(enumerate(names)) if isinstance(names, list) else names,
        {key: description[key] for key in KEYPOINT_KEYS if description.get(key)},
    )
    text = yaml.safe_dump(table, sort_keys=True, allow_unicode=True)
    (target / "data.yaml").write_text(text, encoding="utf-8")


def _find_description(source: Path) -> Path:
    """The data.yaml nearest to the top."""
    found = [
        path
        for path in source.rglob("*.y*ml")
        if path.suffix in (".yaml", ".yml") and path.is_file()
    ]
    if not found:
        raise StepFailed(
            "data",
            "the archive holds no data.yaml",
            hint="unpack it, write one and pass DATA=path/to/data.yaml",
        )
    return min(found, key=lambda path: (len(path.parts), path.stem != "data", path.as_posix()))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        table = read_yaml(path)
    except ValueError as error:
        raise StepFailed("data", f"{path.name} of the archive is not YAML: {error}") from error
    missing = [
        key for key in (*SPLITS, "names") if not isinstance(table, dict) or not table.get(key)
    ]
    if missing:
        raise StepFailed("data", f"{path.name} of the archive has no {missing[0]!r}")
    return table


def _images(
    description: Mapping[str, Any], split: str, folder: Path, source: Path
) -> dict[str, Path]:
    """The images of a split by their names in it."""
    value = description.get(split)
    places = value if isinstance(value, list) else [value]
    found: dict[str, Path] = {}
    for number, each in enumerate(places):
        place = _locate(str(each), _starts(description, folder, source), source, split)
        prefix = f"{number}/" if len(places) > 1 else ""
        found |= {prefix + name: image for name, image in _listed(place)}
    if not found:
        raise StepFailed("data", f"the archive has no images for {split} ({value})")
    return found


def _starts(description: Mapping[str, Any], folder: Path, source: Path) -> list[Path]:
    """The folders to which paths may be relative: an archive holds the set itself or its folder."""
    root = Path(str(description.get("path") or "."))
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    return [folder / root, folder / root.name, folder, source, *folders]


def _locate(name: str, starts: list[Path], source: Path, split: str) -> Path:
    for start in starts:
        for tried in (start / name, start / name.removeprefix("../")):
            with contextlib.suppress(OSError):  # a name too long for a file
                if tried.exists() and tried.resolve().is_relative_to(source.resolve()):
                    return tried
    raise StepFailed(
        "data",
        f"the archive has no {name[:200]}, which its data.yaml names as {split}",
        hint="unpack it, correct data.yaml and pass DATA=path/to/data.yaml",
    )


def _listed(place: Path) -> list[tuple[str, Path]]:
    """The images of a folder, or those that a .txt file lists relative to its own folder."""
    root = place
    images = list_images(place) if place.is_dir() else []
    if place.is_file():
        root = place.parent
        lines = _lines(place)
        listed = [Path(os.path.normpath(root / line.strip())) for line in lines if line.strip()]
        present = set(list_images(root))
        images = [path for path in listed if path in present]
    return [(image_name(image.relative_to(root).as_posix()), image) for image in images]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise StepFailed("data", f"{path.name} of the archive is no list of images") from error


def _copy(source: Path, target: Path) -> None:
    """Copy, not move: some data sets train and validate on the same images."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
