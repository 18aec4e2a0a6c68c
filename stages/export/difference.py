"""Find where two files of a model differ: which weight or tensor, and by how much.

``in/``: left.<suffix> and right.<suffix>; ``params``: suffix. No files in ``out/``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Events, Job, main
from stages.results.difference import Difference, DifferenceResult

#: A model as its tensors by name, in whatever file they are.
Tensors = dict[str, NDArray[Any]]


def run(job: Job, _events: Events) -> DifferenceResult:
    """Compare two files that differ."""
    suffix = job.params["suffix"]
    paths = [job.inputs / f"{side}.{suffix}" for side in ("left", "right")]
    left, right = (path.read_bytes() for path in paths)
    read = READERS.get(suffix)
    found = compare(read(paths[0]), read(paths[1])) if read else Difference()
    return DifferenceResult(
        **dataclasses.asdict(found),
        offset=first_difference(left, right),
        sizes=(len(left), len(right)),
    )


def first_difference(left: bytes, right: bytes) -> int:
    """Offset in bytes; the length of the shorter if the longer begins with it."""
    length = min(len(left), len(right))
    first, second = (np.frombuffer(each, np.uint8, length) for each in (left, right))
    differing = np.flatnonzero(first != second)
    return int(differing[0]) if differing.size else length


def compare(left: Tensors, right: Tensors) -> Difference:
    """The first tensor that differs, in the left one's order, and how many do."""
    names = list(dict.fromkeys((*left, *right)))
    words = {name: _in_words(left.get(name), right.get(name)) for name in names}
    differing = [name for name in names if words[name]]
    where = f"{differing[0]}{words[differing[0]]}" if differing else None
    return Difference(where=where, differing=len(differing), tensors=len(names))


def _in_words(left: NDArray[Any] | None, right: NDArray[Any] | None) -> str:
    """The rest of a sentence that begins with the tensor's name; "" if both are the same."""
    if left is None or right is None:
        return f" is only in the {'first' if right is None else 'second'}"
    if left.dtype != right.dtype or left.shape != right.shape:
        return f" is {left.dtype}{list(left.shape)}, and {right.dtype}{list(right.shape)}"
    # Bytes are compared, so NaN equals NaN.
    unlike = np.atleast_1d(left).view(np.uint8) != np.atleast_1d(right).view(np.uint8)
    if not unlike.any():
        return ""
    flat = np.unique(np.flatnonzero(unlike.reshape(-1)) // left.dtype.itemsize)
    at = [int(each) for each in np.unravel_index(flat[0], left.shape)]
    first, second = left.reshape(-1)[flat[0]], right.reshape(-1)[flat[0]]
    return f"{at} is {first!s}, and {second!s} ({flat.size:,} of {left.size:,} values differ)"


def _safetensors(path: Path) -> Tensors:
    """Weights by name, and the metadata as text."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as stream:
        tensors: Tensors = {"__metadata__": _text(stream.metadata())}
        return tensors | {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118


def _onnx(path: Path) -> Tensors:
    """Weights by name, and every node as text."""
    import onnx

    graph = onnx.load(path).graph
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    return weights | {f"node {node.name}": _text(str(node)) for node in graph.node}


def _tflite(path: Path) -> Tensors:
    """Constants and scales of every tensor by its name; in a file of Vela also the NPU's code."""
    from tensorflow.lite.python import schema_py_generated as schema

    from stages.export.models.tflite_editor import read_flatbuffer

    model = read_flatbuffer(path.read_bytes())
    types = {
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.INT32: np.int32,
        schema.TensorType.INT8: np.int8,
    }
    tensors: Tensors = {}
    for number, graph in enumerate(model.subgraphs):
        for tensor in graph.tensors:
            name = f"{number}/{(tensor.name or b'').decode('utf-8', 'replace')}"
            data = model.buffers[tensor.buffer].data
            values: NDArray[Any] = np.asarray([] if data is None else data, np.uint8)
            if values.size and tensor.type in types:
                values = values.view(types[tensor.type]).reshape(tensor.shape)
            tensors[name] = values
            if tensor.quantization is not None and tensor.quantization.scale is not None:
                tensors[f"{name} scale"] = np.asarray(tensor.quantization.scale, np.float32)
    return tensors


def _npy(path: Path) -> Tensors:
    return {path.stem: np.load(path, allow_pickle=False)}


def _text(value: object) -> NDArray[Any]:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return np.frombuffer(text.encode("utf-8"), np.uint8)


READERS: Mapping[str, Callable[[Path], Tensors]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "tflite": _tflite,
    "npy": _npy,
}

if __name__ == "__main__":
    main(run)
