"""The user's data set as the steps see it: one normal layout, whatever his data.yaml looks like.

Only reads. What lies in the pictures and labels is the ``check`` step's to judge.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from kiln.errors import DataError
from kiln.statindex import StatIndex
from kiln.tree import File, Tree, hash_file, tree_of

#: What ultralytics reads as pictures.
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".mpo", ".dng", ".pfm", ".heic")
)
_SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set on this host: ``tree`` holds data.yaml, images/<split>/… and labels/<split>/…"""

    source: Path
    tree: Tree
    images: Mapping[str, int]


def load_dataset(source: Path, *, index: Path, scratch: Path) -> DataSet:
    """Find and hash a data set's files.

    ``source`` is a data.yaml or a folder that holds one. The normalised data.yaml is written
    below ``scratch``. Raises DataError with what is missing.
    """
    description = _find_description(source)
    table = _read_description(description)
    root = _root(description, table)
    paths: dict[str, Path] = {}
    counts: dict[str, int] = {}
    for split in _SPLITS:
        images = _images(split, table, root, description)
        counts[split] = len(images)
        paths |= _with_labels(split, images)
    try:
        with StatIndex(index) as known:
            files = known.files(paths)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    files["data.yaml"] = _write_description(_normalised(table, description), scratch)
    return DataSet(source=description, tree=tree_of(files), images=counts)


def _find_description(source: Path) -> Path:
    if source.is_dir():
        found = sorted(source.glob("*.yaml")) + sorted(source.glob("*.yml"))
        named = [path for path in found if path.stem == "data"] or found
        if len(named) != 1:
            raise DataError(
                f"{source} holds {len(named)} .yaml files"
                if named
                else f"{source} has no data.yaml",
                hint="pass DATA=path/to/data.yaml",
            )
        return named[0]
    if not source.is_file():
        raise DataError(
            f"the data set {source} does not exist",
            hint="pass DATA=path/to/data.yaml, or leave DATA out for the demo data set",
        )
    return source


def _read_description(path: Path) -> dict[str, Any]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as YAML: {str(error).splitlines()[0]}",
            hint="README, 'Your own data', shows the form",
        ) from error
    if not isinstance(table, dict):
        raise DataError(f"{path} is not a table of keys", hint="it needs train, val and names")
    for key in (*_SPLITS, "names"):
        if not table.get(key):
            raise DataError(f"{path} has no {key!r}", hint="it needs train, val and names")
    return table


def _root(description: Path, table: Mapping[str, Any]) -> Path:
    """``path`` is relative to the yaml file; one that exists nowhere counts as absent."""
    named = Path(str(table.get("path") or ".")).expanduser()
    root = description.parent / named
    return root.resolve() if root.is_dir() else description.parent.resolve()


def _images(split: str, table: Mapping[str, Any], root: Path, description: Path) -> dict[str, Path]:
    """The pictures of a split by their name in it."""
    value = table[split]
    places = value if isinstance(value, list) else [value]
    found: dict[str, Path] = {}
    for number, place in enumerate(places):
        prefix = f"{number}/" if len(places) > 1 else ""
        located = _locate(str(place), root, split, description)
        for name, path in _list_place(located, root):
            if found.setdefault(prefix + name, path) != path:
                raise DataError(
                    f"{path} and {found[prefix + name]} would be one picture of {split}",
                    hint="rename one of them",
                )
    if not found:
        raise DataError(
            f"{split} of {description} holds no pictures ({value})",
            hint=f"a folder with images, or a .txt file with one path a line, as {split}:",
        )
    return found


def _locate(place: str, root: Path, split: str, description: Path) -> Path:
    path = root / place
    if not path.exists() and place.startswith("../"):
        path = root / place.removeprefix("../")
    if not path.exists():
        raise DataError(
            f"{split} of {description} names {place}, which does not exist in {root}",
            hint="paths are relative to 'path:', which is relative to the yaml file",
        )
    return path


def _list_place(place: Path, root: Path) -> Iterable[tuple[str, Path]]:
    if place.is_dir():
        for path in _walk(place):
            yield _name(path.relative_to(place)), path
        return
    if place.suffix != ".txt":
        raise DataError(f"{place} is neither a folder nor a .txt list of pictures")
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        path = place.parent / name if name.startswith("./") else root / name
        if not path.is_file():
            raise DataError(f"{place}:{number}: {name} does not exist")
        inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        yield _name(inside), path


def _name(inside: Path) -> str:
    """A picture's place in its split. Labels are found by the last folder called images, so none
    may be left below ours."""
    return PurePosixPath(*(part for part in inside.parts if part != "images")).as_posix()


def _walk(folder: Path) -> list[Path]:
    """Pictures below a folder, sorted; links to folders are followed as ultralytics does."""
    return sorted(
        Path(at) / name
        for at, _folders, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - 10,000 of them
    )


def _with_labels(split: str, images: Mapping[str, Path]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for name, image in images.items():
        paths[f"images/{split}/{name}"] = image
        label = _label_of(image)
        if label.is_file():
            paths[f"labels/{split}/{PurePosixPath(name).with_suffix('.txt')}"] = label
    return paths


def _label_of(image: Path) -> Path:
    """The last folder called images becomes labels; without one the label lies beside it."""
    before, found, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    moved = f"{before}{os.sep}labels{os.sep}{after}" if found else str(image)
    return Path(moved).with_suffix(".txt")


def _normalised(table: Mapping[str, Any], description: Path) -> dict[str, Any]:
    names = table["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names) != list(range(len(names))):
        raise DataError(
            f"names of {description} must number the classes from 0 without a gap",
            hint="names: [person], or names: {0: person}",
        )
    nc = table.get("nc")
    if nc is not None and nc != len(names):
        raise DataError(
            f"{description} says nc: {nc} but names {len(names)} classes",
            hint="correct one of them",
        )
    kept = {key: table[key] for key in ("kpt_shape", "flip_idx", "kpt_names") if table.get(key)}
    return {
        "path": ".",
        "train": "images/train",
        "val": "images/val",
        "names": {number: str(name) for number, name in sorted(names.items())},
        **kept,
    }


def _write_description(table: Mapping[str, Any], scratch: Path) -> File:
    """JSON is YAML; names keep their numbers as keys, which JSON would turn into text."""
    text = yaml.safe_dump(dict(table), sort_keys=True, allow_unicode=True)
    scratch.mkdir(parents=True, exist_ok=True)
    temporary = scratch / f".data.{os.getpid()}.yaml"
    temporary.write_text(text, encoding="utf-8")
    digest = hash_file(temporary)
    path = scratch / f"data-{digest[:16]}.yaml"
    temporary.replace(path)
    return File(path=path, sha256=digest, size=path.stat().st_size)
