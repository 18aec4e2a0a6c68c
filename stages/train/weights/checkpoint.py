"""Kiln's weights file: a safetensors file whose bytes depend on the network alone.

A ``.pt`` is a pickle, which runs code when opened, and holds dates and paths. A weights file holds
the unfused float32 state dict and one metadata key, ``kiln``: canonical JSON that describes the
network. Only one key, because safetensors writes several in random order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from ultralytics.nn.modules import Concat, Conv
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, PoseModel, parse_model
from ultralytics.utils.torch_utils import initialize_weights

from stages.contract import StepFailed
from stages.results.dataset import Task
from stages.train.weights.architecture import (
    CHANNELS,
    activation_of,
    canonical_architecture,
    check_architecture,
)

#: A network of ultralytics that Kiln knows; one for poses is a DetectionModel too.
Model: TypeAlias = DetectionModel | ClassificationModel

METADATA_KEY = "kiln"
_CLASSES: Mapping[Task, type[Model]] = {
    "pose": PoseModel,
    "detect": DetectionModel,
    "classify": ClassificationModel,
}
#: What ultralytics appends to the name of an architecture for a task.
SUFFIXES: Mapping[Task, str] = {"pose": "-pose", "detect": "", "classify": "-cls"}
#: Ultralytics measures the strides with an image of this side, in pixels.
_STRIDE_SIDE = 256
#: Most values in a layer's output for that image; yolov8x's first layer has 2 million.
_MAX_FEATURE = 1 << 26
#: Built from its description, a network has about as many numbers as its saved weights.
_MAX_GROWTH = 2
#: The class branch is as wide as the layer below it, or as the number of classes, up to 100.
_WIDEST_CLASS_BRANCH = 100
_NOT_OURS = (
    "pass WEIGHTS=path/to/best.pt of ultralytics, or a weights.safetensors that Kiln has written"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """The description of a network.

    ``model`` is the ultralytics yaml as a table; ``kpt_shape`` is (keypoints, values each) and
    None for other tasks than pose; ``stride`` is pixels a cell of each head, (1,) for classify;
    ``imgsz`` is the side in pixels of the images that it was trained on, if known.
    """

    task: Task
    model: Mapping[str, Any]
    names: tuple[str, ...]
    kpt_shape: tuple[int, int] | None
    stride: tuple[int, ...]
    imgsz: int | None

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def activation(self) -> str:
        """The activation of the layers, such as silu."""
        return activation_of(self.model)

    @property
    def model_name(self) -> str:
        """The name of the architecture, such as yolov8n-pose or yolov8n-relu-pose."""
        other = "" if self.activation == "silu" else f"-{self.activation}"
        return f"yolov8{self.model.get('scale', '')}{other}{SUFFIXES[self.task]}"


def save(path: Path, model: Model, *, imgsz: int | None = None) -> Meta:
    """Write an unfused ultralytics model; the description that was written.

    Raises StepFailed("weights") if Kiln cannot export its architecture.
    """
    meta = describe(model, imgsz=imgsz)
    state = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous().clone()
        for name, tensor in sorted(model.state_dict().items())
    }
    save_file(state, path, metadata={METADATA_KEY: _to_json(meta)})
    return meta


def describe(model: Model, *, imgsz: int | None = None) -> Meta:
    """The description of an ultralytics model; raises StepFailed as ``save`` does."""
    return meta_of(
        task=next(task for task, each in _CLASSES.items() if isinstance(model, each)),
        table=model.yaml,
        names=model.names,
        stride=model.stride.tolist(),
        imgsz=imgsz,
    )


def meta_of(
    *,
    task: Task,
    table: Mapping[str, Any],
    names: Mapping[int, str] | Sequence[str],
    stride: Sequence[float],
    imgsz: int | None,
) -> Meta:
    """The description of a network from its parts; raises StepFailed as ``save`` does."""
    try:
        kept = canonical_architecture(table)
        named = names if isinstance(names, Mapping) else dict(enumerate(names))
        meta = Meta(
            task=task,
            model=kept,
            names=tuple(str(named[number]) for number in sorted(named)),
            kpt_shape=_pair(kept.get("kpt_shape")),
            stride=tuple(int(value) for value in stride),
            imgsz=imgsz,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StepFailed(
            "weights", f"the description of the network is damaged: {error}", hint=_NOT_OURS
        ) from error
    check_architecture(meta.model, task=meta.task, nc=meta.nc)
    return meta


def load(path: Path) -> tuple[Model, Meta]:
    """Build the network of a weights file, in eval mode on the CPU.

    Raises StepFailed("weights") if the file is damaged, not ours, or its tensors do not fit.
    """
    state, meta = _read(path)
    try:
        model = build(meta, state)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        last = (str(error).splitlines() or [repr(error)])[-1]
        raise StepFailed(
            "weights",
            f"{path.name} does not fit its own architecture {meta.model_name}: {last.strip()}",
            hint=_NOT_OURS,
        ) from error
    return model.eval(), meta


def build(meta: Meta, state: Mapping[str, torch.Tensor]) -> Model:
    """A network with these weights, names and strides as after a training, in eval mode.

    Raises RuntimeError if the tensors do not fit.
    """
    _check_size(meta.model, sum(tensor.numel() for tensor in state.values()))
    model = _CLASSES[meta.task](_copy(meta.model), verbose=False)
    model.names = dict(enumerate(meta.names))
    model.task = meta.task
    if isinstance(model, DetectionModel):
        _widen_class_branch(model, state)
    model.load_state_dict(dict(state), strict=True)
    return model.eval()


def _check_size(table: Mapping[str, Any], saved: int) -> None:
    """Raise RuntimeError for a network that is too large for weights of ``saved`` numbers.

    A description of a few lines can ask for more memory than there is. On torch's meta device,
    which knows only shapes, a network of any size takes no memory.
    """
    try:
        with torch.device("meta"):
            # Without the head: its sizes are checked, and on this device building it takes seconds.
            below = {**_copy(table), "head": table["head"][:-1]}
            layers, _kept = parse_model(below, ch=CHANNELS, verbose=False)
        numbers = sum(tensor.numel() for tensor in layers.state_dict().values())
        largest = max(width * side**2 for width, side in _feature_sizes(layers))
    except Exception as error:  # layers that do not fit each other may raise anything
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise RuntimeError(f"its description makes no network: {reason:.200}") from error
    if numbers > _MAX_GROWTH * saved or largest > _MAX_FEATURE:
        raise RuntimeError(f"its description is of a network larger than {saved} numbers")


def _feature_sizes(layers: nn.Sequential) -> Iterator[tuple[int, int]]:
    """Channels and side of each layer's output for the image with which strides are measured."""
    sizes: list[tuple[int, int]] = []
    for layer in layers:
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        inputs = [sizes[source] if sizes else (CHANNELS, _STRIDE_SIDE) for source in sources]
        width, side = inputs[0]
        last = layer[-1] if isinstance(layer, nn.Sequential) else layer
        if isinstance(last, Concat):
            width = sum(each for each, _side in inputs)
        elif isinstance(last, nn.Upsample):
            side *= 2
        elif isinstance(last, Conv):
            width, side = last.conv.out_channels, side // last.conv.stride[0]
        else:
            width = last.cv2.conv.out_channels
        sizes.append((width, side))
        yield width, side


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    """A copy for ultralytics, which changes the table that it is given."""
    copied: dict[str, Any] = json.loads(json.dumps(dict(table)))
    return copied


def _widen_class_branch(model: DetectionModel, state: Mapping[str, torch.Tensor]) -> None:
    """Give the class branch the width of the saved one.

    When ultralytics 8.4 trains from weights of more classes, it keeps their wider branch (80
    channels for 80 classes, while fewer than 65 classes need 64); only the tensors show that, its
    yaml does not.
    """
    number = len(model.model) - 1
    head = model.model[number]
    saved = state.get(f"model.{number}.cv3.0.0.conv.weight")
    built = head.cv3[0][0].conv
    width = built.out_channels if saved is None else int(saved.shape[0])
    if width == built.out_channels or width > max(built.in_channels, _WIDEST_CLASS_BRANCH):
        return
    head.cv3 = nn.ModuleList(
        nn.Sequential(
            Conv(branch[0].conv.in_channels, width, 3, act=branch[0].act),
            Conv(width, width, 3, act=branch[1].act),
            nn.Conv2d(width, head.nc, 1),
        )
        for branch in head.cv3
    )
    initialize_weights(model)  # sets the batch normalisations' eps, which is part of the function


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Meta]:
    try:
        with safe_open(path, "pt") as stream:
            text = (stream.metadata() or {}).get(METADATA_KEY)
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise StepFailed(
            "weights", f"{path.name} cannot be read as safetensors: {error}", hint=_NOT_OURS
        ) from error
    if text is None:
        raise StepFailed(
            "weights",
            f"{path.name} is a safetensors file, but Kiln has not written it: "
            f"it does not say what network its tensors belong to",
            hint=_NOT_OURS,
        )
    try:
        meta = _from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StepFailed(
            "weights", f"the description inside {path.name} is damaged: {error!r}", hint=_NOT_OURS
        ) from error
    check_architecture(meta.model, task=meta.task, nc=meta.nc)
    return state, meta


def _to_json(meta: Meta) -> str:
    table = {**dataclasses.asdict(meta), "nc": meta.nc}
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _from_json(text: str) -> Meta:
    table = json.loads(text)
    if table["task"] not in _CLASSES:
        raise ValueError(f"task {table['task']!r}")
    return Meta(
        task=table["task"],
        model=canonical_architecture(table["model"]),
        names=tuple(str(name) for name in table["names"]),
        kpt_shape=_pair(table["kpt_shape"]),
        stride=tuple(int(value) for value in table["stride"]),
        imgsz=table["imgsz"],
    )


def _pair(value: Sequence[int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, second = value
    return int(first), int(second)
