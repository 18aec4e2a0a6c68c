"""Changes images as ultralytics' training does, as far as it needs no labels: colours, place, size,
mirrored or not. Each image by itself, and by a seed alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

#: What ultralytics fills with around an image.
_GREY = 114
#: Its arguments that are used, all numbers.
ARGUMENTS = (
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "flipud", "fliplr"),
)


class Augmentation:
    """A random change of images; ``arguments`` are those of ultralytics' training, `ARGUMENTS`."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        chosen = {name: float(arguments[name]) for name in ARGUMENTS}
        self._change = v2.Compose(
            [
                v2.ColorJitter(
                    brightness=chosen["hsv_v"], saturation=chosen["hsv_s"], hue=chosen["hsv_h"]
                ),
                v2.RandomAffine(
                    degrees=chosen["degrees"],
                    translate=(chosen["translate"],) * 2,
                    scale=(max(1 - chosen["scale"], 0.05), 1 + chosen["scale"]),
                    shear=chosen["shear"],
                    interpolation=InterpolationMode.BILINEAR,
                    fill=_GREY,
                ),
                v2.RandomVerticalFlip(chosen["flipud"]),
                v2.RandomHorizontalFlip(chosen["fliplr"]),
            ]
        )

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Images uint8 [n, 3, height, width] on the CPU, changed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.stack([self._change(image) for image in images])
