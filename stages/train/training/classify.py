"""ultralytics' trainer of classifiers, on images that are squares already.

ultralytics scales an image to its shorter side and cuts the middle out of it. The board's camera
has made a square of it, which is what the network sees, so nothing is cut but by augmentation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from torchvision import transforms
from ultralytics.data import ClassificationDataset
from ultralytics.models.yolo.classify import ClassificationTrainer

from stages.contract import StepFailed
from stages.train.training.trainer import Run
from stages.yolo import SPLITS


class ClassifyRun(Run, ClassificationTrainer):
    """Trains a classification network."""

    def build_dataset(
        self,
        img_path: str,
        mode: str = "train",
        batch: int | None = None,  # noqa: ARG002
    ) -> ClassificationDataset:
        names = {number: _folder(number) for number in self.data["names"]}
        try:
            dataset = ClassificationDataset(
                img_path, self.args, augment=mode == "train", prefix=mode, names=names
            )
        except (ValueError, RuntimeError, FileNotFoundError, AssertionError) as error:
            first = (str(error).splitlines() or [repr(error)])[0]
            raise StepFailed(
                "data",
                f"the {mode} images cannot be used: {first}",
                hint="check the data set, and auto_augment in [train]",
            ) from error
        if mode != "train":
            dataset.torch_transforms = transforms.ToTensor()
        return dataset


def link_classes(source: Path, target: Path, names: Sequence[str]) -> None:
    """Make a folder of links, a folder for each class, called by its number.

    ultralytics counts the folders of each split for itself, so a class that val lacks would shift
    all others; it takes some names for codes of ImageNet; and it writes caches beside the files.
    """
    shutil.rmtree(target, ignore_errors=True)
    for split in SPLITS:
        for number, name in enumerate(names):
            place = target / "images" / split / _folder(number)
            place.mkdir(parents=True)
            for folder, _folders, files in os.walk(source / "images" / split / name):
                links = place / Path(folder).relative_to(source / "images" / split / name)
                links.mkdir(exist_ok=True)
                for file in files:
                    (links / file).symlink_to(Path(folder, file))


def _folder(number: int) -> str:
    """The name of a class's folder; names sort as numbers do."""
    return f"{number:05d}"
