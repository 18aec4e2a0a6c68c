"""What one network of the catalogue is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.operators.net import Net, Value

Build = Callable[[Net, Value], Value | list[Value]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorModel:
    """A network with one input. ``quantisation`` is the input's; ``arena_kib`` what Vela may plan
    with, None for what the board has; ``cpu`` are the operators that Vela leaves to the CPU.

    ``compiled_as``: the network that Vela makes of it by mistake; the compiled file is held to
    that. ``overwritten``: the compiled file gives something else, as it writes into a buffer before
    all has been read. ``refused``: why the simulator does not run the compiled file.
    """

    shape: tuple[int, ...]
    dtype: str
    build: Build
    quantisation: Mapping[str, Any]
    arena_kib: int | None
    cpu: tuple[str, ...]
    compiled_as: Build | None
    overwritten: bool
    refused: str

    def net(self, name: str) -> Net:
        """The network; the name is the seed of its weights."""
        return self._net(name, self.build)

    def compiled_net(self, name: str) -> Net:
        """The network whose outputs the compiled file must give."""
        return self._net(name, self.compiled_as or self.build)

    def _net(self, name: str, build: Build) -> Net:
        net = Net(name, self.dtype)
        made = build(net, net.input(*self.shape, **self.quantisation))
        net.output(*([made] if isinstance(made, Value) else made))
        return net


def model(
    *shape: int,
    build: Build,
    arena_kib: int | None = None,
    cpu: tuple[str, ...] = (),
    compiled_as: Build | None = None,
    overwritten: bool = False,
    refused: str = "",
    dtype: str = "int8",
    **quantisation: Any,
) -> OperatorModel:
    return OperatorModel(
        shape=shape,
        dtype=dtype,
        build=build,
        quantisation=quantisation,
        arena_kib=arena_kib,
        cpu=cpu,
        compiled_as=compiled_as,
        overwritten=overwritten,
        refused=refused,
    )
