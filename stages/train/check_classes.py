"""Check a data set of classes before anything is trained on it: every fault is reported.

``params``: task (classify). ``in/data/``: data.yaml with the names of the classes, and the images
in images/<split>/<class>/. ``out/dataset.json``: the fields of ``stages.results.dataset``'s
Dataset; an image counts as one object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.results.check import CheckResult
from stages.results.dataset import Dataset
from stages.train.dataset.description import read_yaml
from stages.train.dataset.findings import Findings
from stages.train.dataset.image_files import fault_of_image, list_images
from stages.yolo import SPLITS

#: The firmware takes no output of fewer classes.
LEAST_CLASSES = 2
_PROGRESS_EVERY = 200


def run(job: Job, events: Events) -> CheckResult:
    """Write dataset.json; raises StepFailed("data") if anything is wrong."""
    data = job.inputs / "data"
    table = read_yaml(data / "data.yaml")["names"]
    names = tuple(str(table[number]) for number in sorted(table))
    if len(names) < LEAST_CLASSES:
        raise StepFailed(
            "data",
            f"train has one class, {names[0]}: a classifier tells at least {LEAST_CLASSES} apart",
            hint="add a folder of images of everything else, such as train/other",
        )
    findings = Findings(events)
    counts = {split: _check_split(data, split, names, findings, events) for split in SPLITS}
    findings.stop_if_any()
    dataset = Dataset(
        task="classify",
        nc=len(names),
        names=names,
        kpt_shape=None,
        flip_idx=None,
        images=counts,
        objects=counts,
    )
    write_json(job.out / "dataset.json", dataset)
    return CheckResult(**dataclasses.asdict(dataset), versions={"pillow": version("pillow")})


def _check_split(
    data: Path, split: str, names: Sequence[str], findings: Findings, events: Events
) -> int:
    """Check the images of one split and the folders they are in; the number of images."""
    folder = data / "images" / split
    images = list_images(folder)
    found = {image.relative_to(folder).parts[0] for image in images}
    for name in sorted(found - set(names)):
        findings.add(f"{split}/{name}", "is a class that train does not have")
    missing = [name for name in names if name not in found]
    if split == "train":
        for name in missing:
            findings.add(f"{split}/{name}", "holds no images")
    elif not images:
        findings.add(split, "holds no images")
    elif missing:
        events.warning(
            f"{split} has no image of {', '.join(missing[:5])}: how well "
            f"{'they are' if len(missing) > 1 else 'it is'} told cannot be measured",
            hint=f"put some images of each class into {split}",
        )
    with ThreadPoolExecutor() as pool:  # decoders release the GIL
        for number, (image, fault) in enumerate(
            zip(images, pool.map(fault_of_image, images), strict=True), start=1
        ):
            if fault:
                findings.add(f"{split}/{image.relative_to(folder).as_posix()}", fault)
            if number % _PROGRESS_EVERY == 0 or number == len(images):
                events.progress(number, len(images), f"{split} images")
    return len(images)


if __name__ == "__main__":
    main(run)
