"""Whether data set, model and request go together, as soon as they have been read."""

from __future__ import annotations

from kiln.errors import RequestError, WeightsError
from kiln.plan.request import BuildRequest
from stages.results.dataset import Dataset
from stages.results.networks import Network
from stages.yolo import fault_of_skeleton

_TRAINED_ON = "DATA=path/to/data.yaml with the data set that they were trained on"


def check_agreement(request: BuildRequest, data: Dataset | None, weights: Network | None) -> None:
    """Raise RequestError or WeightsError if what is known so far does not go together; None is
    what is not known yet."""
    if data is None:
        return
    if request.skeleton and data.kpt_shape is not None:
        fault = fault_of_skeleton(request.skeleton, data.kpt_shape[0])
        if fault is not None:
            raise RequestError(fault, hint="correct skeleton in kiln.toml")
    if weights is None or request.trains:
        return
    demo = request.data is None
    keypoints = weights.kpt_shape[0] if weights.kpt_shape else None
    differing = differences(data, classes=weights.nc, keypoints=keypoints)
    if differing:
        raise WeightsError(
            f"the weights do not fit the {'demo ' if demo else ''}data set: they have {differing}",
            hint=f"pass {_TRAINED_ON}"
            if demo
            else "pass EPOCHS=n to train them on this data set, with a new head, or "
            f"{_TRAINED_ON}; or correct names and kpt_shape in data.yaml",
        )


def differences(data: Dataset, *, classes: int | None, keypoints: int | None) -> str:
    """What a model has that the data set has not, in words; "" if nothing differs or is known to.

    A data set of poses is a good one for detection: its keypoints are left aside.
    """
    labelled = data.kpt_shape[0] if data.kpt_shape else None
    counts = (
        (classes, "class" if classes == 1 else "classes", data.nc),
        (keypoints, "keypoint" if keypoints == 1 else "keypoints", labelled),
    )
    return " and ".join(
        f"{had} {what} where the data set has {needs}"
        for had, what, needs in counts
        if None not in (had, needs) and had != needs
    )
