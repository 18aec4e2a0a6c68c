"""Tells which layer each operation of the command streams is for, and adds up what layers cost.

Vela's debug database (debug_database.py of ethos-u-vela 4.5.0) lists the block operations of every
command stream in their order, each with the number of the operator that it computes; a layer may be
many, and those of layers in a cascade alternate. Its operators have no names, but they begin in the
order of Vela's list of layers. A Memcpy in that list has no block operation, only a DMA.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.results.compile import Counted
from stages.vela.npu.errors import NpuError
from stages.vela.npu.stream import decode
from stages.vela.npu.traffic import Cost, count

#: Vela writes tables as CSV in XML, and a path into an attribute as it is.
_TABLE = re.compile(r"<table name=['\"](\w+)['\"]>\s*<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_COPY = "Memcpy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queued:
    """A block operation in Vela's database: the number and the type of its operator."""

    number: int
    operator: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """What the command streams of a file do: each layer on the NPU in order, and all together."""

    layers: Sequence[Counted]
    total: Counted
    macs_per_cycle: int


def count_commands(
    payloads: Sequence[bytes], sequences: Sequence[Sequence[str]], database: Path
) -> Commands:
    """Count, given Vela's types of the layers of each command stream. Raises NpuError if a stream
    cannot be read, or the three do not agree."""
    streams = [decode(payload) for payload in payloads]
    queues = read_queues(database)
    if not len(streams) == len(sequences) == len(queues):
        raise NpuError(
            f"Vela lists {len(sequences)} parts of the network and {len(queues)} command streams, "
            f"the file has {len(streams)}"
        )
    costs = [count(stream) for stream in streams]
    return Commands(
        layers=[
            each
            for sequence, queue, own in zip(sequences, queues, costs, strict=True)
            for each in attribute(sequence, queue, own)
        ],
        total=_sum(each for own in costs for each in own),
        macs_per_cycle=streams[0].macs_per_cycle,
    )


def count_all(payloads: Sequence[bytes]) -> Counted | None:
    """All that command streams make the NPU do; None if there are none, or one cannot be read."""
    try:
        costs = [each for payload in payloads for each in count(decode(payload))]
    except NpuError:
        return None
    return _sum(costs) if costs else None


def read_queues(database: Path) -> list[list[Queued]]:
    """The block operations of each command stream, from the XML file of Vela's database."""
    tables = {
        name: list(csv.DictReader(io.StringIO(text.strip(), newline="")))
        for name, text in _TABLE.findall(database.read_text(encoding="utf-8"))
    }
    types = {row["id"]: row["operator"] for row in tables["optimised"]}
    queues: dict[int, list[Queued]] = {int(row["id"]): [] for row in tables["cmdstream"]}
    for row in tables["queue"]:
        number = row["optimised_id"]
        queues[int(row["cmdstream_id"])].append(Queued(number=int(number), operator=types[number]))
    return [queue for _, queue in sorted(queues.items())]


def attribute(
    operators: Sequence[str], queue: Sequence[Queued], costs: Sequence[Cost]
) -> list[Counted]:
    """What each layer costs, given the layers' types, as Vela names them, in their order.

    A DMA counts for the layer that reads what it wrote; one that none reads counts for no layer.
    Raises NpuError if database, layers and stream do not agree.
    """
    numbers = list(dict.fromkeys(each.number for each in queue))
    types = {each.number: each.operator for each in queue}
    if [types[number] for number in numbers] != [each for each in operators if each != _COPY]:
        raise NpuError("Vela's database and its list of layers name different operators")
    blocks = [index for index, each in enumerate(costs) if each.serves == index]
    if len(blocks) != len(queue):
        raise NpuError(
            f"the command stream has {len(blocks)} block operations, Vela's database {len(queue)}"
        )
    layer_of = {index: each.number for index, each in zip(blocks, queue, strict=True)}
    of_layer: dict[int, list[Cost]] = {number: [] for number in numbers}
    for each in costs:
        if each.serves is not None:
            of_layer[layer_of[each.serves]].append(each)
    found = iter(numbers)
    return [_sum([] if each == _COPY else of_layer[next(found)]) for each in operators]


def _sum(costs: Iterable[Cost]) -> Counted:
    known = list(costs)
    return Counted(
        macs=sum(each.macs for each in known),
        floor_cycles=sum(each.floor_cycles for each in known),
        blocks=sum(each.blocks for each in known),
        flash_bytes=sum(each.flash_bytes for each in known),
        sram_bytes=sum(each.sram_bytes for each in known),
    )
