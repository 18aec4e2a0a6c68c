"""Whether data set, weights and request go together, as soon as the first two have been read."""

from __future__ import annotations

from kiln.errors import RequestError, WeightsError
from kiln.plan.request import BuildRequest
from stages.results.dataset import Dataset
from stages.results.networks import Network
from stages.yolo import fault_of_skeleton


class Mismatch(WeightsError):
    """Weights that are used as they are have another head than the data set's labels need."""

    def __init__(self, differing: str, *, demo: bool) -> None:
        other = "the demo data set" if demo else "the data set"
        data = "DATA=path/to/data.yaml with the data set that they were trained on"
        super().__init__(
            f"the weights cannot be judged on {other}: they have {differing}",
            hint=f"pass {data}"
            if demo
            else f"pass EPOCHS=n to train them on this data set, with a new head, or {data}; or "
            "correct names and kpt_shape in data.yaml",
        )


def check_agreement(request: BuildRequest, data: Dataset | None, weights: Network | None) -> None:
    """Raise RequestError or Mismatch if what is known so far does not go together; None is what
    is not known yet."""
    if data is None:
        return
    if request.skeleton and data.kpt_shape is not None:
        fault = fault_of_skeleton(request.skeleton, data.kpt_shape[0])
        if fault is not None:
            raise RequestError(f"{fault} (in kiln.toml)", hint="correct skeleton in kiln.toml")
    if weights is None or request.trains:
        return
    differing = _differing(data, weights, demo=request.data is None)
    if differing:
        raise Mismatch(" and ".join(differing), demo=request.data is None)


def _differing(data: Dataset, weights: Network, *, demo: bool) -> list[str]:
    """Counts of the weights and of the data set where they are not the same.

    A data set of poses is a good one for detection: its keypoints are left aside. The demo's
    classes are nobody's: weights of others may be calibrated on its images.
    """
    counts = []
    if not demo and weights.nc != data.nc:
        counts.append((weights.nc, "class", "classes", data.nc))
    if data.kpt_shape is not None and weights.kpt_shape is not None:
        points, labelled = weights.kpt_shape[0], data.kpt_shape[0]
        if points != labelled:
            counts.append((points, "keypoint", "keypoints", labelled))
    return [
        f"{count} {one if count == 1 else many} and it has {other}"
        for count, one, many, other in counts
    ]
