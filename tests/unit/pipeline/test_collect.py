"""What is collected of a classifier's steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kiln.pipeline.collect import unlike_training


@pytest.mark.parametrize(
    ("found", "warns"), [(0.979, False), (0.9375, False), (0.9167, True)], ids=str
)
def test_a_classifier_that_is_judged_unlike_its_training_is_a_warning(
    found: float, warns: bool
) -> None:
    """Two of 48 images may be taken differently, three may not."""
    results: dict[str, Any] = {
        "train": SimpleNamespace(metrics={"class/top1": 0.979, "class/top5": 1.0}),
        "check": SimpleNamespace(images={"train": 256, "val": 48}),
        "evaluate": SimpleNamespace(
            images=48, artifacts={"float32": {"class/top1": found, "class/top5": 0.5}}
        ),
    }
    outcomes: Any = {name: SimpleNamespace(result=each) for name, each in results.items()}
    warnings = unlike_training(outcomes)
    assert bool(warnings) == warns
    if warns:
        assert "top-1 accuracy of the float network is 91.7" in warnings[0].message
        assert warnings[0].hint == "the former is the board's"
