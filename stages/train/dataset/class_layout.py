"""Copies an unpacked data set of classes, a folder each, into the layout that all steps take."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from stages.contract import StepFailed
from stages.train.dataset.image_files import list_images
from stages.yolo import VAL_FOLDERS, data_yaml


def find_class_folders(source: Path) -> Path | None:
    """The folder nearest to the top that holds train/<class>/; None if a YAML file describes the
    data set, which is then one of objects."""
    if any(path.suffix in (".yaml", ".yml") for path in source.rglob("*.y*ml")):
        return None
    found = [
        path.parent
        for path in source.rglob("train")
        if path.is_dir() and any(each.is_dir() for each in path.iterdir())
    ]
    return min(found, key=lambda path: (len(path.parts), path.as_posix()), default=None)


def normalise_classes(source: Path, target: Path) -> None:
    """Copy the images to images/<split>/<class>/ below ``target``; raises StepFailed("data")."""
    val = next((name for name in VAL_FOLDERS if (source / name).is_dir()), None)
    if val is None:
        raise StepFailed(
            "data",
            "the archive has a folder train/ for each class, and no val/ or test/ beside it",
            hint="unpack it, move some images of each class to val/ and pass DATA=that folder",
        )
    for split, name in (("train", "train"), ("val", val)):
        folder = source / name
        for image in list_images(folder):
            if len(image.relative_to(folder).parts) > 1:
                place = target / "images" / split / image.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(image, place)
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    table = data_yaml(dict(enumerate(names)), {})
    text = yaml.safe_dump(table, sort_keys=True, allow_unicode=True)
    (target / "data.yaml").write_text(text, encoding="utf-8")
