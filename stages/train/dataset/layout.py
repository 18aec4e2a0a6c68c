"""Brings an unpacked data set into the one layout that steps know."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.contract import StepFailed
from stages.train.dataset.image_files import list_images

_SPLITS = ("train", "val")
_OPTIONAL = ("kpt_shape", "flip_idx", "kpt_names")
_MAX_DESCRIPTION_BYTES = 1 << 20


class _NoAliases(yaml.SafeLoader):
    """Plain values, each written out: ten lines of aliases to aliases are a terabyte as text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name): write the value out")
        return super().compose_node(parent, index)


def normalise(source: Path, target: Path, description: Mapping[str, Any] | None) -> None:
    """Move pictures and labels to images/<split> and labels/<split> below ``target``.

    ``description`` is the data.yaml of the set; without one it is looked for in ``source``.
    Raises StepFailed("data").
    """
    folder = source
    if description is None:
        file = _find_description(source)
        folder, description = file.parent, _read(file)
    images = {split: _images(description, split, folder, source) for split in _SPLITS}
    for split in _SPLITS:
        for name, image in images[split].items():
            _copy(image, target / "images" / split / name)
            label = source / label_of(image.relative_to(source))
            if label.is_file():
                _copy(label, (target / "labels" / split / name).with_suffix(".txt"))
    names = description["names"]
    table = {
        "path": ".",
        **{split: f"images/{split}" for split in _SPLITS},
        "names": dict(enumerate(names)) if isinstance(names, list) else names,
        **{key: description[key] for key in _OPTIONAL if description.get(key)},
    }
    text = yaml.safe_dump(table, sort_keys=True, allow_unicode=True)
    (target / "data.yaml").write_text(text, encoding="utf-8")


def label_of(image: Path) -> Path:
    """Where a picture's label lies in the archive: the last folder called images becomes labels."""
    before, found, after = f"/{image.as_posix()}".rpartition("/images/")
    moved = f"{before}/labels/{after}".removeprefix("/") if found else image
    return Path(moved).with_suffix(".txt")


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
        if path.stat().st_size > _MAX_DESCRIPTION_BYTES:
            raise ValueError(f"it is larger than {_MAX_DESCRIPTION_BYTES >> 10} KiB")
        table = yaml.load(path.read_text(encoding="utf-8"), _NoAliases)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise StepFailed("data", f"{path.name} of the archive is not YAML: {reason}") from error
    missing = [
        key for key in (*_SPLITS, "names") if not isinstance(table, dict) or not table.get(key)
    ]
    if missing:
        raise StepFailed("data", f"{path.name} of the archive has no {missing[0]!r}")
    return table


def _images(
    description: Mapping[str, Any], split: str, folder: Path, source: Path
) -> dict[str, Path]:
    """The pictures of a split by their name in it."""
    value = description.get(split)
    places = value if isinstance(value, list) else [value]
    found: dict[str, Path] = {}
    for number, each in enumerate(places):
        place = _locate(str(each), _starts(description, folder, source), source, split)
        prefix = f"{number}/" if len(places) > 1 else ""
        found |= {prefix + name: image for name, image in _listed(place)}
    if not found:
        raise StepFailed("data", f"the archive has no pictures for {split} ({value})")
    return found


def _starts(description: Mapping[str, Any], folder: Path, source: Path) -> list[Path]:
    """Where paths may start from: archives hold the set itself or a folder of it."""
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
    """The pictures of a folder, or those that a .txt file lists, from its own folder on.

    A folder called images within a name would have the trainer look for labels elsewhere.
    """
    root = place
    images = list_images(place) if place.is_dir() else []
    if place.is_file():
        root = place.parent
        lines = _lines(place)
        listed = [Path(os.path.normpath(root / line.strip())) for line in lines if line.strip()]
        there = set(list_images(root))
        images = [path for path in listed if path in there]
    named = []
    for image in images:
        parts = image.relative_to(root).parts
        named.append(("/".join(part for part in parts if part != "images"), image))
    return named


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise StepFailed("data", f"{path.name} of the archive is no list of pictures") from error


def _copy(source: Path, target: Path) -> None:
    """Copied, not moved: some sets train and validate on the same pictures."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
