"""Run in the train environment: makes weights that mean harm, and has the step import each.

Argv: a folder. Prints what the step said to each file, as one JSON object.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.modules.block import TorchVision
from ultralytics.nn.tasks import PoseModel

from stages.contract import Events, Job, StepFailed
from stages.train import import_weights
from stages.train.weights import checkpoint

FOLDER = Path(sys.argv[1])
CANARY = FOLDER / "canary"
CODE = f"__import__('os').system('touch {CANARY}')"


class Call:
    """Pickled as the call of a function, which a reader of pickles makes."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._call


SOUND = PoseModel("yolov8n-pose.yaml", verbose=False).half()
SOUND.names = {0: "person"}


def network(change: Callable[[Any], None]) -> Any:
    model = copy.deepcopy(SOUND)
    change(model)
    return model


def described(**changes: object) -> Any:
    """A network that says something else of itself."""

    def change(model: Any) -> None:
        model.yaml = {**model.yaml, **changes}

    return network(change)


def row(number: int, *values: object) -> Any:
    """A network with another layer in its description."""
    table = copy.deepcopy(SOUND.yaml)
    table["backbone"][number] = list(values)
    return described(backbone=table["backbone"])


def grown(layer: list[object], times: int) -> Any:
    table = SOUND.yaml
    return described(backbone=[*table["backbone"], *[layer] * times])


def laughs() -> list[object]:
    """Ten lists that are a terabyte when written out."""
    value: list[object] = ["ha"]
    for _ in range(10):
        value = [value] * 20
    return value


def ring(model: Any) -> None:
    model._modules["again"] = model


def twins(model: Any) -> None:
    """A module of 60 levels that holds the next one twice: 2 ** 60 of them."""
    inner = torch.nn.Module()
    for _ in range(60):
        outer = torch.nn.Module()
        outer._modules |= {"a": inner, "b": inner}
        inner = outer
    model._modules["more"] = inner


def endless(model: Any) -> None:
    weight = torch.zeros(1).as_strided((1 << 20, 1 << 20), (0, 0))
    model.model[0].conv._parameters["weight"] = weight


def raw(name: str, pickled: bytes, *more: str, method: int = zipfile.ZIP_STORED) -> None:
    """An archive as torch writes it, around any bytes."""
    with zipfile.ZipFile(FOLDER / name, "w", method) as archive:
        for member in ("archive/data.pkl", *more):
            archive.writestr(member, pickled)
        archive.writestr("archive/version", "3")


def pickles() -> Iterator[tuple[str, object]]:
    """What is called when they are opened."""
    student = torch.nn.Identity()
    student.yaml = {}
    torch.save({"model": Call(os.system, f"touch {CANARY}")}, FOLDER / "inner.pt")
    yield "system.pt", Call(os.system, f"touch {CANARY}")
    yield "eval.pt", Call(eval, CODE)
    yield "partial.pt", Call(functools.partial, os.system, f"touch {CANARY}")
    yield "getattr.pt", Call(getattr, PoseModel, "load")
    yield "hub.pt", Call(torch.hub.load, "nobody/nothing", "model")
    yield "numpy.pt", Call(np.load, str(FOLDER / "inner.npy"), None, True)
    yield "another.pt", Call(DistillationModel, str(FOLDER / "inner.pt"), student)
    yield "download.pt", Call(TorchVision, "resnet18")


def networks() -> Iterator[tuple[str, object]]:
    """What is evaluated, or takes the memory, when they are built."""
    yield "path.pt", network(lambda model: setattr(model, "yaml", "/etc/passwd"))
    yield "activation.pt", described(activation=f"nn.ReLU() if {CODE} else nn.ReLU()")
    yield "digit.pt", described(activation="nn.ReLU(007)")
    yield "argument.pt", row(0, -1, 1, "Conv", [CODE, 3, 2])
    yield "layer.pt", row(0, -1, 1, "torchvision.ops.MLP", [3, [8]])
    yield "list.pt", row(0, -1, 1, ["Conv"], [64, 3, 2])
    yield "repeats.pt", row(0, -1, 10**9, "Conv", [64, 3, 2])
    yield "pools.pt", row(9, -1, 1, "SPPF", [1024, 5, 10**9])
    yield "channels.pt", row(0, -1, 1, "Conv", [10**9, 3, 2])
    yield "depth.pt", described(scales={"n": [1e9, 0.25, 1024]})
    yield "upsampled.pt", grown([-1, 1, "nn.Upsample", [None, 2, "nearest"]], 40)
    yield "joined.pt", grown([[-1, -1, -1, -1], 1, "Concat", [1]], 40)
    yield "keypoints.pt", described(kpt_shape=[10**9, 3])
    yield "laughs.pt", described(head=laughs())
    yield "names.pt", network(lambda model: setattr(model, "names", laughs()))
    yield "ring.pt", network(ring)
    yield "twins.pt", network(twins)
    yield "endless.pt", network(endless)


def archives() -> None:
    """What torch would never write."""
    raw("remembered.pt", b"\x80\x02}r\xff\xff\xff\x7f.")
    raw("nested.pt", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    raw("dill.pt", b"\x80\x02cdill._dill\n_create_function\n.")
    raw("long.pt", b"\x80\x02\x8e" + struct.pack("<Q", 1 << 40) + b".")
    raw("two.pt", pickle.dumps({}, 2), "other/data.pkl")
    raw("packed.pt", bytes(1 << 26), method=zipfile.ZIP_DEFLATED)
    (FOLDER / "header.safetensors").write_bytes(struct.pack("<Q", 10 << 30) + b"{}")
    save_file({"a": torch.zeros(1)}, FOLDER / "types.safetensors", {"kiln": '{"task": []}'})
    sound = FOLDER / "sound.safetensors"
    checkpoint.save(sound, SOUND)
    with safe_open(sound, "pt") as stream:
        said = json.loads(stream.metadata()["kiln"])
        state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    said["model"]["activation"] = CODE
    save_file(state, FOLDER / "code.safetensors", {"kiln": json.dumps(said)})


def answer(path: Path) -> list[object]:
    """Kind, message and warnings of the step."""
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    for name in ("in", "out", "state"):
        (folder / name).mkdir()
    (folder / f"in/weights{path.suffix}").symlink_to(path)
    job = Job(step="import", params={"task": "pose", "trust": False}, folder=folder)
    events = io.StringIO()
    try:
        import_weights.run(job, Events(events))
    except StepFailed as error:
        return [error.kind, error.message, events.getvalue()]
    return ["taken", "", events.getvalue()]


def main() -> None:
    for name, made in pickles():
        torch.save({"model": made}, FOLDER / name)
    for name, made in networks():
        torch.save({"model": made}, FOLDER / name)
    archives()
    files = sorted([*FOLDER.glob("*.pt"), *FOLDER.glob("*.safetensors")])
    sys.stdout.write(json.dumps({path.name: answer(path) for path in files}))


main()
