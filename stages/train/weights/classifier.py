"""A YOLOv8 classification network whose output is probabilities, its softmax in the graph.

The firmware only ranks what the output holds: it takes its values for percentages.
"""

from __future__ import annotations

import copy

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import torch
from torch import nn
from ultralytics.nn.tasks import ClassificationModel

from stages.train.weights.raw_heads import split_layers

#: The name of the output.
PROBABILITIES = "probabilities"


class Classifier(nn.Module):
    """Images [1, 3, S, S] to the probabilities of the classes [1, nc], all float32.

    Works on a fused copy; ``model`` stays as it is.
    """

    def __init__(self, model: ClassificationModel, *, split_c2f: bool) -> None:
        super().__init__()
        fused = copy.deepcopy(model).eval().fuse(verbose=False)
        layers = list(fused.model)
        self.layers = nn.Sequential(*split_layers(layers[:-1], split_c2f=split_c2f))
        self.head = layers[-1]
        self.output_names = [PROBABILITIES]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        feature = self.head.conv(self.layers(images))
        return self.head.linear(feature.mean((2, 3))).softmax(1)

    def largest_difference(self, model: ClassificationModel, images: torch.Tensor) -> float:
        """The largest difference of a probability from the original network's.

        ``images``: float32 [n, 3, S, S], 0 to 1.
        """
        with torch.no_grad():
            distances = [(model(image)[0] - self(image)).abs().max() for image in images.split(1)]
        return float(torch.stack(distances).max())  # Python's max() would ignore NaN
