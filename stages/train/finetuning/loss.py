"""How far what the board decodes is from what it would decode from the float network's outputs.

No labels: the float network is the teacher (Hinton et al., 2015, arXiv 1503.02531). Scores count as
probabilities, the sides of boxes as the distributions that the firmware takes the mean of, and both
boxes and keypoints where the teacher sees an object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.yolo import BOX_SIDES, STRIDES

#: Squared cells of a keypoint's error that weigh as much as a nat of the others.
_KEYPOINT_WEIGHT = 4.0


def distances(
    roles: Sequence[str], learned: Sequence[Tensor], exact: Sequence[Tensor]
) -> dict[str, Tensor]:
    """By kind (score, box, keypoints) the distance an image, in nats, of outputs [n, channels,
    cells]; those of the teacher need no gradient."""
    one, other = dict(zip(roles, learned, strict=True)), dict(zip(roles, exact, strict=True))
    images = len(learned[0])
    seen = {stride: torch.sigmoid(other[f"score{stride}"]).amax(1) for stride in STRIDES}
    total = {
        "score": sum(_bernoulli(one[f"score{s}"], other[f"score{s}"]) for s in STRIDES),
        "box": sum(_sides(one[f"box{s}"], other[f"box{s}"], seen[s]) for s in STRIDES),
    }
    if "keypoints" in one:
        total["keypoints"] = _points(one["keypoints"], other["keypoints"], seen)
    return {kind: value / images for kind, value in total.items()}


def _bernoulli(learned: Tensor, exact: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the probabilities, summed."""
    wanted = torch.sigmoid(exact)
    cross = functional.binary_cross_entropy_with_logits(learned, wanted, reduction="sum")
    return cross - functional.binary_cross_entropy_with_logits(exact, wanted, reduction="sum")


def _sides(learned: Tensor, exact: Tensor, seen: Tensor) -> Tensor:
    """The same of the distributions of the four sides, weighted by the probability of an object."""
    one, other = (
        functional.log_softmax(each.unflatten(1, (BOX_SIDES, -1)), dim=2)
        for each in (learned, exact)
    )
    divergence = functional.kl_div(one, other, log_target=True, reduction="none").sum((1, 2))
    return (divergence * seen).sum()


def _points(learned: Tensor, exact: Tensor, seen: Mapping[int, Tensor]) -> Tensor:
    """Squared errors of keypoints, whose cells are those of all strides in turn."""
    weights = torch.cat([seen[stride] for stride in STRIDES], dim=1)
    return _KEYPOINT_WEIGHT * ((learned - exact).square().mean(1) * weights).sum()
