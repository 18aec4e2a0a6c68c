"""Stands in for every step: real contract, small outputs that follow from what goes in.

A checkout of a test has this in each folder of ``stages/``. Beside that lies ``control/``, where a
step notes what it does and finds its orders: what to do at which of its points.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.contract import Events, Job, Record
from stages.results.check import CheckResult
from stages.results.check_firmware import (
    ArenaUsage,
    Check,
    CheckFirmwareResult,
    FlashUsage,
    ModelDescription,
)
from stages.results.check_firmware import Operators as ModelOperators
from stages.results.compile import CompileResult, Execution, Operators, Traffic
from stages.results.demo import DemoResult
from stages.results.evaluate import EvaluateResult
from stages.results.frames import FramesResult
from stages.results.images import ImagesResult
from stages.results.onnx import OnnxResult
from stages.results.outputs import OutputsResult
from stages.results.quantize import FileSizes, QuantizeResult
from stages.results.train import Device, TrainResult

#: In a container a step sees its inputs' volume alone, and cannot write there.
SANDBOXED = bool(os.environ.get("KILN_SANDBOXED"))
CONTROL = Path("/kiln") if SANDBOXED else Path(__file__).resolve().parents[2] / "control"
EPOCHS = 3

GIVES: Mapping[str, tuple[str, ...]] = {
    "demo": ("data/data.yaml", "data/images/a.png", "data/images/b.png"),
    "check": ("dataset.json",),
    "frames": ("data/images/train/a.bmp", "data/images/val/a.bmp"),
    "train": ("weights.safetensors", "curves.csv"),
    "images": ("calibration.npy", "evaluation/truth.json"),
    "onnx": ("model.onnx",),
    "quantize": ("float32.tflite", "int8.tflite", "reference.npz"),
    "compile": ("vela.tflite", "layers.json"),
    "check-firmware": ("log.txt",),
    "outputs": ("outputs.npz",),
    "evaluate": ("evidence.json",),
}
#: What the driver itself reads of them.
CONTENTS: Mapping[str, bytes] = {
    "curves.csv": b"epoch,box/map50\n1,0.25\n2,0.5\n",
    "layers.json": b"[]",
    "evidence.json": b'{"images": [], "precision_recall": {}, "names": [], "skeleton": []}',
}
_CHECK = Check(
    name="arena", title="tensor arena", figure="294 KiB", limit="1110 KiB", help="", ok=True
)
_NETWORK: Mapping[str, Any] = {"task": "pose", "nc": 1, "names": ("person",), "kpt_shape": (17, 3)}
_COUNTS = {"train": 2, "val": 2}
_VERSIONS = {"stand-in": "1"}
RESULTS: Mapping[str, Record] = {
    "demo": DemoResult(
        task="pose", names=("person",), images=_COUNTS, objects=_COUNTS, versions=_VERSIONS
    ),
    "check": CheckResult(
        **_NETWORK, flip_idx=None, images=_COUNTS, objects=_COUNTS, versions=_VERSIONS
    ),
    "frames": FramesResult(images=_COUNTS, objects=_COUNTS, left_out=0, versions=_VERSIONS),
    "train": TrainResult(
        metrics={"pose/map50": 0.8},
        epochs_run=3,
        best_epoch=3,
        device=Device(name="a stand-in", kind="cpu"),
        reproducible=True,
        why_not=None,
        resumed_from=None,
        tensors_taken_over=None,
        versions=_VERSIONS,
    ),
    "images": ImagesResult(calibration=2, evaluation=2, objects=2, versions=_VERSIONS),
    "onnx": OnnxResult(**_NETWORK, outputs=(), opset=13, macs=1, versions=_VERSIONS),
    "quantize": QuantizeResult(
        inputs=(),
        outputs=(),
        operators={"CONV_2D": 3},
        bytes=FileSizes(float32=4, int8=1),
        calibration_images=2,
        granularity="mixed",
        per_channel_layers=(),
        versions=_VERSIONS,
    ),
    "compile": CompileResult(
        sram_kib=292.9,
        flash_kib=2245.0,
        cycles=27_000_000,
        inference_ms=67.8,
        operators=Operators(npu={"CONV_2D": 3}, cpu={}),
        cpu_operators=(),
        estimator="none",
        performance_model="none",
        accelerator="ethos-u55-64",
        versions=_VERSIONS,
        execution=Execution(images=3, equal=True),
        traffic=Traffic(
            macs=640,
            floor_cycles=10,
            blocks=1,
            flash_bytes=100,
            sram_bytes=200,
            macs_per_cycle=64,
            results_per_cycle=2,
            clock_hz=4e8,
            flash_bytes_per_cycle=0.125,
        ),
    ),
    "check-firmware": CheckFirmwareResult(
        accepted=True,
        checks=(_CHECK,),
        model=ModelDescription(
            kind="vela",
            what="a stand-in",
            task="pose",
            form="raw-heads",
            imgsz=192,
            classes=1,
            keypoints=17,
            input=None,
            outputs=(),
            operators=ModelOperators(npu=1, cpu={}),
            accelerator="ethos-u55-64",
            bytes=1,
        ),
        arena=ArenaUsage(
            used_kib=294.0,
            planned_kib=290.0,
            interpreter_kib=4.0,
            limit_kib=1110,
            source="a stand-in",
        ),
        flash=FlashUsage(used_kib=2245.0, limit_kib=10240),
        interpreter=None,
        versions=_VERSIONS,
    ),
    "outputs": OutputsResult(images=4, versions=_VERSIONS),
    "evaluate": EvaluateResult(
        images=4,
        objects=4,
        artifacts={"float32": {"pose/map50": 0.79}, "int8": {"pose/map50": 0.78}},
        drop={"pose/map50": 1.0},
        classes=(),
        outputs=(),
        seconds={},
        score_threshold=0.001,
        iou_threshold=0.45,
        versions=_VERSIONS,
        equal_to_int8=True,
    ),
}


def run(job: Job, events: Events) -> Record:
    _note(job, "started")
    _point(job, events, "start")
    seed = json.dumps([job.step, dict(job.params), _taken(job.inputs)], sort_keys=True)
    if job.step == "train":
        _epochs(job, events)
    for number, name in enumerate(GIVES[job.step]):
        path = job.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = CONTENTS.get(name) or _bytes(f"{seed} {name}")
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
            stream.flush()
            if number == 0:
                _point(job, events, "middle")
            stream.write(data[len(data) // 2 :])
    sys.stderr.write(f"{job.step} has worked\n")
    _point(job, events, "end")
    return RESULTS[job.step]


def _taken(folder: Path) -> dict[str, str]:
    """Digests of all inputs, wherever their bytes lie."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _files(folder)
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*")):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _bytes(seed: str) -> bytes:
    """64 KiB that look like noise, as weights do."""
    return b"".join(hashlib.sha512(f"{seed} {n}".encode()).digest() for n in range(1024))


def _epochs(job: Job, events: Events) -> None:
    """Work that a later attempt goes on from."""
    done = len(list(job.state.glob("epoch-*")))
    for epoch in range(done + 1, EPOCHS + 1):
        _note(job, f"epoch {epoch}")
        checkpoint = job.state / "unfinished"
        checkpoint.write_text("checkpoint")
        checkpoint.replace(job.state / f"epoch-{epoch}")
        events.progress(epoch, EPOCHS, "epochs")
        _point(job, events, f"epoch {epoch}")


def _note(job: Job, what: str) -> None:
    if SANDBOXED:
        sys.stderr.write(f"note: {job.step} {what}\n")
    else:
        with (CONTROL / "notes").open("a", encoding="utf-8") as stream:
            stream.write(f"{job.step} {what}\n")


def _point(job: Job, events: Events, name: str) -> None:
    orders = CONTROL / "orders.json"
    if not orders.is_file():
        return
    order = json.loads(orders.read_text(encoding="utf-8")).get(f"{job.step} {name}")
    if order:
        _ORDERS[order](events)


def _wait(_events: Events) -> None:
    """Say so, and go on when told to; in a container, wait for the end."""
    if SANDBOXED:
        sys.stderr.write("the step waits\n")
        signal.pause()
    _tell(str(os.getpid()))
    with (CONTROL / "go").open() as stream:
        stream.read(1)


def _wait_deaf(events: Events) -> None:
    """Who asks it to end is heard, and that is all."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: _tell("asked"))
    _wait(events)


def _tell(what: str) -> None:
    """Tell the test, which listens."""
    with (CONTROL / "reached").open("w") as stream:
        stream.write(f"{what}\n")


def _leave(_events: Events) -> None:
    """Leave a process behind that is in no group of the step's, and keeps all it can open."""
    if os.fork():
        return
    os.setsid()
    (CONTROL / "stray").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def _wait_with_children(events: Events) -> None:
    subprocess.Popen(["sleep", "600"])
    _leave(events)
    _wait(events)


def _talk(events: Events) -> None:
    """100 MB of what is no event, and as much of a log."""
    for _ in range(100):
        events._stream.write("x" * 1_000_000)
    events._stream.write('\n{not json\n[]\n{"event": 5}\n\x00\n')
    for _ in range(1000):
        os.write(2, (b"y" * 999 + b"\n") * 100)


def _die(_events: Events) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_ORDERS = {
    "wait": _wait,
    "wait deaf": _wait_deaf,
    "wait with children": _wait_with_children,
    "leave": _leave,
    "talk": _talk,
    "die": _die,
}
