"""Check a data set before anything is trained on it: every fault is reported with file and line.

``params``: task. ``in/``: data. ``out/dataset.json``: the fields of ``stages.results.dataset``'s
Dataset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.results.check import CheckResult
from stages.results.dataset import Dataset, Task
from stages.train.dataset.description import read_yaml
from stages.train.dataset.findings import Findings
from stages.train.dataset.image_files import fault_of_image, list_images
from stages.train.dataset.labels import Form, LabelFile, read_labels
from stages.yolo import (
    KEYPOINT_VALUES,
    MAX_KEYPOINTS,
    SPLITS,
    fault_of_skeleton,
    label_path,
)

_PROGRESS_EVERY = 200


def run(job: Job, events: Events) -> CheckResult:
    """Write dataset.json; raises StepFailed("data") if anything is wrong."""
    data = job.inputs / "data"
    findings = Findings(events)
    table = _read_description(data / "data.yaml")
    form = _form(table, job.params["task"], findings)
    findings.stop_if_any()  # with a wrong description every label would be wrong
    counts = {split: _check_split(data, split, form, findings, events) for split in SPLITS}
    findings.stop_if_any()
    if form.task == "pose" and not table.get("flip_idx"):
        events.warning(
            "data.yaml has no flip_idx: the trainer will not mirror images",
            hint="list for each keypoint the one that it becomes in a mirror",
        )
    dataset = _dataset(table, form, counts)
    write_json(job.out / "dataset.json", dataset)
    return CheckResult(**dataclasses.asdict(dataset), versions={"pillow": version("pillow")})


def _dataset(
    table: Mapping[str, Any], form: Form, counts: Mapping[str, tuple[int, int]]
) -> Dataset:
    """What dataset.json says; a keypoint has a visibility for all who read it."""
    drawn = table if form.task == "pose" else {}
    flip_idx, skeleton = drawn.get("flip_idx"), drawn.get("skeleton") or ()
    kpt_shape = (form.kpt_shape[0], KEYPOINT_VALUES) if drawn and form.kpt_shape else None
    return Dataset(
        task=form.task,
        nc=form.nc,
        names=form.names,
        kpt_shape=kpt_shape,
        flip_idx=None if flip_idx is None else tuple(map(int, flip_idx)),
        images={split: images for split, (images, _objects) in counts.items()},
        objects={split: objects for split, (_images, objects) in counts.items()},
        label_kpt_shape=form.kpt_shape,
        skeleton=tuple((first, second) for first, second in skeleton),
    )


def _check_split(
    data: Path, split: str, form: Form, findings: Findings, events: Events
) -> tuple[int, int]:
    """Check the images and labels of one split; the numbers of images and of objects."""
    images = list_images(data / "images" / split)
    if not images:
        findings.add(f"images/{split}", "holds no images")
    objects = 0
    repeated: list[str] = []
    outlined: list[str] = []
    with ThreadPoolExecutor() as pool:  # decoders release the GIL
        for number, (image, fault) in enumerate(
            zip(images, pool.map(fault_of_image, images), strict=True), start=1
        ):
            if fault:
                findings.add(image.relative_to(data).as_posix(), fault)
            label = _label_of(image)
            name = label.relative_to(data).as_posix()
            read = read_labels(label, form) if label.is_file() else LabelFile()
            for line, message in read.faults:
                findings.add(name, message, line=line)
            objects += read.objects
            repeated += [name] * bool(read.repeated)
            outlined += [name] * bool(read.outlines)
            if number % _PROGRESS_EVERY == 0 or number == len(images):
                events.progress(number, len(images), f"{split} images")
    if images and not objects:
        _nothing_labelled(split, findings, events)
    _warn(events, repeated, "with a line twice; the second is dropped")
    _warn(events, outlined, "with outlines; the box around each is used")
    _warn(events, _orphans(data, split, images), "without an image")
    return len(images), objects


def _read_description(path: Path) -> dict[str, Any]:
    try:
        table = read_yaml(path)
    except ValueError as error:
        raise StepFailed("data", f"data.yaml cannot be read: {error}") from error
    names = table.get("names") if isinstance(table, dict) else None
    if not isinstance(names, dict) or set(names) != set(range(len(names))) or not names:
        raise StepFailed(
            "data",
            "names of data.yaml must number the classes from 0 without a gap",
            hint="names: {0: person}",
        )
    return table


def _form(table: Mapping[str, Any], task: Task, findings: Findings) -> Form:
    """The form that labels must have; faults of data.yaml itself go to ``findings``."""
    names = tuple(str(name) for _number, name in sorted(table["names"].items()))
    shape = table.get("kpt_shape")
    faults = list(_faults_of_keypoints(table, shape)) if task == "pose" else []
    for fault in faults:
        findings.add("data.yaml", fault)
    pair = (int(shape[0]), int(shape[1])) if _is_shape(shape) else None
    return Form(task=task, names=names, kpt_shape=pair)


def _faults_of_keypoints(table: Mapping[str, Any], shape: object) -> Iterator[str]:
    if shape is None:
        yield "has no kpt_shape, which TASK=pose needs: kpt_shape: [17, 3], or use TASK=detect"
        return
    if not _is_shape(shape) or shape[1] not in (2, KEYPOINT_VALUES):
        yield (
            f"kpt_shape is {shape!r:.80}, neither [keypoints, {KEYPOINT_VALUES}], for x, y and "
            "visibility, nor [keypoints, 2]"
        )
        return
    points, _each = shape
    flip = table.get("flip_idx")
    if flip is not None and (
        not isinstance(flip, list) or sorted(map(str, flip)) != sorted(map(str, range(points)))
    ):
        yield f"flip_idx must hold each number from 0 to {points - 1} once; it is {flip!r:.200}"
    fault = fault_of_skeleton(table.get("skeleton") or (), points)
    if fault is not None:
        yield fault


def _is_shape(shape: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(number) is int and 0 < number <= MAX_KEYPOINTS for number in shape)
    )


def _label_of(image: Path) -> Path:
    return Path(label_path(image.as_posix()))


def _orphans(data: Path, split: str, images: Sequence[Path]) -> list[str]:
    """Label files that belong to no image."""
    folder = data / "labels" / split
    wanted = {_label_of(image) for image in images}
    return sorted(
        label.relative_to(data).as_posix() for label in folder.rglob("*.txt") if label not in wanted
    )


def _nothing_labelled(split: str, findings: Findings, events: Events) -> None:
    if split == "train":
        findings.add(
            "labels/train",
            "no image has a labelled object: are the .txt files in labels/ beside images/, "
            "by the same names?",
        )
    else:
        events.warning(f"no image of {split} has a labelled object: accuracy cannot be measured")


def _warn(events: Events, names: Sequence[str], what: str) -> None:
    if names:
        files = "1 label file" if len(names) == 1 else f"{len(names)} label files"
        events.warning(f"{files} {what}: {names[0]}")


if __name__ == "__main__":
    main(run)
