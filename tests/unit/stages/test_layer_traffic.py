"""Which layer an operation of a command stream is for, by Vela's debug database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.results.compile import Counted
from stages.vela.npu.errors import NpuError
from stages.vela.npu.traffic import Cost
from stages.vela.tflite.layer_traffic import Queued, attribute, read_queues

DATABASE = """<?xml version='1.0' encoding='UTF-8'?>
<debug source="/tmp/a "b" & c/int8.tflite" optimised="int8_vela.tflite">
  <table name='source'><![CDATA["id","operator"\r
0,"Conv2DBias"\r
]]></table>
  <table name='optimised'><![CDATA["id","source_id","operator"\r
7,0,"Conv2DBias"\r
9,0,"Add"\r
]]></table>
  <table name='queue'><![CDATA["offset","cmdstream_id","optimised_id"\r
328,0,9\r
100,1,7\r
504,0,7\r
]]></table>
  <table name='cmdstream'><![CDATA["id","file_offset"\r
0,1901296\r
1,2901296\r
]]></table>
</debug>
"""
CONV, ADD = "Conv2DBias", "Add"


def cost(serves: int | None, macs: int = 0, flash_bytes: int = 0) -> Cost:
    return Cost(
        serves=serves,
        macs=macs,
        blocks=0 if macs == 0 else 1,
        floor_cycles=macs,
        flash_bytes=flash_bytes,
        sram_bytes=0,
    )


def queue(*numbers: int) -> list[Queued]:
    return [Queued(number=number, operator=ADD if number == 9 else CONV) for number in numbers]


def figures(counted: list[Counted]) -> list[tuple[int, int, int]]:
    return [(each.macs, each.blocks, each.flash_bytes) for each in counted]


def test_the_database_lists_the_operations_of_each_stream(tmp_path: Path) -> None:
    file = tmp_path / "debug.xml"
    file.write_bytes(DATABASE.encode())
    assert read_queues(file) == [queue(9, 7), queue(7)]


def test_a_layer_is_the_sum_of_its_slices_and_their_weights() -> None:
    costs = [cost(1, flash_bytes=50), cost(1, 8), cost(3, flash_bytes=40), cost(3, 8), cost(4, 2)]
    assert figures(attribute([CONV, ADD], queue(7, 7, 9), costs)) == [(16, 2, 90), (2, 1, 0)]


def test_layers_of_a_cascade_alternate() -> None:
    costs = [cost(0, 1), cost(1, 10), cost(2, 2), cost(3, 20)]
    assert figures(attribute([CONV, CONV], queue(4, 6, 4, 6), costs)) == [(3, 2, 0), (30, 2, 0)]


def test_a_copy_has_no_block_and_a_transfer_for_nobody_no_layer() -> None:
    costs = [cost(1, flash_bytes=5), cost(1, 3), cost(None, flash_bytes=7)]
    assert figures(attribute(["Memcpy", CONV], queue(4), costs)) == [(0, 0, 0), (3, 1, 5)]


@pytest.mark.parametrize(
    ("operators", "numbers", "words"),
    [
        ([CONV, CONV], (7, 9), "name different operators"),
        ([CONV], (7, 9), "name different operators"),
        ([CONV, ADD], (7, 9, 9), "has 2 block operations, Vela's database 3"),
    ],
)
def test_what_does_not_agree_is_refused(
    operators: list[str], numbers: tuple[int, ...], words: str
) -> None:
    with pytest.raises(NpuError, match=re.escape(words)):
        attribute(operators, queue(*numbers), [cost(0, 1), cost(1, 1)])
