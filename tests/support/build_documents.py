"""Documents of the form of build.json, as builds of several kinds give them.

Tests change them and read them with ``built``, as Kiln reads what it wrote: a document that no
build could give is refused.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from kiln.plan.request import BuildRequest
from kiln.report.result import FORMAT, BuildResult
from stages.results.compile import CompileResult, Operators
from stages.results.demo import DemoResult
from stages.results.evaluate import EvaluateResult
from stages.results.finetune import FinetuneResult
from stages.results.onnx import OnnxResult
from stages.results.quantize import FileSizes, QuantizeResult
from stages.results.train import Device, TrainResult

SIZE = 192
SKELETON = [[0, 1], [0, 2], [1, 2]]
NPU = "ethos-u55-64"
_OUTPUTS = ("box8", "score8", "box16", "score16", "box32", "score32", "keypoints")


def built(document: Mapping[str, Any]) -> BuildResult:
    """The build that a document is of; raises RequestError if it is of none."""
    return BuildResult.read(document, "build.json")


def pose() -> dict[str, Any]:
    """A pose model that was trained here and that a board with an NPU takes."""
    return {
        "format": FORMAT,
        "kiln": "0.1.0",
        "name": "yolov8n-pose-demo-192",
        "target": "grove-v2",
        "board": {
            "title": "Grove Vision AI V2",
            "description": "Himax WE2 with an Ethos-U55-64 NPU, SSCMA firmware 1.0.x",
            "firmware": "SSCMA-Micro 1.0.x",
            "source": "https://github.com/Seeed-Studio/SSCMA-Micro/tree/1.0.x",
            "npu": NPU,
            "camera": "240x240",
        },
        "imgsz": SIZE,
        "task": "pose",
        "request": json.loads(json.dumps(dataclasses.asdict(BuildRequest()))),
        "environments": {
            name: {
                "digest": digit * 64,
                "base": f"python@sha256:{'a' * 64}",
                "lock_sha256": "c" * 64,
            }
            for name, digit in (("export", "1"), ("train", "2"), ("vela", "3"))
        },
        "steps": _steps(),
        "files": {
            f"yolov8n-pose-demo-192_{form}.tflite": {"sha256": digit * 64, "bytes": size}
            for form, digit, size in (
                ("float32", "f", 13225888),
                ("full_integer_quant", "8", 3387848),
                ("full_integer_quant_vela", "b", 3137360),
            )
        },
        "deployed": "yolov8n-pose-demo-192_full_integer_quant_vela.tflite",
        "verdict": {"accepted": True, "forced": False, "checks": _checks()},
        "numbers": _numbers(),
        "evidence": _evidence(),
        "warnings": [
            {"step": "demo", "message": "no data set was given", "hint": "pass DATA=my/data.yaml"}
        ],
    }


def forced() -> dict[str, Any]:
    """The same, but too large for the arena and with operators that the firmware has not."""
    build = pose()
    for check in build["verdict"]["checks"]:
        if check["name"] == "arena":
            check |= {"ok": False, "figure": "1288.3 KiB + 3.1 KiB", "help": "a smaller IMGSZ"}
    build["verdict"] |= {"accepted": False, "forced": True}
    build["numbers"]["sram"]["used_kib"] = 1291.4
    build["numbers"]["operators"]["cpu"] = {"LOGISTIC": 3}
    build["evidence"]["operators"].append(
        {
            "name": "sigmoid",
            "operator": "LOGISTIC",
            "place": "cpu",
            "cycles": None,
            "sram_kib": None,
        }
    )
    return build


def without_npu() -> dict[str, Any]:
    """Weights of the user's own for a board without an NPU, compared layer by layer."""
    build = pose()
    build["target"] = "xiao-esp32s3"
    build["board"] |= {"title": "XIAO ESP32S3", "npu": None}
    build["steps"] = [step for step in build["steps"] if step["name"] not in ("train", "compile")]
    del build["files"][build["deployed"]]
    build["deployed"] = "yolov8n-pose-demo-192_full_integer_quant.tflite"
    build["numbers"] |= dict.fromkeys(
        ("estimated_ms", "cycles", "estimator", "performance_model", "traffic"), None
    )
    build["numbers"]["operators"] = {"cpu": {"CONV_2D": 80, "LOGISTIC": 71}}
    del build["numbers"]["accuracy"]["artifacts"]["trained"]
    del build["numbers"]["accuracy"]["equal_to_int8"]
    layers = [
        {"name": f"conv_{number}", "operator": "CONV_2D", "snr_db": 40 - number / 2}
        for number in range(80)
    ]
    build["evidence"] |= {"operators": [], "curves": {}, "layers": layers}
    return build


def detection() -> dict[str, Any]:
    """A detection model of three classes, one of them not among the images."""
    build = pose()
    build |= {"name": "shapes", "task": "detect"}
    accuracy = build["numbers"]["accuracy"]
    accuracy["artifacts"] = {
        name: {metric: value for metric, value in figures.items() if metric.startswith("box")}
        for name, figures in accuracy["artifacts"].items()
    }
    evidence = build["evidence"]
    del evidence["precision_recall"]["pose"]
    evidence["names"] = ["circle", "square", "star"]
    evidence["classes"] = [
        {"name": "circle", "objects": 30, "float32": 0.71, "int8": 0.7},
        {"name": "square", "objects": 40, "float32": 0.61, "int8": 0.6},
        {"name": "star", "objects": 0, "float32": None, "int8": None},
    ]
    for image in evidence["images"]:
        for found in (*image["truth"], *image["float32"], *image["int8"]):
            found["keypoints"] = None
    return build


def finetuned() -> dict[str, Any]:
    """A pose model that was fine-tuned on a processor, to nine tenths of plain int8's cycles."""
    build = pose()
    build["request"]["quantize"]["granularity"] = "finetuned"
    numbers = build["numbers"]
    plain = {"pose/map50": 0.949, "pose/map50_95": 0.399, "box/map50": 0.97, "box/map50_95": 0.529}
    numbers["accuracy"]["artifacts"]["plain"] = plain
    numbers["plain"] = {"flash_kib": 3829.8, "estimated_ms": 93.1, "cycles": 37_236_586}
    updates = [float(10 * number) for number in range(1, 61)]
    build["evidence"]["finetuning"] = {
        "update": updates,
        **{
            kind: [level * math.exp(-update / 300) for update in updates]
            for kind, level in (("score", 0.05), ("box", 0.08), ("keypoints", 0.02))
        },
        "bits": [6.8 - update / 600 for update in updates],
    }
    steps = {each["name"]: each for each in build["steps"]}
    tuned = step("finetune", "fine-tune for the NPU", _finetune_result(), FINETUNE_PARAMS, 1800.0)
    judged = step("evaluate", "measure accuracy", _evaluate_result(), {}, 18.0)
    judged = {**judged, "inputs": {"model.onnx": "d" * 64, "evaluation": "e" * 64}}
    steps["quantize"]["params"]["granularity"] = "per-tensor"
    build["steps"] = [*list(steps.values())[:-1], tuned, steps["compile"], judged]
    return build


FINETUNE_PARAMS: Mapping[str, Any] = {"updates": 600, "cycles": 0.9, "flash_kib": None}


def _finetune_result() -> FinetuneResult:
    return FinetuneResult(
        updates=600,
        images=1000,
        before={"box": 0.08, "keypoints": 0.02, "score": 0.05},
        after={"box": 0.01, "keypoints": 0.003, "score": 0.007},
        bits_before=6.8,
        bits_after=5.8,
        expected_cycles=33_500_000,
        expected_flash_kib=3440.0,
        device=Device(name="a processor", kind="cpu"),
        reproducible=True,
        why_not=None,
        resumed_from=None,
        versions={"torch": "2.14.1"},
    )


def _evaluate_result() -> EvaluateResult:
    return EvaluateResult(
        images=48,
        objects=97,
        artifacts={},
        drop={},
        classes=(),
        outputs=(),
        seconds=None,
        score_threshold=None,
        iou_threshold=None,
        versions={},
    )


def classification() -> dict[str, Any]:
    """A classifier of three classes, one of them not among the images, that mixes two up."""
    build = pose()
    build |= {"name": "fruit", "task": "classify"}
    figures = {"class/top1": 0.9, "class/top5": 1.0}
    build["numbers"]["accuracy"] = {
        "images": 10,
        "artifacts": {
            "trained": figures,
            "onnx": figures,
            "float32": figures,
            "int8": {**figures, "class/top1": 0.8},
        },
        "drop": {"class/top1": 10.0, "class/top5": 0.0},
    }
    evidence = build["evidence"]
    evidence |= {
        "images": [],
        "precision_recall": {},
        "names": ["ripe", "rotten", "unripe"],
        "skeleton": [],
        "outputs": [{"name": "probabilities", "snr_db": 28.1}],
        "classes": [
            {"name": "ripe", "objects": 6, "float32": 0.8333, "int8": 0.6667},
            {"name": "rotten", "objects": 0, "float32": None, "int8": None},
            {"name": "unripe", "objects": 4, "float32": 1.0, "int8": 1.0},
        ],
        "classified": [
            {
                "file": f"ripe/{number}.jpg",
                "size": SIZE,
                "image": image_data(60 * number),
                "truth": 0,
                "note": "largest difference" if number == 0 else "",
                "float32": [{"number": 0, "probability": 0.6}],
                "int8": [{"number": 2 if number == 0 else 0, "probability": 0.55}],
            }
            for number in range(3)
        ],
        "mistakes": {
            "float32": [{"truth": 0, "taken": 2, "count": 1}],
            "int8": [{"truth": 0, "taken": 2, "count": 2}],
        },
    }
    curves = evidence["curves"]
    evidence["curves"] = {
        "epoch": curves["epoch"],
        "train/loss": curves["train/cls_loss"],
        "val/loss": curves["val/cls_loss"],
        "class/top1": curves["box/map50"],
        "class/top5": curves["box/map50"],
    }
    return build


def image_data(shade: int, size: int = SIZE) -> str:
    """The address of a PNG that runs from dark to light."""
    row = b"\0" + bytes(value for x in range(size) for value in (shade, x * 255 // size, 120))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * size)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _checks() -> list[dict[str, Any]]:
    rows = (
        ("input", "input", "int8, scale 1/255, zero point -128", "multiple of 32"),
        (
            "outputs",
            "outputs",
            "7 raw heads",
            "box8, score8, box16, score16, box32, score32, keypoints",
        ),
        ("classes", "classes", "1 class, 17 keypoints", "1 class"),
        ("operators", "operators on the CPU", "ETHOS_U", "14 kinds"),
        ("accelerator", "NPU", NPU, NPU),
        ("arena", "tensor arena", "292.9 KiB + 3.1 KiB", "1110 KiB"),
        ("flash", "flash", "3063.8 KiB", "10240 KiB"),
    )
    return [
        {"name": name, "title": title, "ok": True, "figure": figure, "limit": limit, "help": ""}
        for name, title, figure, limit in rows
    ]


def _numbers() -> dict[str, Any]:
    figures = {
        "trained": (0.9784, 0.4182, 0.9884, 0.5922),
        "onnx": (0.9602, 0.4187, 0.9751, 0.5331),
        "float32": (0.9602, 0.4187, 0.9751, 0.5331),
        "int8": (0.951, 0.4012, 0.9762, 0.5319),
    }
    metrics = ("pose/map50", "pose/map50_95", "box/map50", "box/map50_95")
    artifacts = {name: dict(zip(metrics, values, strict=True)) for name, values in figures.items()}
    return {
        "flash": {"used_kib": 3063.83, "limit_kib": 10240.0, "source": "file size"},
        "sram": {"used_kib": 296.02, "limit_kib": 1110, "source": "Vela's plan in the file"},
        "estimated_ms": 83.78232,
        "cycles": 33512928,
        "estimator": "Vela 4.5.0",
        "performance_model": "Vela 3-4",
        "operators": {"npu": {"CONV_2D": 80, "LOGISTIC": 71, "CONCATENATION": 41}, "cpu": {}},
        "accuracy": {
            "images": 48,
            "artifacts": artifacts,
            "drop": {
                metric: 100 * (artifacts["float32"][metric] - artifacts["int8"][metric])
                for metric in metrics
            },
            "equal_to_int8": True,
        },
        "traffic": {
            "macs": 412_949_448,
            "floor_cycles": 8_203_000,
            "blocks": 4053,
            "flash_bytes": 2_987_960,
            "sram_bytes": 25_220_883,
            "macs_per_cycle": 64,
            "results_per_cycle": 2,
            "clock_hz": 400e6,
            "flash_bytes_per_cycle": 0.125,
        },
    }


def _evidence() -> dict[str, Any]:
    curve = [[step / 100, 1 - (step / 100) ** 6] for step in range(101)]
    lower = [[recall, precision * 0.97] for recall, precision in curve]
    cycles = [1000 + 997 * number % 40_000 for number in range(192)]
    kinds = [*["CONV_2D"] * 80, *["LOGISTIC"] * 71, *["CONCATENATION"] * 41]
    return {
        "images": [_image(number) for number in range(3)],
        "precision_recall": {kind: {"float32": curve, "int8": lower} for kind in ("box", "pose")},
        "names": ["person"],
        "skeleton": SKELETON,
        "outputs": [
            {"name": name, "snr_db": 31.2 - number} for number, name in enumerate(_OUTPUTS)
        ],
        "classes": [{"name": "person", "objects": 97, "float32": 0.4187, "int8": 0.4012}],
        "operators": [
            {
                "name": f"model/layer_{number}/Add;model/layer_{number}/convolution",
                "operator": kind,
                "place": "npu",
                "cycles": each,
                "sram_kib": 200.5,
                "counted": _counted(number, each),
            }
            for number, (kind, each) in enumerate(zip(kinds, cycles, strict=True))
        ],
        "layers": [],
        "curves": {
            "epoch": [float(epoch) for epoch in range(1, 15)],
            **{
                f"{part}/{loss}_loss": [3 * math.exp(-epoch / 5) + 0.8 for epoch in range(14)]
                for part in ("train", "val")
                for loss in ("box", "pose", "kobj", "cls", "dfl")
            },
            **{
                f"{kind}/{metric}": [0.9 * epoch / 13 for epoch in range(14)]
                for kind in ("box", "pose")
                for metric in ("map50", "map50_95")
            },
            "lr/pg0": [0.001] * 14,
        },
    }


def _counted(number: int, cycles: int) -> dict[str, int]:
    """What an operator costs: the flash takes longer than the NPU for the first forty."""
    return {
        "macs": 32 * cycles,
        "floor_cycles": cycles // 2,
        "blocks": 1,
        "flash_bytes": cycles // 8 if number < 40 else 0,
        "sram_bytes": cycles,
    }


def _image(number: int) -> dict[str, Any]:
    """A person at the left; the first image has one more at the top right, with a low score."""
    person = {
        "class": 0,
        "box": [20, 30, 90, 180],
        "keypoints": [[50, 40, 2], [40, 90, 2], [70, 90, 0]],
    }
    found = {**person, "score": 0.87, "keypoints": [[50, 40, 0.9], [40, 90, 0.8], [70, 90, 0.7]]}
    corner = {"class": 0, "box": [150, -2, 195, 60], "keypoints": None, "score": 0.31}
    return {
        "file": f"0000{number}.jpg",
        "size": SIZE,
        "image": image_data(60 * number),
        "truth": [person],
        "float32": [found, *([corner] if number == 0 else [])],
        "int8": [found],
        "note": "largest difference" if number == 0 else "",
    }


def _steps() -> list[Mapping[str, Any]]:
    vela = {"System_Config.My_Sys_Cfg": {"core_clock": "400e6", "axi0_port": "Sram"}}
    counts = {"train": 256, "val": 48}
    demo = DemoResult(
        task="pose", names=("person",), images=counts, objects=counts, versions={"numpy": "2.2.6"}
    )
    train = TrainResult(
        metrics={"pose/map50": 0.9784},
        epochs_run=14,
        best_epoch=13,
        device=Device(name="a processor", kind="cpu"),
        reproducible=True,
        why_not=None,
        resumed_from=None,
        tensors_taken_over=None,
        versions={"torch": "2.14.1"},
    )
    quantize = QuantizeResult(
        inputs=(),
        outputs=(),
        operators={"CONV_2D": 80},
        bytes=FileSizes(float32=13225888, int8=3387848),
        calibration_images=48,
        granularity="mixed",
        per_channel_layers=(),
        versions={"onnx2tf": "1.17.5"},
    )
    compiled = CompileResult(
        sram_kib=292.9,
        flash_kib=3063.8,
        cycles=33512928,
        inference_ms=83.78232,
        operators=Operators(npu={"CONV_2D": 80}, cpu={}),
        cpu_operators=(),
        estimator="Vela 4.5.0",
        performance_model="Vela 3-4",
        accelerator=NPU,
        versions={"ethos-u-vela": "4.5.0"},
    )
    return [
        step("demo", "draw the demo data set", demo, {"task": "pose", "train": 256}, 7.469),
        step(
            "train",
            "train",
            train,
            {"model": "yolov8n", "epochs": 14, "overrides": {"optimizer": "AdamW"}},
            206.984,
        ),
        step("quantize", "quantise to int8", quantize, {"granularity": "mixed"}, 15.878),
        step(
            "compile",
            f"compile for {NPU}",
            compiled,
            {"accelerator": NPU, "ini": vela, "arguments": []},
            5.0,
        ),
    ]


def onnx_step(names: Sequence[str], kpt_shape: tuple[int, int] | None) -> Mapping[str, Any]:
    """The export of a network, which names its classes and keypoints."""
    result = OnnxResult(
        task="pose",
        nc=len(names),
        names=tuple(names),
        kpt_shape=kpt_shape,
        outputs=(),
        opset=13,
        macs=1,
        versions={},
    )
    return step("onnx", "export raw heads", result, {}, 1.0)


def step(
    name: str, title: str, result: Any, params: Mapping[str, Any], seconds: float
) -> Mapping[str, Any]:
    """One step of a build, with what it gave."""
    return {
        "name": name,
        "title": title,
        "key": name.encode().hex().ljust(64, "0"),
        "seconds": seconds,
        "params": params,
        "inputs": {},
        "outputs": {},
        "result": json.loads(json.dumps(dataclasses.asdict(result))),
        "warnings": [],
        "facts": {"executor": "local", "python": "3.11.7", "peak_memory_mib": 57},
    }
