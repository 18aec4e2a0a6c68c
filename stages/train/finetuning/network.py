"""An int8 network in torch: in the board's arithmetic, and as the float network that it stands for.

Learned are the weights, in units of their first scale, the logarithm by which that scale grows, and
the biases. Images are [n, channels, size, size]; outputs [n, channels, cells].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stages.contract import read_json
from stages.results.int8_network import Int8Network, NetworkOperator
from stages.train.finetuning.arithmetic import (
    LEAST,
    MOST,
    Limit,
    LookUp,
    Requantise,
    Round,
    silu_tables,
)

#: The largest weight; TFLite's is symmetric.
_MOST_WEIGHT = 127
Arrays = Mapping[str, NDArray[Any]]


class Convolution(nn.Module):
    """The weights of one convolution, exact and learned.

    ``growth``: the scale is that of the int8 file times e to the power of it.
    """

    def __init__(
        self, number: int, arrays: Arrays, *, input_scale: float, output_scale: float
    ) -> None:
        super().__init__()

        def array(name: str) -> Tensor:
            return torch.from_numpy(np.array(arrays[f"{name}_{number}"]))

        scales = array("scales")
        self.steps = nn.Parameter(_channels_first(array("weights").float()))
        self.growth = nn.Parameter(torch.zeros(()))
        bias = array("bias").double() * scales.double() * input_scale
        self.bias = nn.Parameter(bias.float())
        self.register_buffer("scales", scales)
        self.register_buffer("exact_weights", _channels_first(array("exact_weights")))
        self.register_buffer("exact_bias", array("exact_bias"))
        self.number = number
        self.input_scale, self.output_scale = input_scale, output_scale

    def position(self) -> Tensor:
        """The weights in units of the present scale, not yet rounded."""
        return (self.steps * torch.exp(-self.growth)).clamp(-_MOST_WEIGHT, _MOST_WEIGHT)

    def integers(self) -> Tensor:
        rounded: Tensor = Round.apply(self.position())
        return rounded

    def present_scales(self) -> Tensor:
        scales: Tensor = self.scales * torch.exp(self.growth)
        return scales

    def bias_integers(self) -> Tensor:
        unit = self.present_scales() * self.input_scale
        rounded: Tensor = Round.apply(self.bias / unit)
        return rounded


class Int8Net(nn.Module):
    """Runs the operators of an int8 network in their order."""

    def __init__(self, description: Int8Network, arrays: Arrays) -> None:
        super().__init__()
        self.description = description
        self._quantisation = {
            int(number): (tensor.scale, tensor.zero_point)
            for number, tensor in description.tensors.items()
        }
        self._users = _users(description.operators)
        self.convolutions = nn.ModuleDict()
        #: By a convolution whose output goes into SiLU alone: LOGISTIC and MUL.
        self._gated: dict[int, NetworkOperator] = {}
        for each in description.operators:
            if each.type == "CONV_2D":
                self.convolutions[str(each.number)] = Convolution(
                    each.number,
                    arrays,
                    input_scale=self._quantisation[each.inputs[0]][0],
                    output_scale=self._quantisation[each.output][0],
                )
                self._find_silu(each)
        self._done = {
            user.number for each in self._gated for user in self._users[self._output_of(each)]
        }

    def layers(self) -> Iterator[Convolution]:
        """The convolutions, in the order of the network."""
        for layer in self.convolutions.values():
            assert isinstance(layer, Convolution)
            yield layer

    def forward(self, images: Tensor) -> list[Tensor]:
        """The outputs, real numbers, for uint8 images, in the board's arithmetic."""
        results = self._run(images.float(), self._compute)
        pairs = zip(self.description.outputs, results, strict=True)
        return [each * self._quantisation[output][0] for output, each in pairs]

    def integers(self, images: Tensor) -> list[Tensor]:
        """The outputs as the file has them, int8 [n, cells, channels], exact whatever the weights
        are."""
        exactly = functools.partial(self._compute, sums=torch.float64)
        results = self._run(images.float(), exactly)
        pairs = zip(self.description.outputs, results, strict=True)
        zeros = ((each, self._quantisation[output][1]) for output, each in pairs)
        return [(each + zero).to(torch.int8).transpose(1, 2) for each, zero in zeros]

    def exact(self, images: Tensor) -> list[Tensor]:
        """The outputs of the float network."""
        return self._run(images.float() / 255, self._compute_exactly)

    def _run(
        self, images: Tensor, compute: Callable[[NetworkOperator, Sequence[Tensor]], Tensor]
    ) -> list[Tensor]:
        values = {self.description.input: images}
        for each in self.description.operators:
            if each.number in self._done:
                continue
            result = compute(each, [values[tensor] for tensor in each.inputs])
            gated = self._gated.get(each.number)
            values[gated.output if gated else each.output] = result
            for tensor in each.inputs:
                if self._last_user(tensor) <= each.number:
                    values.pop(tensor, None)
        return [values[output] for output in self.description.outputs]

    def _compute(
        self,
        operator: NetworkOperator,
        inputs: Sequence[Tensor],
        *,
        sums: torch.dtype = torch.float32,
    ) -> Tensor:
        """The output's integers less their zero point, from such inputs; ``sums`` are of this
        type."""
        if operator.type == "CONV_2D":
            return self._convolve(operator, inputs[0], sums)
        if operator.type in ("ADD", "QUANTIZE"):
            scale, zero_point = self._quantisation[operator.output]
            total = sum(
                each * (self._quantisation[tensor][0] / scale)
                for tensor, each in zip(operator.inputs, inputs, strict=True)
            )
            return _limited(total, zero_point, LEAST)
        return self._pass_on(operator, inputs)

    def _convolve(self, operator: NetworkOperator, values: Tensor, dtype: torch.dtype) -> Tensor:
        convolution = self._convolution(operator)
        window = operator.window
        assert window is not None
        sums = functional.conv2d(
            values.to(dtype),
            convolution.integers().to(dtype),
            None,
            window.stride,
            window.padding,
        )
        scale, zero_point = self._quantisation[operator.output]
        factor = convolution.present_scales().double() * (convolution.input_scale / scale)
        bias = convolution.bias_integers()
        result = Requantise.apply(sums, bias, factor[0] if len(factor) == 1 else factor)
        if operator.number in self._gated:
            tables = (getattr(self, f"{name}_{operator.number}") for name in ("table", "slopes"))
            looked_up: Tensor = LookUp.apply(result, zero_point, *tables)
            return looked_up
        least = LEAST if operator.activation == "none" else max(LEAST, zero_point)
        most = MOST
        if operator.activation == "relu6":
            most = min(MOST, zero_point + round(6 / scale))
        return _limited(result, zero_point, least, most)

    def _compute_exactly(self, operator: NetworkOperator, inputs: Sequence[Tensor]) -> Tensor:
        """The output's real numbers."""
        if operator.type == "ADD":
            return inputs[0] + inputs[1]
        if operator.type == "QUANTIZE":
            return inputs[0]
        if operator.type != "CONV_2D":
            return self._pass_on(operator, inputs)
        convolution = self._convolution(operator)
        window = operator.window
        assert window is not None
        result = functional.conv2d(
            inputs[0],
            convolution.exact_weights,
            convolution.exact_bias,
            window.stride,
            window.padding,
        )
        if operator.number in self._gated:
            return functional.silu(result)
        if operator.activation == "none":
            return result
        return (
            functional.relu(result) if operator.activation == "relu" else functional.relu6(result)
        )

    def _pass_on(self, operator: NetworkOperator, inputs: Sequence[Tensor]) -> Tensor:
        """What is the same for integers and for real numbers."""
        if operator.type == "PAD":
            return functional.pad(inputs[0], (operator.padding,) * 4)
        if operator.type == "CONCATENATION":
            return torch.cat(list(inputs), 1 if inputs[0].ndim == 4 else 2)
        if operator.type == "MAX_POOL_2D":
            window = operator.window
            assert window is not None
            return functional.max_pool2d(inputs[0], window.size, window.stride, window.padding)
        if operator.type == "RESIZE_NEAREST_NEIGHBOR":
            return functional.interpolate(inputs[0], scale_factor=2, mode="nearest")
        assert operator.type == "RESHAPE", operator.type
        return inputs[0].flatten(2)

    def _find_silu(self, operator: NetworkOperator) -> None:
        users = self._users.get(operator.output, [])
        if sorted(each.type for each in users) != ["LOGISTIC", "MUL"]:
            return
        logistic, product = sorted(users, key=lambda each: each.type)
        tensors = (operator.output, logistic.output, product.output)
        table, slopes = silu_tables(*(self._quantisation[each] for each in tensors))
        self.register_buffer(f"table_{operator.number}", table)
        self.register_buffer(f"slopes_{operator.number}", slopes)
        self._gated[operator.number] = product

    def _convolution(self, operator: NetworkOperator) -> Convolution:
        found = self.convolutions[str(operator.number)]
        assert isinstance(found, Convolution)
        return found

    def _output_of(self, number: int) -> int:
        return self.description.operators[number].output

    def _last_user(self, tensor: int) -> int:
        """The number of the last operator that takes a tensor; of an output no operator is."""
        if tensor in self.description.outputs:
            return len(self.description.operators)
        return max(each.number for each in self._users[tensor])


def open_network(folder: Path) -> Int8Net:
    """Open what the step `graph` has written."""
    with np.load(folder / "network.npz") as arrays:
        return Int8Net(read_json(Int8Network, folder / "network.json"), dict(arrays))


def _limited(values: Any, zero_point: int, least: int, most: int = MOST) -> Tensor:
    limited: Tensor = Limit.apply(values, least - zero_point, most - zero_point)
    return limited


def _channels_first(weights: Tensor) -> Tensor:
    return weights.permute(0, 3, 1, 2).contiguous()


def _users(operators: Sequence[NetworkOperator]) -> dict[int, list[NetworkOperator]]:
    users: dict[int, list[NetworkOperator]] = {}
    for operator in operators:
        for tensor in operator.inputs:
            users.setdefault(tensor, []).append(operator)
    return users
