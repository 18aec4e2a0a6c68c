"""A YOLOv8 network whose outputs are those of its head's branches, not decoded.

The firmware decodes on the board. Each branch is permuted to NHWC, the board's own order, before
anything is concatenated: no transpose is left, and no two value ranges share a tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import torch
from torch import nn
from ultralytics.nn.modules import C2f, Pose
from ultralytics.nn.tasks import DetectionModel


class RawHeads(nn.Module):
    """Images [1, 3, S, S] to, by stride, boxes [1, N, 64] and scores [1, N, nc]; for pose then
    keypoints [1, sum of N, 3K]; all float32. Works on a fused copy; ``model`` stays as it is.
    """

    def __init__(self, model: DetectionModel, *, split_c2f: bool) -> None:
        super().__init__()
        fused = copy.deepcopy(model).eval().fuse(verbose=False)
        layers = list(fused.model)
        self.layers = nn.ModuleList(split_layers(layers[:-1], split_c2f=split_c2f))
        self.head = layers[-1]
        self.pose = isinstance(self.head, Pose)
        self.output_names = [
            f"{kind}{int(stride)}" for stride in model.stride for kind in ("box", "score")
        ]
        if self.pose:
            self.output_names.append("keypoints")

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self._features(images)
        head = self.head
        outputs = []
        for feature, box, score in zip(features, head.cv2, head.cv3, strict=True):
            outputs += [_rows(box(feature)), _rows(score(feature))]
        if self.pose:
            branches = zip(features, head.cv4, strict=True)
            outputs.append(torch.cat([_rows(branch(feature)) for feature, branch in branches], 1))
        return tuple(outputs)

    def largest_difference(self, model: DetectionModel, images: torch.Tensor) -> float:
        """The largest difference from the original's head, relative to its range.

        ``images``: float32 [n, 3, S, S], 0 to 1.
        """
        distances = []
        with torch.no_grad():
            for image in images.split(1):
                _decoded, heads = model(image)
                expected = [
                    heads["boxes"],
                    heads["scores"],
                    *([heads["kpts"]] if self.pose else []),
                ]
                for one, other in zip(expected, _joined(self(image), self.pose), strict=True):
                    distance = (one.transpose(1, 2) - other).abs().max()
                    distances.append(distance / one.abs().max().clamp(min=1.0))
        return float(torch.stack(distances).max())  # Python's max() would ignore NaN

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The head's inputs: the outputs of the layers that it names."""
        outputs: list[torch.Tensor] = []
        for layer in self.layers:
            outputs.append(layer(_inputs(layer, outputs, images)))
        return [outputs[number] for number in self.head.f]


class SplitC2f(nn.Module):
    """A fused C2f whose first convolution is split in two, one for each half of its channels.

    In int8 each half then has an activation scale of its own, and nothing has to be sliced. It
    computes the same function as the original.
    """

    def __init__(self, block: C2f) -> None:
        super().__init__()
        self.first = _half(block.cv1.conv, slice(0, block.c))
        self.second = _half(block.cv1.conv, slice(block.c, 2 * block.c))
        self.act = block.cv1.act
        self.m = block.m
        self.cv2 = block.cv2

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        parts = [self.act(self.first(feature)), self.act(self.second(feature))]
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


def _joined(outputs: tuple[torch.Tensor, ...], pose: bool) -> list[torch.Tensor]:
    """Boxes, scores (and keypoints) of all strides in one tensor each, as in ultralytics."""
    branches = outputs[:-1] if pose else outputs
    kinds = [torch.cat(branches[0::2], 1), torch.cat(branches[1::2], 1)]
    return [*kinds, outputs[-1]] if pose else kinds


def split_layers(layers: Sequence[nn.Module], *, split_c2f: bool) -> list[nn.Module]:
    """Fused layers, those that can be split as `SplitC2f`."""
    return [_split(layer) if split_c2f and isinstance(layer, C2f) else layer for layer in layers]


def _split(block: C2f) -> SplitC2f:
    split = SplitC2f(block)
    split.f, split.i = block.f, block.i
    return split


def _half(conv: nn.Conv2d, channels: slice) -> nn.Conv2d:
    weight, bias = conv.weight[channels], conv.bias[channels]
    half = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    half.weight = nn.Parameter(weight.detach().clone())
    half.bias = nn.Parameter(bias.detach().clone())
    return half


def _inputs(layer: Any, outputs: list[torch.Tensor], images: torch.Tensor) -> Any:
    """The input of a layer, by the numbers that ultralytics gave it: -1 is the layer before."""
    previous = outputs[-1] if outputs else images
    if isinstance(layer.f, int):
        return previous if layer.f == -1 else outputs[layer.f]
    return [previous if number == -1 else outputs[number] for number in layer.f]


def _rows(branch: torch.Tensor) -> torch.Tensor:
    """[1, C, h, w] to [1, h * w, C]."""
    return branch.permute(0, 2, 3, 1).reshape(1, -1, branch.shape[1])
