"""The memories that a command stream addresses, and tensors in them.

How a feature map lies in memory: register_command_stream_util.py, get_address, in ethos-u-vela
4.5.0. Every address is checked against its region before anything is read or written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.vela.npu.errors import NpuError
from stages.vela.npu.operations import BRICK, SHRAM, FeatureMap, Span

Bytes = NDArray[np.uint8]
#: The largest networks for such an NPU have tensors of a tenth of it.
MOST_ELEMENTS = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """``regions``: the bytes behind each base pointer of the driver, or behind ``SHRAM``. They must
    be C-contiguous; one that is not writeable is flash."""

    regions: Mapping[int, Bytes]

    def bytes(self, span: Span, what: str) -> Bytes:
        """The bytes of a span, a view; raises NpuError if they are not in its region."""
        region = self._region(span.region, what)
        if span.address + span.length > len(region):
            raise NpuError(
                f"{what} is {span.length} bytes at {span.address:#x} of "
                f"{_region_name(span.region)}, which has {len(region)}"
            )
        return region[span.address : span.address + span.length]

    def copy(self, source: Span, destination: Span, what: str) -> None:
        """Raises NpuError for a destination in flash."""
        target = self.bytes(destination, f"the destination of {what}")
        if not target.flags.writeable:
            raise NpuError(f"{what} writes to {_region_name(destination.region)}, which is flash")
        target[:] = self.bytes(source, f"the source of {what}").copy()

    def read(self, tensor: FeatureMap, what: str) -> NDArray[Any]:
        """The integers [height, width, depth]; perhaps a view. Raises NpuError."""
        pieces = list(self._pieces(tensor, what))
        (_, view), *more = pieces
        if not more and view.shape[2] == 1:
            return view[:, :, 0, :]
        values = np.empty((tensor.height, tensor.width, tensor.depth), view.dtype)
        for place, view in pieces:
            values[place] = view.reshape(*view.shape[:2], -1)
        return values

    def write(self, tensor: FeatureMap, values: NDArray[Any], what: str) -> None:
        """Write [height, width, depth] of the tensor's type; raises NpuError."""
        if not self._region(tensor.region, what).flags.writeable:
            raise NpuError(f"{what} lies in {_region_name(tensor.region)}, which is flash")
        for place, view in self._pieces(tensor, what):
            view[...] = values[place].reshape(view.shape)

    def _pieces(self, tensor: FeatureMap, what: str) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Parts of a tensor whose values lie at even distances: where they are in it, and a view
        [rows, columns, bricks, channels of a brick]."""
        region = self._region(tensor.region, what)
        # Distances of 0 could make a tensor of any size of a few bytes. Tiles may show an edge
        # twice (high_level_command_to_npu_op.py, modify_tile_addresses_for_padding), and no more.
        if tensor.elements > MOST_ELEMENTS or tensor.nbytes > 2 * len(region):
            raise NpuError(f"{what} has {tensor.elements} values, more than fit its region")
        for tile, (rows, columns) in enumerate(_tiles(tensor)):
            if rows.start < rows.stop and columns.start < columns.stop:
                for channels, bricks in _brick_runs(tensor):
                    shape = (rows.stop - rows.start, columns.stop - columns.start, *bricks)
                    address = tensor.bases[tile] + channels.start // BRICK * tensor.stride_c
                    view = _view(region, tensor, address, shape, what)
                    yield (rows, columns, channels), view

    def _region(self, number: int, what: str) -> Bytes:
        if number not in self.regions:
            raise NpuError(f"{what} lies in {_region_name(number)}, which this file has not")
        return self.regions[number]


def dtype_of(tensor: FeatureMap) -> np.dtype[Any]:
    """The type of a feature map's integers, as they lie in memory."""
    return np.dtype(f"<{'i' if tensor.signed else 'u'}{tensor.bits // 8}")


def _tiles(tensor: FeatureMap) -> list[tuple[slice, slice]]:
    """Rows and columns of each tile: top left, top right, bottom left, bottom right."""
    height, width = tensor.height, tensor.width
    left, right = slice(0, min(tensor.width0, width)), slice(tensor.width0, width)
    return [
        (slice(0, min(tensor.height0, height)), left),
        (slice(0, min(tensor.height1, height)), right),
        (slice(tensor.height0, height), left),
        (slice(tensor.height1, height), right),
    ]


def _brick_runs(tensor: FeatureMap) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Channels that lie at even distances, and their number of bricks and channels of a brick."""
    if tensor.layout == "nhwc":
        yield slice(0, tensor.depth), (1, tensor.depth)
        return
    whole = tensor.depth // BRICK
    if whole:
        yield slice(0, whole * BRICK), (whole, BRICK)
    if tensor.depth % BRICK:
        yield slice(whole * BRICK, tensor.depth), (1, tensor.depth % BRICK)


def _view(
    region: Bytes, tensor: FeatureMap, address: int, shape: tuple[int, ...], what: str
) -> NDArray[Any]:
    """Values of a region at even distances; raises NpuError if one lies outside."""
    size = tensor.bits // 8
    # In bricks the distance of columns is fixed.
    stride_x = BRICK * size if tensor.layout == "nhcwb16" else tensor.stride_x
    steps = (tensor.stride_y, stride_x, tensor.stride_c, size)
    reaches = [(count - 1) * step for count, step in zip(shape, steps, strict=True)]
    first = address + sum(min(0, reach) for reach in reaches)
    end = address + sum(max(0, reach) for reach in reaches) + size
    if first < 0 or end > len(region):
        raise NpuError(
            f"{what} lies from {first:#x} to {end:#x} of {_region_name(tensor.region)}, which has "
            f"{len(region):#x} bytes"
        )
    # Of one row or brick the distance to the next means nothing.
    strides = tuple(step if count > 1 else 0 for count, step in zip(shape, steps, strict=True))
    return np.ndarray(shape, dtype_of(tensor), buffer=region.data, offset=address, strides=strides)


def _region_name(number: int) -> str:
    names = {SHRAM: "SHRAM", 0: "region 0 (constants)", 1: "region 1 (scratch)"}
    return names.get(number, f"region {number}")
