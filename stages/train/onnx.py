"""Export a network to ONNX: with raw heads, or a classifier with its softmax.

``params``: imgsz, split_c2f (bool, default true). ``in/``: weights.safetensors.
``out/``: model.onnx.
"""

from __future__ import annotations

import io
import math
from importlib.metadata import version

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import onnx
import onnxslim
import torch
from ultralytics.nn.tasks import ClassificationModel

from stages.contract import Events, Job, StepFailed, main
from stages.results.onnx import OnnxResult, Output
from stages.train.weights import checkpoint
from stages.train.weights.classifier import Classifier
from stages.train.weights.raw_heads import RawHeads

#: The newest known one that onnx2tf 1.17 converts without adding a transpose.
OPSET = 13
#: Fusing and splitting reorder sums; a larger difference means another function.
TOLERANCE = 1e-3
_TRIAL_IMAGES = 2
Exportable = RawHeads | Classifier
_PACKAGES = ("ultralytics", "torch", "onnx", "onnxslim", "numpy")


def run(job: Job, _events: Events) -> OnnxResult:
    """Write model.onnx, and describe the model."""
    size = int(job.params["imgsz"])
    model, meta = checkpoint.load(job.inputs / "weights.safetensors")
    network = exportable(model, split_c2f=job.params.get("split_c2f", True))
    check_same_function(model, network, size)
    exported = export(network, size)
    (job.out / "model.onnx").write_bytes(exported.SerializeToString(deterministic=True))
    return OnnxResult(
        task=meta.task,
        nc=meta.nc,
        names=meta.names,
        kpt_shape=meta.kpt_shape,
        outputs=tuple(
            Output(name=output.name, shape=_shape(output)) for output in exported.graph.output
        ),
        opset=OPSET,
        macs=count_macs(exported),
        versions={package: version(package) for package in _PACKAGES},
    )


def exportable(model: checkpoint.Model, *, split_c2f: bool) -> Exportable:
    """The network with the outputs that the firmware reads."""
    kind = Classifier if isinstance(model, ClassificationModel) else RawHeads
    return kind(model, split_c2f=split_c2f).eval()


def export(network: Exportable, size: int) -> onnx.ModelProto:
    """The network as ONNX with static shapes; the same bytes on every host at any time."""
    stream = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, size, size),),
        stream,
        opset_version=OPSET,
        dynamo=False,
        input_names=["images"],
        output_names=network.output_names,
    )
    exported = onnxslim.slim(onnx.load_from_string(stream.getvalue()))
    _strip(exported)
    _check_static(exported)
    return exported


def check_same_function(model: checkpoint.Model, network: Exportable, size: int) -> None:
    """Raise StepFailed("model") unless both give the same on random images."""
    images = torch.rand(_TRIAL_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
    difference = network.largest_difference(model, images)
    if not difference <= TOLERANCE:
        raise StepFailed(
            "model",
            f"the exported outputs differ from the trained network's by {difference:.2g} of "
            f"their range (at most {TOLERANCE:g} is rounding); so do weights that are not finite",
            hint="look at the training's losses, train again, or report this with the weights",
        )


def count_macs(exported: onnx.ModelProto) -> int:
    """Multiply-accumulates of one inference: those of convolutions and of a classifier's last
    layer, as nothing else has any.
    """
    shapes = {value.name: _shape(value) for value in _values(exported.graph)}
    weights = {each.name: list(each.dims) for each in exported.graph.initializer}
    convolutions = sum(
        math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        for node in exported.graph.node
        if node.op_type == "Conv"
    )
    layers = [node for node in exported.graph.node if node.op_type == "Gemm"]
    return convolutions + sum(math.prod(weights[node.input[1]]) for node in layers)


def _strip(exported: onnx.ModelProto) -> None:
    """Remove what depends on who made the file, when and where."""
    exported.producer_name = "kiln"
    exported.producer_version = ""
    exported.doc_string = ""
    exported.graph.name = "kiln"
    exported.graph.doc_string = ""
    del exported.metadata_props[:]
    for each in [*exported.graph.node, *_values(exported.graph), *exported.graph.initializer]:
        each.doc_string = ""
        del each.metadata_props[:]


def _check_static(exported: onnx.ModelProto) -> None:
    """Raise StepFailed for a symbolic size, at which onnx2tf would stop without saying where."""
    for value in _values(exported.graph):
        if not all(_shape(value)):
            raise StepFailed("model", f"{value.name} of the exported network has no fixed shape")


def _values(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output, *graph.value_info]


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


if __name__ == "__main__":
    main(run)
