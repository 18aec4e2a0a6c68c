"""Run in the vela environment: makes TFLite files that mean harm, and reads each.

Prints what was said to each, or None.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import flatbuffers
import numpy as np
from ethosu.vela.tflite import Buffer, Model, SubGraph, Tensor

from stages.contract import StepFailed
from stages.vela.tflite.model import describe, read_model


def vector(builder: Any, start: Callable[[Any, int], int], offsets: list[int]) -> int:
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def model(*, buffers: int = 1, size: int = 4, tensors: int = 0, name: str = "t") -> bytes:
    """A file whose vectors refer to one and the same buffer and tensor many times."""
    builder = flatbuffers.Builder(1024)
    data = builder.CreateByteVector(bytes(size))
    said = builder.CreateString(name)
    shape = builder.CreateNumpyVector(np.ones(64, np.int32))
    Buffer.BufferStart(builder)
    Buffer.BufferAddData(builder, data)
    buffer = Buffer.BufferEnd(builder)
    Tensor.TensorStart(builder)
    Tensor.TensorAddName(builder, said)
    Tensor.TensorAddShape(builder, shape)
    tensor = Tensor.TensorEnd(builder)
    all_tensors = vector(builder, SubGraph.SubGraphStartTensorsVector, [tensor] * tensors)
    SubGraph.SubGraphStart(builder)
    SubGraph.SubGraphAddTensors(builder, all_tensors)
    graph = SubGraph.SubGraphEnd(builder)
    graphs = vector(builder, Model.ModelStartSubgraphsVector, [graph])
    all_buffers = vector(builder, Model.ModelStartBuffersVector, [buffer] * buffers)
    Model.ModelStart(builder)
    Model.ModelAddSubgraphs(builder, graphs)
    Model.ModelAddBuffers(builder, all_buffers)
    builder.Finish(Model.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def noted(name: str, notes: str) -> bytes:
    """A file with an archive of notes behind it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, notes)
    return model(tensors=1) + stream.getvalue()


def files() -> Iterator[tuple[str, bytes]]:
    sound = model(tensors=1)
    yield "sound", sound
    yield "cut", sound[: len(sound) // 2]
    yield "claims", struct.pack("<I", 0xFFFFFFF0) + sound[4:]
    yield "itself", struct.pack("<I", 0) + sound[4:]
    yield "buffers", model(buffers=50_000, size=200_000)
    yield "tensors", model(tensors=400_000)
    yield "names", model(tensors=50_000, name="n" * 100_000)
    yield "nested", noted("metadata.json", "[" * 200_000)
    yield "literal", noted("temp_meta.txt", "(" * 200_000)
    yield "types", noted("metadata.json", '{"names": 5, "kpt_shape": [[], {}], "task": "pose"}')
    yield "terminal", model(tensors=1, name="\x1b[2Jgone")


def answer(content: bytes) -> str | None:
    try:
        describe(read_model(content))
    except StepFailed as error:
        return error.message
    return None


sys.stdout.write(json.dumps({name: answer(content) for name, content in files()}))
