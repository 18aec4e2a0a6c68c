"""The user's data set as the steps see it: one normal layout, whatever its data.yaml looks like.

Only reads. What lies in the images and labels is the ``check`` step's to judge.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kiln.errors import DataError
from kiln.store.statindex import tree_at
from kiln.store.tree import File, Tree, hash_bytes
from kiln.system.files import write_atomically
from stages.yolo import (
    IMAGE_SUFFIXES,
    KEYPOINT_KEYS,
    SPLITS,
    data_yaml,
    image_name,
    label_path,
)

#: Tens of thousands of classes fit; the parser takes seconds for more.
_MAX_DESCRIPTION_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set on this host: ``tree`` holds data.yaml, images/<split>/… and labels/<split>/…"""

    source: Path
    tree: Tree
    images: Mapping[str, int]


class _NoAliases(yaml.SafeLoader):
    """Plain values, each written out: ten lines of aliases to aliases are a terabyte as text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name): write the value out")
        return super().compose_node(parent, index)


def load_dataset(source: Path, *, index: Path, scratch: Path) -> DataSet:
    """Find and hash a data set's files.

    ``source`` is a data.yaml or a folder that holds one. The normalised data.yaml is written
    below ``scratch``. Raises DataError with what is missing.
    """
    description = _find_description(source)
    table = _read_description(description)
    root = _root(description, table)
    more = {"data.yaml": write_description(_normalised(table, description), scratch)}
    paths: dict[str, str] = {}
    counts: dict[str, int] = {}
    try:
        for split in SPLITS:
            images = _images(split, table, root, description)
            counts[split] = len(images)
            paths |= _with_labels(split, images)
        tree = tree_at(paths, more, index=index)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    return DataSet(source=description, tree=tree, images=counts)


def _find_description(source: Path) -> Path:
    if source.is_dir():
        found = sorted(source.glob("*.yaml")) + sorted(source.glob("*.yml"))
        found = [path for path in found if path.is_file()]  # a pipe is never read to its end
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
        with path.open("rb") as stream:
            text = stream.read(_MAX_DESCRIPTION_BYTES + 1).decode()
        if len(text) > _MAX_DESCRIPTION_BYTES:
            raise ValueError(f"it is larger than {_MAX_DESCRIPTION_BYTES >> 10} KiB")
        table = yaml.load(text, _NoAliases)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as YAML: {str(error).splitlines()[0]}",
            hint="docs/data.md of Kiln shows the form",
        ) from error
    if not isinstance(table, dict):
        raise DataError(f"{path} is not a table of keys", hint="it needs train, val and names")
    for key in (*SPLITS, "names"):
        if not table.get(key):
            raise DataError(f"{path} has no {key!r}", hint="it needs train, val and names")
    return table


def _root(description: Path, table: Mapping[str, Any]) -> Path:
    """``path`` is relative to the yaml file; one that exists nowhere counts as absent."""
    named = str(table.get("path") or ".")
    try:
        root = description.parent / Path(named).expanduser()
        return root.resolve() if root.is_dir() else description.parent.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"path of {description} is {named[:80]!r}, which cannot be looked up",
            hint="path: . is the folder of the yaml file itself",
        ) from error


def _images(split: str, table: Mapping[str, Any], root: Path, description: Path) -> dict[str, str]:
    """The images of a split by their name in it."""
    value = table[split]
    places = value if isinstance(value, list) else [value]
    found: dict[str, str] = {}
    for number, place in enumerate(places):
        prefix = f"{number}/" if len(places) > 1 else ""
        located = _locate(str(place), root, split, description)
        for name, path in _list_place(located, root):
            if found.setdefault(prefix + name, path) != path:
                raise DataError(
                    f"{path} and {found[prefix + name]} would be one image of {split}",
                    hint="rename one of them",
                )
    if not found:
        raise DataError(
            f"{split} of {description} holds no images ({value})",
            hint=f"a folder with images, or a .txt file with one path a line, as {split}:",
        )
    return found


def _locate(place: str, root: Path, split: str, description: Path) -> Path:
    path = root / place
    if not _exists(path) and place.startswith("../"):
        path = root / place.removeprefix("../")
    if not _exists(path):
        raise DataError(
            f"{split} of {description} names {place[:200]}, which does not exist in {root}",
            hint="paths are relative to 'path:', which is relative to the yaml file",
        )
    return path


def _list_place(place: Path, root: Path) -> Iterable[tuple[str, str]]:
    if place.is_dir():
        for found in walk_images(place):
            yield image_name(found.removeprefix(f"{place}{os.sep}")), found
        return
    if place.suffix != ".txt" or not place.is_file():
        raise DataError(f"{place} is neither a folder nor a .txt list of images")
    for number, line in enumerate(_lines(place), start=1):
        name = line.strip()
        if not name:
            continue
        path = place.parent / name if name.startswith("./") else root / name
        if not _exists(path) or not path.is_file():
            raise DataError(f"{place}:{number}: {name[:200]} does not exist")
        inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        yield image_name(str(inside)), str(path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no list of images: {error}") from error


def _exists(path: Path) -> bool:
    """False too for what cannot be a path, as a name of thousands of letters."""
    try:
        return path.exists()
    except OSError:
        return False


def walk_images(folder: Path) -> list[str]:
    """Images below a folder, sorted; links to folders are followed as ultralytics does.

    Each folder once: links can go round in circles, and lead to one place in many ways.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        at = waiting.pop()
        status = os.stat(at)  # noqa: PTH116 - as fast as a walk can be
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(at) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif _is_image(entry.name):
                    found.append(_regular(entry))
    return sorted(found)


def _is_image(name: str) -> bool:
    stem, _dot, suffix = name.rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in IMAGE_SUFFIXES


def _regular(entry: os.DirEntry[str]) -> str:
    """An image that can be read to an end, under a name that can be written down."""
    if not entry.is_file():
        raise DataError(f"{entry.path} is no file, or a link to none", hint="take it away")
    if not entry.path.isascii():
        try:
            entry.path.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the name of {entry.path!r} is not UTF-8", hint="rename it") from error
    return entry.path


def _with_labels(split: str, images: Mapping[str, str]) -> dict[str, str]:
    paths: dict[str, str] = {}
    listed: dict[str, set[str]] = {}
    for name, image in images.items():
        own = f"images/{split}/{name}"
        paths[own] = image
        label = label_path(image)
        folder, _, file = label.rpartition(os.sep)
        if folder not in listed:
            listed[folder] = _files_in(folder)
        if file in listed[folder]:
            paths[label_path(own)] = label
    return paths


def _files_in(folder: str) -> set[str]:
    """Names of a folder's files; none if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _normalised(table: Mapping[str, Any], description: Path) -> dict[str, Any]:
    names = table["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or set(names) != set(range(len(names))):
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
    return data_yaml(
        {number: str(name) for number, name in sorted(names.items())},
        {key: table[key] for key in KEYPOINT_KEYS if table.get(key)},
    )


def write_description(table: Mapping[str, Any], scratch: Path) -> File:
    """JSON is YAML; names keep their numbers as keys, which JSON would turn into text."""
    text = yaml.safe_dump(dict(table), sort_keys=True, allow_unicode=True).encode("utf-8")
    digest = hash_bytes(text)
    path = scratch / f"data-{digest[:16]}.yaml"
    scratch.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return File(path=path, sha256=digest, size=len(text))
