"""Decodes the compressed weights of a convolution.

Source: ethos-u-vela 3.12.0 (its source archive, Apache-2.0), ethosu/mlw_codec/mlw_encode.c
(`reorder`, `encode_slice`) and mlw_decode.c. A stream is a row of slices, each with a palette and
a way to code; weights, and where it pays runs of zeros between them, are Golomb-Rice coded in
chunks of 12 bits of unary, whose remainders follow with the next chunk.

A chunk tells where the next one begins, so a short loop finds the chunks, and numpy decodes all
symbols of a slice at a time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from stages.vela.npu.errors import NpuError

Positions = NDArray[np.int64]

_END_OF_STREAM = 7
_NO_ZERO_RUNS = 6
_UNCOMPRESSED = 7
_CHUNK = 12
#: Hardware has 9 bits for a weight.
_MOST_CODE = 511
_ONES = np.array([bin(code).count("1") for code in range(1 << _CHUNK)], np.int64)
_ONES_LIST = _ONES.tolist()


class _Bits:
    """A stream of bits, least significant first; reading beyond its end is an error."""

    def __init__(self, data: bytes) -> None:
        self.size = 8 * len(data)
        self._data = data
        padded = np.frombuffer(data + bytes(8), np.uint8).astype(np.uint32)
        self._words = padded[:-3] | padded[1:-2] << 8 | padded[2:-1] << 16 | padded[3:] << 24

    def take(self, at: int, count: int) -> int:
        """``count`` bits, at most 24, from ``at`` on."""
        if at + count > self.size:
            raise NpuError("the weights end in the middle of a slice")
        byte = at >> 3
        word = int.from_bytes(self._data[byte : byte + 4], "little")
        return word >> (at & 7) & ((1 << count) - 1)

    def take_all(self, at: Positions, count: int) -> NDArray[np.int64]:
        """``count`` bits from each position on, which have been checked."""
        word = self._words[at >> 3] >> (at & 7).astype(np.uint32)
        return (word & np.uint32((1 << count) - 1)).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
    """``zero_bits`` and ``weight_bits``: of the remainders, the divisors' logarithms."""

    count: int
    zero_runs: bool
    zero_bits: int
    weight_bits: int
    uncompressed: bool
    truncated: bool
    new_palette: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Palette:
    colours: NDArray[np.int64]
    offset: int
    bits: int
    zero_runs: bool


@dataclasses.dataclass
class _Chunks:
    """Where the parts of the chunks of a slice begin."""

    unary0: list[int] = dataclasses.field(default_factory=list)
    unary1: list[int] = dataclasses.field(default_factory=list)
    weights: list[int] = dataclasses.field(default_factory=list)
    zero_unary: list[int] = dataclasses.field(default_factory=list)
    zeros: list[int] = dataclasses.field(default_factory=list)


def decode_weights(data: bytes, most: int) -> NDArray[np.int16]:
    """The weights of a stream, in the order in which the NPU takes them; raises NpuError if it is
    damaged or has more than ``most``."""
    bits = _Bits(data)
    parts: list[NDArray[np.int64]] = []
    palette: _Palette | None = None
    at = total = 0
    while (start := _next_slice(bits, at)) is not None:
        at, ended = start
        palette = None if ended else palette
        header, at = _header(bits, at, palette)
        if header.new_palette:
            palette, at = _palette(bits, at, header)
        if palette is None:
            raise NpuError("the weights do not begin with a palette")
        header = _with_bits(header, palette)
        values, at = _slice(bits, at, header, palette, most - total)
        parts.append(values)
        total += len(values)
    return np.concatenate(parts).astype(np.int16) if parts else np.zeros(0, np.int16)


def _next_slice(bits: _Bits, at: int) -> tuple[int, bool] | None:
    """Where the next slice begins, and whether an end of stream lies before it; None at the end."""
    ended = at == 0
    while at < bits.size and bits.take(at, 3) == _END_OF_STREAM:
        at = -(-(at + 3) // 8) * 8
        ended = True
    return None if at >= bits.size else (at, ended)


def _header(bits: _Bits, at: int, palette: _Palette | None) -> tuple[_Header, int]:
    word = bits.take(at, 23)
    zero_bits, weight_bits = word & 7, word >> 18 & 7
    if zero_bits in (4, 5) or weight_bits == 6:
        raise NpuError("the weights have a slice of a kind that does not exist")
    zero_runs = zero_bits != _NO_ZERO_RUNS
    new_palette = bool(word >> 22 & 1)
    if not new_palette and palette is not None and palette.zero_runs != zero_runs:
        raise NpuError("the weights change between runs of zeros and none without a palette")
    header = _Header(
        count=(word >> 3 & 0x7FFF) + 1,
        zero_runs=zero_runs,
        zero_bits=zero_bits if zero_runs else 0,
        weight_bits=weight_bits,
        uncompressed=weight_bits == _UNCOMPRESSED,
        truncated=bool(word >> 21 & 1),
        new_palette=new_palette,
    )
    return header, at + 23


def _palette(bits: _Bits, at: int, header: _Header) -> tuple[_Palette, int]:
    word = bits.take(at, 13)
    size = word >> 5 & 31
    size += size > 0
    width = (word >> 10 & 7) + 2
    at += 13
    if at + size * width > bits.size:
        raise NpuError("the weights end in the middle of a palette")
    colours = bits.take_all(at + width * np.arange(size), width)
    palette = _Palette(colours=colours, offset=word & 31, bits=width, zero_runs=header.zero_runs)
    return palette, at + size * width


def _with_bits(header: _Header, palette: _Palette) -> _Header:
    """Without compression a weight is an index into the palette, or the weight itself."""
    if not header.uncompressed:
        return header
    size = len(palette.colours)
    width = (size - 1).bit_length() if size else palette.bits
    return dataclasses.replace(header, weight_bits=width, truncated=True)


def _slice(
    bits: _Bits, at: int, header: _Header, palette: _Palette, most: int
) -> tuple[NDArray[np.int64], int]:
    chunks, at = _find_chunks(bits, at, header)
    codes = _codes(bits, chunks, header)
    if codes.max(initial=0) > _MOST_CODE:
        raise NpuError("the weights have one of more than 9 bits")
    colours, size = palette.colours, len(palette.colours)
    values = codes - size + palette.offset
    if size:
        values = np.where(codes < size, colours[np.minimum(codes, size - 1)], values)
    weights = np.where(values & 1, -(values >> 1), values >> 1)
    if not header.zero_runs:
        _check_count(len(weights), most)
        return weights, at
    return _with_zeros(weights, _zero_runs(bits, chunks, header), header, most), at


def _find_chunks(bits: _Bits, at: int, header: _Header) -> tuple[_Chunks, int]:
    """Walk over a slice, whose weights and runs of zeros take turns (mlw_decode.c, the loop over
    all chunks)."""
    chunks = _Chunks()
    count = header.count
    runs = count + header.new_palette if header.zero_runs else 0
    width = 8 if header.zero_bits == 3 else _CHUNK
    symbols = 8 if header.uncompressed and header.weight_bits > 5 else _CHUNK
    weights = zeros = read_weights = read_zeros = 0
    waiting_weights = waiting_zeros = 0
    while True:
        balance = weights - zeros if header.zero_runs else 0
        take_weights = balance < 8 and weights < count
        take_zeros = header.zero_runs and balance >= 0 and zeros < runs
        new_weights = new_zeros = unary0 = 0
        if take_weights and not header.uncompressed:
            unary0 = bits.take(at, _CHUNK)
            chunks.unary0.append(at)
            at += _CHUNK
        if take_zeros:
            new_zeros = width - _ONES_LIST[bits.take(at, width)]
            chunks.zero_unary.append(at)
            at += width
        if take_weights:
            new_weights = symbols
            if not header.uncompressed:
                length = _ONES_LIST[unary0]
                unary1 = bits.take(at, length)
                chunks.unary1.append(at)
                at += length
                if not header.truncated:
                    new_weights -= _ONES_LIST[unary1]
        weights += new_weights
        zeros += new_zeros
        present = min(waiting_weights, count - read_weights)
        if present > 0:
            chunks.weights.append(at)
            at += present * header.weight_bits
            read_weights += present
        present = min(waiting_zeros, runs - read_zeros)
        if present > 0:
            chunks.zeros.append(at)
            at += present * header.zero_bits
            read_zeros += present
        waiting_weights, waiting_zeros = new_weights, new_zeros
        if not take_weights and not take_zeros:
            return chunks, at
        if at > bits.size:
            raise NpuError("the weights end in the middle of a slice")


def _codes(bits: _Bits, chunks: _Chunks, header: _Header) -> NDArray[np.int64]:
    """The code of each weight: the unary part's quotient, and the remainder."""
    count = header.count
    if header.uncompressed:
        per_chunk = np.full(len(chunks.weights), 8 if header.weight_bits > 5 else _CHUNK)
        return _remainders(bits, chunks.weights, per_chunk, header.weight_bits, count)
    unary0 = bits.take_all(np.array(chunks.unary0, np.int64), _CHUNK)
    unary1 = bits.take_all(np.array(chunks.unary1, np.int64), _CHUNK)
    ones = unary0[:, None] >> np.arange(_CHUNK) & 1
    second = np.cumsum(ones, axis=1) - ones
    steps = ones + (ones & unary1[:, None] >> second)
    ends = np.ones_like(steps, bool) if header.truncated else steps < 2
    totals = np.cumsum(steps.ravel())[ends.ravel()]
    quotients = np.diff(totals, prepend=0)[:count]
    per_chunk = ends.sum(axis=1)
    rest = _remainders(bits, chunks.weights, per_chunk, header.weight_bits, count)
    return (quotients << header.weight_bits) + rest


def _zero_runs(bits: _Bits, chunks: _Chunks, header: _Header) -> NDArray[np.int64]:
    width = 8 if header.zero_bits == 3 else _CHUNK
    runs = header.count + header.new_palette
    unary = bits.take_all(np.array(chunks.zero_unary, np.int64), width)
    ones = unary[:, None] >> np.arange(width) & 1
    ends = ones == 0
    totals = np.cumsum(ones.ravel())[ends.ravel()]
    quotients = np.diff(totals, prepend=0)[:runs]
    rest = _remainders(bits, chunks.zeros, ends.sum(axis=1), header.zero_bits, runs)
    return (quotients << header.zero_bits) + rest


def _remainders(
    bits: _Bits, starts: list[int], per_chunk: NDArray[np.int64], width: int, count: int
) -> NDArray[np.int64]:
    """The remainders of ``count`` symbols, of which each chunk has some. A chunk without symbols
    has no start."""
    per_chunk = per_chunk[per_chunk > 0][: len(starts)]
    firsts = np.repeat(np.array(starts, np.int64), per_chunk)
    numbers = np.arange(len(firsts)) - np.repeat(np.cumsum(per_chunk) - per_chunk, per_chunk)
    positions = (firsts + numbers * width)[:count]
    if len(positions) < count:
        raise NpuError("the weights have a slice with fewer than it says")
    if width == 0:
        return np.zeros(count, np.int64)
    if positions.max(initial=0) + width > bits.size:
        raise NpuError("the weights end in the middle of a slice")
    return bits.take_all(positions, width)


def _with_zeros(
    weights: NDArray[np.int64], runs: NDArray[np.int64], header: _Header, most: int
) -> NDArray[np.int64]:
    """Weights with a run of zeros after each, and with a new palette one before the first."""
    total = len(weights) + int(runs.sum())
    _check_count(total, most)
    before = runs[:1].sum() if header.new_palette else 0
    after = runs[1:] if header.new_palette else runs
    result = np.zeros(total, np.int64)
    result[before + np.arange(len(weights)) + np.cumsum(after) - after] = weights
    return result


def _check_count(found: int, most: int) -> None:
    if found > most:
        raise NpuError("there are more weights than the operation has use for")
