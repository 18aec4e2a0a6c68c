"""Take an int8 network apart, so that it can be fine-tuned where there is no TensorFlow.

``params``: none. ``in/``: float32.tflite and int8.tflite of one run of the step `quantize`.
``out/``: network.json (``stages.results.int8_network.Int8Network``) and network.npz, for each
convolution by the number of its operator: weights_N, int8 [outputs, height, width, inputs];
scales_N, float32 [1 or outputs]; bias_N, int32 [outputs]; and of the float network exact_weights_N
and exact_bias_N, float32.

Raises StepFailed("model") for a network with other operators than YOLOv8's poses and boxes need.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.export.models.tflite_editor import Graph, Operator
from stages.results.int8_network import (
    Activation,
    GraphResult,
    Int8Network,
    NetworkOperator,
    OperatorType,
    QuantizedTensor,
    Window,
)

PACKAGES = ("tensorflow-cpu", "numpy")
KNOWN: tuple[str, ...] = typing.get_args(OperatorType)
#: ActivationFunctionType and Padding of TFLite's schema.
_ACTIVATIONS: Mapping[int, Activation] = {0: "none", 1: "relu", 3: "relu6"}
_SAME = 0

Arrays = dict[str, Any]


def run(job: Job, _events: Events) -> GraphResult:
    """Describe the network, and write what its convolutions hold."""
    exact = Graph((job.inputs / "float32.tflite").read_bytes())
    graph = Graph((job.inputs / "int8.tflite").read_bytes())
    network = describe(graph)
    arrays = constants(network, graph, exact)
    write_json(job.out / "network.json", network)
    np.savez(job.out / "network.npz", **arrays)
    weights = [each for name, each in arrays.items() if name.startswith("weights_")]
    return GraphResult(
        convolutions=len(weights),
        weights=sum(each.size for each in weights),
        versions={package: version(package) for package in PACKAGES},
    )


def describe(graph: Graph) -> Int8Network:
    """The operators of an int8 graph; raises StepFailed("model") for what cannot be fine-tuned."""
    computed = {*graph.inputs, *(output for each in graph.operators for output in each.outputs)}
    operators = tuple(
        _operator(graph, number, each, computed) for number, each in enumerate(graph.operators)
    )
    return Int8Network(
        operators=operators,
        tensors={
            str(tensor): QuantizedTensor(
                name=graph.name(tensor),
                shape=graph.shape(tensor),
                scale=graph.scale(tensor),
                zero_point=graph.zero_point(tensor),
            )
            for tensor in sorted(computed)
        },
        input=graph.inputs[0],
        outputs=tuple(graph.outputs),
        roles=tuple(graph.name(output) for output in graph.outputs),
    )


def constants(network: Int8Network, graph: Graph, exact: Graph) -> Arrays:
    """The weights and biases of both graphs; convolutions are matched by their outputs' names."""
    known = {
        exact.name(each.outputs[0]): each for each in exact.operators if each.type == "CONV_2D"
    }
    arrays: Arrays = {}
    for each in network.operators:
        if each.type != "CONV_2D":
            continue
        operator = graph.operators[each.number]
        name = graph.name(each.output)
        if name not in known or len(operator.inputs) != 3:
            raise _unknown(f"the convolution {name} has no float32 one, or no bias")
        weights, bias = operator.inputs[1:]
        exact_weights, exact_bias = known[name].inputs[1:]
        arrays |= {
            f"weights_{each.number}": graph.constant(weights, np.int8),
            f"scales_{each.number}": graph.scales(weights),
            f"bias_{each.number}": graph.constant(bias, np.int32),
            f"exact_weights_{each.number}": exact.constant(exact_weights, np.float32),
            f"exact_bias_{each.number}": exact.constant(exact_bias, np.float32),
        }
    return arrays


def _operator(graph: Graph, number: int, operator: Operator, computed: set[int]) -> NetworkOperator:
    if operator.type not in KNOWN or len(operator.outputs) != 1:
        raise _unknown(f"it has a {operator.type}")
    kind = typing.cast(OperatorType, operator.type)
    return NetworkOperator(
        number=number,
        type=kind,
        inputs=tuple(each for each in operator.inputs if each in computed),
        output=operator.outputs[0],
        window=_window(graph, operator),
        activation=_activation(operator),
        padding=_padding(graph, operator) if kind == "PAD" else 0,
    )


def _window(graph: Graph, operator: Operator) -> Window | None:
    """Raises StepFailed for a window that is not the same in both directions."""
    options = operator.options
    if operator.type == "CONV_2D":
        sides = graph.shape(operator.inputs[1])[1:3]
        dilations = (options.dilationHFactor, options.dilationWFactor)
        plain = graph.shape(operator.inputs[1])[-1] == graph.shape(operator.inputs[0])[-1]
        if dilations != (1, 1) or not plain:
            raise _unknown("it has a dilated or grouped convolution")
    elif operator.type == "MAX_POOL_2D":
        sides = (options.filterHeight, options.filterWidth)
    else:
        return None
    strides = (options.strideH, options.strideW)
    size, stride = sides[0], strides[0]
    if set(sides) != {size} or set(strides) != {stride}:
        raise _unknown("it has a window that is no square")
    same = options.padding == _SAME
    if same and (stride != 1 or size % 2 == 0):
        raise _unknown("it has a window whose padding is not the same on all sides")
    return Window(size=size, stride=stride, padding=size // 2 if same else 0)


def _activation(operator: Operator) -> Activation:
    code = getattr(operator.options, "fusedActivationFunction", 0)
    if code not in _ACTIVATIONS or (code and operator.type != "CONV_2D"):
        raise _unknown(f"a {operator.type} has an activation of its own")
    return _ACTIVATIONS[code]


def _padding(graph: Graph, operator: Operator) -> int:
    amounts = graph.constant(operator.inputs[1], np.int32).tolist()
    side = int(amounts[1][0])
    if amounts != [[0, 0], [side, side], [side, side], [0, 0]]:
        raise _unknown("it has a padding that is not the same on all sides")
    return side


def _unknown(what: str) -> StepFailed:
    return StepFailed(
        "model",
        f"the network cannot be fine-tuned: {what}",
        hint="QUANT=mixed quantises any network; YOLOv8's poses and boxes can be fine-tuned",
    )


if __name__ == "__main__":
    main(run)
