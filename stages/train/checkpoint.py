"""Canonical weights: one safetensors file whose bytes depend on the network alone.

A ``.pt`` is a pickle (it runs code when opened) and holds dates and paths. Ours holds the unfused
float32 state dict and one metadata key, ``kiln``: canonical JSON of what the network is. Only one
key, because safetensors writes several in random order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import stages.train.quiet  # noqa: F401 - before anything of ultralytics

# isort: split
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, PoseModel
from ultralytics.utils.torch_utils import initialize_weights

from stages.contract import StepFailed
from stages.train.architecture import canonical_architecture, check_architecture

Task = Literal["pose", "detect"]
METADATA_KEY = "kiln"
_NOT_OURS = (
    "pass WEIGHTS=path/to/best.pt of ultralytics, or a weights.safetensors that Kiln has written"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """What a network is.

    ``model`` is the ultralytics yaml as a table; ``kpt_shape`` is (keypoints, values each) and
    None for detect; ``stride`` is pixels a cell of each head; ``imgsz`` is the size in pixels
    that it was trained at, if known.
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
    def model_name(self) -> str:
        """The name of the architecture, such as yolov8n-pose."""
        suffix = "-pose" if self.task == "pose" else ""
        return f"yolov8{self.model.get('scale', '')}{suffix}"


def save(path: Path, model: DetectionModel, *, imgsz: int | None = None) -> Meta:
    """Write an unfused ultralytics model; says what it is.

    Raises StepFailed("weights") if its architecture is none that Kiln can export.
    """
    meta = describe(model, imgsz=imgsz)
    state = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous().clone()
        for name, tensor in sorted(model.state_dict().items())
    }
    save_file(state, path, metadata={METADATA_KEY: _to_json(meta)})
    return meta


def describe(model: DetectionModel, *, imgsz: int | None = None) -> Meta:
    """Read off an ultralytics model what it is; raises StepFailed as ``save`` does."""
    table = canonical_architecture(model.yaml)
    names = model.names if isinstance(model.names, dict) else dict(enumerate(model.names))
    meta = Meta(
        task="pose" if isinstance(model, PoseModel) else "detect",
        model=table,
        names=tuple(str(names[number]) for number in sorted(names)),
        kpt_shape=_pair(table.get("kpt_shape")),
        stride=tuple(int(value) for value in model.stride.tolist()),
        imgsz=imgsz,
    )
    check_architecture(meta.model, task=meta.task, nc=meta.nc)
    return meta


def load(path: Path) -> tuple[DetectionModel, Meta]:
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


def build(meta: Meta, state: Mapping[str, torch.Tensor]) -> DetectionModel:
    """A network with these weights, names and strides set as after a training; eval mode.

    Raises RuntimeError if the tensors do not fit.
    """
    table = json.loads(json.dumps(dict(meta.model)))  # ultralytics changes the table it is given
    model = (PoseModel if meta.task == "pose" else DetectionModel)(table, verbose=False)
    model.names = dict(enumerate(meta.names))
    model.task = meta.task
    _widen_class_branch(model, state)
    model.load_state_dict(dict(state), strict=True)
    return model.eval()


def _widen_class_branch(model: DetectionModel, state: Mapping[str, torch.Tensor]) -> None:
    """Give the class branch the width of the saved one.

    Trained on from weights of more classes, ultralytics 8.4 keeps their wider branch (80 channels
    for 80 classes, where fewer than 65 need 64); its yaml does not say so, only the tensors do.
    """
    number = len(model.model) - 1
    head = model.model[number]
    saved = state.get(f"model.{number}.cv3.0.0.conv.weight")
    if saved is None or saved.shape[0] == head.cv3[0][0].conv.out_channels:
        return
    width = int(saved.shape[0])
    head.cv3 = nn.ModuleList(
        nn.Sequential(
            Conv(branch[0].conv.in_channels, width, 3),
            Conv(width, width, 3),
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    if table["task"] not in ("pose", "detect"):
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
