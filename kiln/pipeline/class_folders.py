"""The user's data set for classification as the steps see it: a folder for each class.

Only reads. What lies in the images is the ``check`` step's to judge.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kiln.errors import DataError
from kiln.pipeline.dataset import DataSet, walk_images, write_description
from kiln.store.statindex import tree_at
from stages.yolo import VAL_FOLDERS, data_yaml

_FORM = "a folder with train/<class>/*.jpg and val/<class>/*.jpg"


def load_class_folders(source: Path, *, index: Path, scratch: Path) -> DataSet:
    """Find and hash a data set's files: data.yaml with the names of the classes, which is written
    below ``scratch``, and images/<split>/<class>/…

    Raises DataError with what is missing.
    """
    folders = {"train": source / "train", "val": _val_folder(source)}
    try:
        names = _classes(folders["train"])
        paths: dict[str, str] = {}
        counts: dict[str, int] = {}
        for split, folder in folders.items():
            images = _images(folder)
            counts[split] = len(images)
            paths |= {f"images/{split}/{name}": path for name, path in images.items()}
        more = {"data.yaml": write_description(data_yaml(dict(enumerate(names)), {}), scratch)}
        tree = tree_at(paths, more, index=index)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    return DataSet(source=source, tree=tree, images=counts)


def _val_folder(source: Path) -> Path:
    """The folder of the images to judge with; raises DataError if there is none, or no train/."""
    if not source.exists():
        raise DataError(
            f"the data set {source} does not exist",
            hint=f"pass DATA={_FORM}, or leave DATA out for the demo data set",
        )
    if not source.is_dir():
        raise DataError(
            f"{source} is a file, and TASK=classify takes {_FORM}", hint="pass DATA=that folder"
        )
    if not (source / "train").is_dir():
        raise DataError(f"{source} has no folder train/", hint=f"TASK=classify takes {_FORM}")
    found = next((name for name in VAL_FOLDERS if (source / name).is_dir()), None)
    if found is None:
        raise DataError(
            f"{source} has no folder val/ or test/",
            hint="move a tenth of the images of each class from train/ to val/",
        )
    return source / found


def _classes(folder: Path) -> list[str]:
    """The classes in the order of their numbers: the folders by name, as ultralytics counts them.

    Hidden folders, which notebooks and file managers make, are none.
    """
    names = sorted(entry.name for entry in _folders(folder))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the name of the class {name!r} is not UTF-8", hint="rename its folder"
            ) from error
    if not names:
        raise DataError(
            f"{folder} holds no folders: each class is one, by its name", hint=f"it takes {_FORM}"
        )
    return names


def _images(folder: Path) -> Mapping[str, str]:
    """The images of a split by <class>/<name>."""
    found: dict[str, str] = {}
    for entry in _folders(folder):
        place = entry.path
        for path in walk_images(Path(place)):
            found[f"{entry.name}/{path.removeprefix(f'{place}{os.sep}')}"] = path
    return dict(sorted(found.items()))


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [each for each in entries if each.is_dir() and not each.name.startswith(".")]
