"""How large the drawn demo data sets are, and how they are trained if the user does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kiln.plan.request import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How large the demo data set is, and how it is trained if the user does not say."""

    train: int
    val: int
    seed: int
    epochs: int
    batch: int
    overrides: Mapping[str, Any]


#: What reaches its accuracy soonest on two CPU cores: many small updates, and no mosaics, which a
#: short training has no time to learn from.
DEMO = DemoSettings(
    train=256,
    val=48,
    seed=0,
    epochs=14,
    batch=8,
    overrides={"optimizer": "AdamW", "lr0": 0.002, "momentum": 0.9, "mosaic": 0.0},
)

#: Augmentations are as strong as so short a training bears, and no sign is mirrored.
DEMO_CLASSIFY = dataclasses.replace(
    DEMO,
    epochs=12,
    overrides={
        **{"optimizer": "AdamW", "lr0": 0.001, "momentum": 0.9, "warmup_epochs": 1.0},
        **{"auto_augment": "", "erasing": 0.0, "fliplr": 0.0},
    },
)


def demo_settings(task: Task) -> DemoSettings:
    """How large the demo data set of a task is, and how it is trained."""
    return DEMO_CLASSIFY if task == "classify" else DEMO
