"""An int8 network as the step `graph` describes it, for the step `finetune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

#: Operators of which the networks that can be fine-tuned consist.
OperatorType = Literal[
    "PAD", "CONV_2D", "LOGISTIC", "MUL", "ADD", "CONCATENATION", "MAX_POOL_2D", "QUANTIZE",
    "RESIZE_NEAREST_NEIGHBOR", "RESHAPE",
]  # fmt: skip
#: What a convolution does with its sums before they are rounded.
Activation = Literal["none", "relu", "relu6"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedTensor:
    """A tensor [1, height, width, channels], or [1, cells, channels], that is computed."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The window of a convolution or a pooling: its side, stride, and the padding on all sides."""

    size: int
    stride: int
    padding: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOperator:
    """An operator of the TFLite file by its number there; the numbers of the tensors that it takes
    and that it gives, without constants. ``padding``: of PAD, on all sides of the image."""

    number: int
    type: OperatorType
    inputs: tuple[int, ...]
    output: int
    window: Window | None = None
    activation: Activation = "none"
    padding: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Network:
    """network.json. ``tensors``: by their numbers, as text. ``outputs``: in the file's order, with
    the names that they have in the ONNX file."""

    operators: tuple[NetworkOperator, ...]
    tensors: Mapping[str, QuantizedTensor]
    input: int
    outputs: tuple[int, ...]
    roles: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphResult:
    """How many convolutions can be fine-tuned, and the weights in them."""

    convolutions: int
    weights: int
    versions: Mapping[str, str]
