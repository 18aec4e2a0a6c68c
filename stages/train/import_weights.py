"""Takes in weights that a user brings: a ``.pt`` of ultralytics, or a file that Kiln wrote."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stages.train.quiet  # noqa: F401 - before anything of ultralytics

# isort: split
import torch
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, PoseModel, torch_safe_load

from stages.contract import Events, Job, StepFailed, main
from stages.train import checkpoint

#: The docker executor sets it: there, a pickle that runs code finds nothing to reach.
WALLED = "KILN_WALLED"
_TASKS: dict[type[nn.Module], checkpoint.Task] = {PoseModel: "pose", DetectionModel: "detect"}
_ASK_FOR_PT = "pass WEIGHTS=path/to/best.pt, as ultralytics writes it in runs/…/weights"
#: What people pass by mistake, told by how it begins.
_OTHER_FORMATS = (
    (0, b"<", "a web page: the download went wrong"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (4, b"TFL3", "a TFLite model, which is already converted"),
    (0, b"\x89HDF", "a Keras model"),
    (0, b"\x08", "an ONNX model, which is already converted"),
)


def run(job: Job, events: Events) -> dict[str, Any]:
    """Write weights.safetensors; raises StepFailed("weights") or ("model")."""
    task = job.params["task"]
    trusted = bool(job.params.get("trust")) or os.environ.get(WALLED) == "1"
    ours = job.inputs / "weights.safetensors"
    if ours.exists():
        model, known = checkpoint.load(ours)
        _check_task(known.task, task)
        imgsz = known.imgsz
    else:
        model, imgsz = _read_pt(job.inputs / "weights.pt", task, trusted, events)
    _check_finite(model)
    meta = checkpoint.save(job.out / "weights.safetensors", model, imgsz=imgsz)
    return {
        "task": meta.task,
        "nc": meta.nc,
        "names": list(meta.names),
        "kpt_shape": list(meta.kpt_shape) if meta.kpt_shape else None,
        "model": meta.model_name,
        "parameters": sum(each.numel() for each in model.parameters()),
        "versions": {package: version(package) for package in ("ultralytics", "torch")},
    }


def _read_pt(
    path: Path, task: str, trusted: bool, events: Events
) -> tuple[DetectionModel, int | None]:
    """The network of a checkpoint, built anew from its yaml, and the size it was trained at."""
    _check_format(path)
    content = _load(path, trusted, events)
    saved = content.get("ema") or content.get("model")
    if not isinstance(saved, nn.Module):
        raise StepFailed(
            "weights",
            "the weights are bare tensors: they do not say what network they belong to",
            hint=_ASK_FOR_PT,
        )
    found = _TASKS.get(type(saved))
    if found is None:
        kind = type(saved).__name__
        raise StepFailed(
            "weights",
            f"the weights are of a {kind}, and TASK={task} was asked for",
            hint="use detect or pose weights of YOLOv8",
        )
    _check_task(found, task)
    meta = checkpoint.describe(saved, imgsz=_imgsz(content))
    return _rebuilt(saved, meta), meta.imgsz


def _rebuilt(saved: DetectionModel, meta: checkpoint.Meta) -> DetectionModel:
    """The same function, of today's classes; raises StepFailed if it would be another one."""
    try:
        model = checkpoint.build(meta, saved.float().state_dict())
    except RuntimeError as error:
        fused = not any(isinstance(each, nn.BatchNorm2d) for each in saved.modules())
        raise StepFailed(
            "weights",
            "the weights are fused: their batch normalisation has been folded away"
            if fused
            else f"the weights do not fit the architecture {meta.model_name} that they name: "
            f"{str(error).splitlines()[-1].strip()}",
            hint=_ASK_FOR_PT if fused else "pruned or hand-changed networks cannot be imported",
        ) from error
    differing = _activations(saved).items() ^ _activations(model).items()
    if differing:
        raise StepFailed(
            "weights",
            f"the network was changed after it was built: {min(differing)[0]} has another "
            "activation than its yaml says",
            hint="name it in the model's yaml, activation: nn.ReLU(), and train again",
        )
    return model


def _check_format(path: Path) -> None:
    """Say what a file is that cannot be a checkpoint."""
    with path.open("rb") as stream:
        start = stream.read(64)
    if not start:
        raise StepFailed("weights", "the weights file is empty", hint=_ASK_FOR_PT)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
            damaged = _damaged_member(archive)
        if "constants.pkl" in names:
            raise StepFailed(
                "weights", "the weights file is a TorchScript export", hint=_ASK_FOR_PT
            )
        if "data.pkl" not in names:
            raise StepFailed(
                "weights", "the weights file is a zip archive without a network", hint=_ASK_FOR_PT
            )
        if damaged:  # torch itself does not look at the checksums
            raise StepFailed(
                "weights",
                f"the weights file is damaged: the checksum of {damaged} is wrong",
                hint="copy or download it again",
            )
        return
    if start.startswith(b"PK"):
        raise StepFailed(
            "weights", "the weights file is cut short", hint="copy or download it again"
        )
    for offset, mark, what in _OTHER_FORMATS:
        if start[offset:].startswith(mark):
            raise StepFailed("weights", f"the weights file is {what}", hint=_ASK_FOR_PT)
    raise StepFailed(
        "weights", "the weights file is no checkpoint of PyTorch, or is damaged", hint=_ASK_FOR_PT
    )


def _damaged_member(archive: zipfile.ZipFile) -> str | None:
    try:
        return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return str(error)


def _load(path: Path, trusted: bool, events: Events) -> dict[str, Any]:
    """Unpickle, known classes only; a pickle that asks for more runs code, so ask first."""
    try:
        content, _path = torch_safe_load(path, safe_only=True)
    except Exception as error:
        strangers = _strangers(path, error)
        if not strangers:
            raise _damaged(error) from error
        if not trusted:
            raise StepFailed(
                "weights",
                f"opening the weights would run code: they ask for {strangers}",
                hint="if you know where they come from, pass TRUST_WEIGHTS=1, or EXECUTOR=docker, "
                "which walls the code in",
            ) from error
        events.warning(f"the weights ran code of their own when opened: {strangers}")
        content = _load_trusted(path)
    if not isinstance(content, dict):
        raise StepFailed("weights", "the weights file holds no checkpoint", hint=_ASK_FOR_PT)
    return content


def _load_trusted(path: Path) -> Any:
    try:
        return torch_safe_load(path, safe_only=False)[0]
    except Exception as error:  # whatever foreign code raises
        raise _damaged(error) from error


def _strangers(path: Path, error: Exception) -> str:
    """What a refused pickle asks for beyond layers of networks; "" if it was not refused."""
    if not isinstance(error.__cause__ or error, pickle.UnpicklingError):
        return ""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if any(name.startswith("models.") for name in names):
        raise StepFailed(
            "weights",
            "the weights are of the YOLOv5 repository, which has another head",
            hint="use weights of YOLOv8",
        ) from error
    known = ("torch.nn.", "ultralytics.nn.")
    return ", ".join(sorted(name for name in names if not name.startswith(known))[:3])


def _damaged(error: Exception) -> StepFailed:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
    return StepFailed("weights", f"the weights cannot be read: {reason}", hint=_ASK_FOR_PT)


def _check_task(found: str, asked: str) -> None:
    if found != asked:
        raise StepFailed(
            "weights",
            f"the weights are of a {found} network, and TASK={asked} was asked for",
            hint=f"pass TASK={found}, or {asked} weights",
        )


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise StepFailed(
                "weights",
                f"the weights are spoilt: {name} holds numbers that are not finite",
                hint="the training diverged; take an earlier checkpoint or train again",
            )


def _activations(model: nn.Module) -> dict[str, str]:
    return {
        name: type(module.act).__name__
        for name, module in model.named_modules()
        if isinstance(module, Conv)
    }


def _imgsz(content: dict[str, Any]) -> int | None:
    size = (content.get("train_args") or {}).get("imgsz")
    return size if isinstance(size, int) else None


if __name__ == "__main__":
    main(run)
