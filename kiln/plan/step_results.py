"""What each step gives: its record of ``stages.results``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiln.errors import UnknownName
from kiln.plan.schema import read_record
from stages.results.check import CheckResult
from stages.results.check_firmware import CheckFirmwareResult
from stages.results.compile import CompileResult
from stages.results.demo import DemoResult
from stages.results.describe import DescribeResult
from stages.results.difference import DifferenceResult
from stages.results.emulator_frames import EmulatorFramesResult
from stages.results.evaluate import EvaluateResult
from stages.results.fetch import FetchResult
from stages.results.finetune import FinetuneResult
from stages.results.frames import FramesResult
from stages.results.images import ImagesResult
from stages.results.import_weights import ImportResult
from stages.results.int8_network import GraphResult
from stages.results.layers import LayersResult
from stages.results.onnx import OnnxResult
from stages.results.outputs import OutputsResult
from stages.results.quantize import QuantizeResult
from stages.results.reference import ReferenceResult
from stages.results.requantize import RequantizeResult
from stages.results.train import TrainResult

#: What each step gives, by its name.
RESULTS: Mapping[str, type[Any]] = {
    "demo": DemoResult,
    "fetch-data": FetchResult,
    "fetch-weights": FetchResult,
    "check": CheckResult,
    "import": ImportResult,
    "frames": FramesResult,
    "train": TrainResult,
    "images": ImagesResult,
    "onnx": OnnxResult,
    "quantize": QuantizeResult,
    "quantize-plain": QuantizeResult,
    "compile-plain": CompileResult,
    "compile-start": CompileResult,
    "graph": GraphResult,
    "finetune": FinetuneResult,
    "requantize": RequantizeResult,
    "compile": CompileResult,
    "reference": ReferenceResult,
    "describe": DescribeResult,
    "check-firmware": CheckFirmwareResult,
    "evaluate": EvaluateResult,
    "layers": LayersResult,
    "difference": DifferenceResult,
    "outputs": OutputsResult,
    "emulator-frames": EmulatorFramesResult,
}


def read_result(step: str, table: object, where: str) -> Any:
    """The record of what a step gave; raises RequestError if it is none of that step."""
    if step not in RESULTS:
        raise UnknownName("step", step, RESULTS, where=where)
    return read_record(RESULTS[step], table, f"{where}: {step}")
