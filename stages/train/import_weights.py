"""Import a user's weights: a ``.pt`` of ultralytics, or a file that Kiln wrote.

``params``: task, trust (bool; whether a pickle may run code), perhaps activation (relu: what the
network must have). ``in/``: weights.pt or weights.safetensors. ``out/``: weights.safetensors.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import torch
from torch import nn
from ultralytics.nn.tasks import torch_safe_load

from stages.contract import Events, Job, StepFailed, main
from stages.results.dataset import Task
from stages.results.import_weights import ImportResult
from stages.train.weights import checkpoint
from stages.train.weights.pickle_reader import (
    Pickled,
    class_name,
    modules_of,
    plain,
    read_pickled,
    tensors_of,
)

#: Set by the docker executor: code that a pickle runs there reaches nothing outside.
SANDBOXED = "KILN_SANDBOXED"
_TASKS: dict[str, Task] = {
    "ultralytics.nn.tasks.PoseModel": "pose",
    "ultralytics.nn.tasks.DetectionModel": "detect",
    "ultralytics.nn.tasks.ClassificationModel": "classify",
}
#: Classes and functions in checkpoints of ultralytics, old ones too.
_KNOWN = re.compile(
    r"ultralytics\..+|torch\.nn\..+|torch\._utils\._rebuild_\w+"
    r"|torch\.(\w+Storage|b?float\d+|u?int\d+|bool|Size|device|Tensor)"
    r"|torch\.(serialization\._get_layout|torch_version\.TorchVersion)"
    r"|torchvision\.transforms\.(functional|transforms)\.\w+"  # a classifier's own preprocessing
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|(builtins|__builtin__)\.(getattr|set|frozenset|slice|bytearray|complex)|_codecs\.encode"
    r"|collections\.(OrderedDict|defaultdict|Counter)|pathlib\.(_local\.)?\w+|argparse\.Namespace"
)
_MAX_PICKLE_BYTES = 16 << 20
_ASK_FOR_PT = "pass WEIGHTS=path/to/best.pt, as ultralytics writes it in runs/…/weights"
_COPY_AGAIN = "copy or download it again"
#: Files that people pass by mistake: offset and content of their marks.
_OTHER_FORMATS = (
    (0, b"<", "a web page: the download went wrong"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (4, b"TFL3", "a TFLite model, which is already converted"),
    (0, b"\x89HDF", "a Keras model"),
    (0, b"\x08", "an ONNX model, which is already converted"),
)


def run(job: Job, events: Events) -> ImportResult:
    """Write weights.safetensors; raises StepFailed("weights") or ("model")."""
    task = job.params["task"]
    trusted = bool(job.params.get("trust")) or os.environ.get(SANDBOXED) == "1"
    ours = job.inputs / "weights.safetensors"
    if ours.exists():
        model, known = checkpoint.load(ours)
        _check_task(known.task, task)
        imgsz = known.imgsz
    else:
        model, imgsz = _read_pt(job.inputs / "weights.pt", task, trusted, events)
    _check_finite(model)
    meta = checkpoint.save(job.out / "weights.safetensors", model, imgsz=imgsz)
    _check_activation(meta, job.params.get("activation", meta.activation))
    return ImportResult(
        task=meta.task,
        nc=meta.nc,
        names=meta.names,
        kpt_shape=meta.kpt_shape,
        model=meta.model_name,
        parameters=sum(each.numel() for each in model.parameters()),
        versions={package: version(package) for package in ("ultralytics", "torch")},
    )


def _read_pt(
    path: Path, task: str, trusted: bool, events: Events
) -> tuple[checkpoint.Model, int | None]:
    """The network of a checkpoint, built again from its yaml, and its training image size."""
    _check_format(path)
    content = _load(path, trusted, events)
    saved = content.get("ema") or content.get("model")
    if isinstance(saved, dict) or not hasattr(saved, "__dict__"):
        raise StepFailed(
            "weights",
            "the weights are bare tensors: they do not say what network they belong to",
            hint=_ASK_FOR_PT,
        )
    kind = class_name(saved)
    if kind not in _TASKS:
        raise StepFailed(
            "weights",
            f"the weights are of a {kind.rpartition('.')[2]}, and TASK={task} was asked for",
            hint="use detect, pose or classify weights of YOLOv8",
        )
    _check_task(_TASKS[kind], task)
    try:
        modules = modules_of(saved)
        state = tensors_of(modules)
        fields = vars(saved)
        table, names = plain(fields["yaml"]), plain(fields["names"])
        stride = fields["stride"].tolist()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _damaged(error) from error
    meta = checkpoint.meta_of(
        task=_TASKS[kind], table=table, names=names, stride=stride, imgsz=_imgsz(content)
    )
    return _rebuilt(modules, state, meta), meta.imgsz


def _rebuilt(
    modules: Mapping[str, object], state: Mapping[str, torch.Tensor], meta: checkpoint.Meta
) -> checkpoint.Model:
    """The same network, of the installed classes; raises StepFailed if it would differ."""
    try:
        model = checkpoint.build(meta, state)
    except RuntimeError as error:
        fused = not any(type(each).__name__ == "BatchNorm2d" for each in modules.values())
        raise StepFailed(
            "weights",
            "the weights are fused: their batch normalisation has been folded away"
            if fused
            else f"the weights do not fit the architecture {meta.model_name} that they name: "
            f"{str(error).splitlines()[-1].strip()}",
            hint=_ASK_FOR_PT if fused else "pruned or hand-changed networks cannot be imported",
        ) from error
    differing = _activations(modules).items() ^ _activations(modules_of(model)).items()
    if differing:
        raise StepFailed(
            "weights",
            f"the network was changed after it was built: {min(differing)[0]} has another "
            "activation than its yaml says",
            hint="name it in the model's yaml, activation: nn.ReLU(), and train again"
            if meta.activation == "silu"
            else "ultralytics takes the class branch of start weights with their activation: train "
            "from nothing, or from weights with the activation of the yaml",
        )
    return model


def _check_format(path: Path) -> None:
    """Raise StepFailed if a file cannot be a checkpoint, with what it is."""
    with path.open("rb") as stream:
        start = stream.read(64)
    if not start:
        raise StepFailed("weights", "the weights file is empty", hint=_ASK_FOR_PT)
    if zipfile.is_zipfile(path):
        _check_archive(path)
        return
    if start.startswith(b"PK"):
        raise StepFailed("weights", "the weights file is cut short", hint=_COPY_AGAIN)
    for offset, mark, what in _OTHER_FORMATS:
        if start[offset:].startswith(mark):
            raise StepFailed("weights", f"the weights file is {what}", hint=_ASK_FOR_PT)
    raise StepFailed(
        "weights", "the weights file is no checkpoint of PyTorch, or is damaged", hint=_ASK_FOR_PT
    )


def _check_archive(path: Path) -> None:
    """Raise StepFailed unless a zip archive is a whole checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # PyTorch does not compress: a file that is larger unpacked may be a zip bomb.
            larger = sum(member.file_size for member in members) > path.stat().st_size
            damaged = "its members are compressed" if larger else _wrong_checksum(archive)
    except (zipfile.BadZipFile, ValueError) as error:
        raise StepFailed(
            "weights", f"the weights file is damaged: {error}", hint=_COPY_AGAIN
        ) from error
    files = [member.filename.rpartition("/")[2] for member in members]
    if "constants.pkl" in files:
        raise StepFailed("weights", "the weights file is a TorchScript export", hint=_ASK_FOR_PT)
    if files.count("data.pkl") != 1:
        raise StepFailed(
            "weights", "the weights file is a zip archive without a network", hint=_ASK_FOR_PT
        )
    if damaged:
        raise StepFailed("weights", f"the weights file is damaged: {damaged}", hint=_COPY_AGAIN)


def _wrong_checksum(archive: zipfile.ZipFile) -> str:
    """What is wrong with the first member whose checksum does not match; "" if all do."""
    try:
        member = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return str(error)
    return f"the checksum of {member} is wrong" if member else ""


def _load(path: Path, trusted: bool, events: Events) -> dict[str, Any]:
    """Read a checkpoint as data, or run it if it names code that networks do not need and the user
    trusts it."""
    pickled = _read(path)
    unknown = sorted(name for name in pickled.names if not _KNOWN.fullmatch(name))
    content = pickled.content
    if unknown:
        asked = ", ".join(unknown[:3])
        if any(name.startswith("models.") for name in unknown):
            raise StepFailed(
                "weights",
                "the weights are of the YOLOv5 repository, which has another head",
                hint="use weights of YOLOv8",
            )
        if not trusted:
            raise StepFailed(
                "weights",
                f"opening the weights would run code: they ask for {asked}",
                hint="if you know where they come from, pass TRUST_WEIGHTS=1, or EXECUTOR=docker, "
                "which runs the code in a sandbox",
            )
        events.warning(f"the weights ran code of their own when opened: {asked}")
        content = _load_trusted(path)
    if not isinstance(content, dict):
        raise StepFailed("weights", "the weights file holds no checkpoint", hint=_ASK_FOR_PT)
    return content


def _read(path: Path) -> Pickled:
    """The data.pkl of a checkpoint, without running it; raises StepFailed."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(each for each in archive.infolist() if each.filename.endswith("data.pkl"))
            if member.file_size > _MAX_PICKLE_BYTES:
                raise ValueError("its description is larger than that of any network")
            return read_pickled(archive, member.filename)
    except Exception as error:  # a damaged pickle may raise anything
        raise _damaged(error) from error


def _load_trusted(path: Path) -> Any:
    try:
        return torch_safe_load(path, safe_only=False)[0]
    except Exception as error:  # foreign code may raise anything
        raise _damaged(error) from error


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


def _check_activation(meta: checkpoint.Meta, asked: str) -> None:
    if meta.activation != asked:
        raise StepFailed(
            "weights",
            f"the weights are of a {meta.model_name}, whose activation is {meta.activation}, and "
            f"MODEL asks for {asked}",
            hint="leave MODEL out to take them as they are, or pass EPOCHS=n to train them further "
            f"with {asked}",
        )


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise StepFailed(
                "weights",
                f"the weights are spoilt: {name} holds numbers that are not finite",
                hint="the training diverged; take an earlier checkpoint or train again",
            )


def _activations(modules: Mapping[str, object]) -> dict[str, str]:
    """The class of each convolution's activation, by the convolution's name."""
    return {
        name: type(modules.get(f"{name}.act")).__name__
        for name, module in modules.items()
        if type(module).__name__ == "Conv"
    }


def _imgsz(content: Mapping[str, Any]) -> int | None:
    arguments = content.get("train_args")
    size = arguments.get("imgsz") if isinstance(arguments, dict) else None
    return size if isinstance(size, int) else None


if __name__ == "__main__":
    main(run)
